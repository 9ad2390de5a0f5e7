"""Compilation of the hot loops, and the exponential function they share."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_f = np.float32
_PER_LN2, _LN2_HIGH, _LN2_LOW = _f(1 / math.log(2)), _f(0.693359375), _f(math.log(2) - 0.693359375)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, which then releases the lock of the interpreter (GIL)."""
    # Without infinities and NaN, minima and maxima are single instructions.
    exact = {"nnan", "ninf", "nsz", "contract"}
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=exact)
    try:
        return compiler(function, cache=True)
    except RuntimeError:  # no folder to cache compiled code in can be written to
        return compiler(function)


@compiled
def exp(x: Any) -> Any:
    """Compute the exponential function to 3e-6.

    2^n times the Taylor series of the remainder, which is within +-log(2)/2.
    """
    n = np.floor(x * _PER_LN2 + _f(0.5))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = _f(1 / 120)
    for factor in (_f(1 / 24), _f(1 / 6), _f(0.5), _f(1), _f(1)):
        series = series * r + factor
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
