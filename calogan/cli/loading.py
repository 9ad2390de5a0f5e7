"""Load models and read options for the commands."""

from typing import TYPE_CHECKING

from calogan import quiet
from calogan.errors import RequestError
from calogan.serving.keys import KEY_VARIABLE, read_key
from calogan.tracking.location import locate

if TYPE_CHECKING:
    from calogan.generation.generator import Generator


def names(text: str) -> list[str]:
    """Split a list such as `int8,float32`."""
    return [name.strip() for name in text.split(",")]


def load_generator(model: str, precision: str, threads: int) -> "Generator":
    """Load one precision of a model without TensorFlow's start-up messages."""
    quiet.load_tensorflow()
    from calogan.generation.generator import load  # noqa: PLC0415

    return load(locate(model, precision), precision=precision, threads=threads)


def api_key() -> str:
    """Read the key of the endpoint from the environment.

    Raises:
        RequestError: it is not set.
    """
    key = read_key()
    if not key:
        raise RequestError(f"{KEY_VARIABLE} is not set; export {KEY_VARIABLE}=... with the key of the endpoint")
    return key
