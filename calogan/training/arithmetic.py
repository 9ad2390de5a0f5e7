"""The arithmetic of a training: float32, or bfloat16 with float32 weights."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import keras

from calogan import provenance
from calogan.errors import ConfigError

_NATIVE = "AVX512_BF16"  # elsewhere bfloat16 is emulated, slower than float32


def choose(arithmetic: Literal["auto", "float32", "bfloat16"], *, family: str, allowed: bool) -> str:
    """Return the Keras dtype policy for the networks of a training.

    Args:
        arithmetic: as configured.
        family: generator family, for the message.
        allowed: whether the family may be trained in bfloat16.

    Raises:
        ConfigError: bfloat16 is configured for a family that needs float32.
    """
    if arithmetic == "bfloat16" and not allowed:
        raise ConfigError(f"training.arithmetic: {family} is trained in float32; choose float32 or auto")
    native = _NATIVE in provenance.cpu()["isa"].split()
    use = arithmetic == "bfloat16" or (arithmetic == "auto" and allowed and native)
    return "mixed_bfloat16" if use else "float32"


@contextlib.contextmanager
def layers_in(policy: str) -> Iterator[None]:
    """Let new layers have a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
