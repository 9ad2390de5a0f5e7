"""Models by the names people give them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from calogan import quiet
from calogan.errors import RequestError

if TYPE_CHECKING:
    from calogan.generation.generator import Generator

KEY_VARIABLE = "CALOGAN_API_KEY"


def names(listed: str) -> list[str]:
    """Take apart a list such as `int8,float32`."""
    return [name.strip() for name in listed.split(",")]


def named_files(given: Iterable[str]) -> dict[str, str]:
    """Take apart `NAME=FILE`; a file without a name has that of its stem.

    Raises:
        RequestError: two have one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or Path(text).exists():
            name, path = Path(text).stem, text
        if name in found:
            raise RequestError(f"two candidates are called {name!r}; give names: --candidate NAME=FILE")
        found[name] = path
    return found


def load_generator(model: str, precision: str, threads: int) -> "Generator":
    """Load one precision of a model, with TensorFlow kept quiet."""
    quiet.load_tensorflow()
    from calogan.generation.generator import load  # noqa: PLC0415

    return load(fetched(model, precision), precision=precision, threads=threads)


def fetched(model: str, precision: str) -> str | Path:
    """Return where a model is, fetched from the registry if its name says so."""
    if not model.startswith("models:/"):
        return model
    from calogan.tracking.registry import fetch  # noqa: PLC0415

    return fetch(model, precision=precision)


def api_key() -> str:
    """Read the key of the endpoint from the environment.

    Raises:
        RequestError: it is not set.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise RequestError(f"{KEY_VARIABLE} is not set; export {KEY_VARIABLE}=... with the key of the endpoint")
    return key
