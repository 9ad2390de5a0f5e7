"""The sampling fluctuation of one cell: a compound Poisson law.

A silicon cell is crossed by a Poisson number of particles and each leaves an energy that is close to
exponentially distributed (in Geant4 showers the logarithm of a lone deposit has spread 1.2 and skewness
-1.0; an exponential law has 1.28 and -1.14). With `rate` crossings expected and `quantum` GeV for each,

    P(E = 0) = exp(-rate),
    f(E) = exp(-rate - x) sqrt(rate / x) I1(2 sqrt(rate x)) / quantum,    x = E / quantum > 0,

the Tweedie law of power 3/2 (Jorgensen, The Theory of Dispersion Models, 1997, section 4.2): mean
rate * quantum, variance 2 rate quantum^2. So one number per cell, its expected energy, fixes how often it
is empty and how much it fluctuates.
"""

import functools
import math

import numpy as np
from keras import ops
from numpy.typing import NDArray
from scipy import special, stats

from calogan.networks.base import Tensor

# The table of quantiles: log of the rate by standard normal deviate.
LOG_RATE_MIN, LOG_RATE_MAX, LOG_RATE_STEPS = math.log(1e-4), math.log(3e3), 128
NORMAL_MAX, NORMAL_STEPS = 4.4, 89

# Coefficients of I1 (Abramowitz and Stegun, Handbook of Mathematical Functions, 9.8.3 and 9.8.4).
_I1_BELOW = (0.5, 0.87890594, 0.51498869, 0.15084934, 0.02658733, 0.00301532, 0.00032411)
_I1_ABOVE = (
    0.39894228, -0.03988024, -0.00362018, 0.00163801, -0.01031555, 0.02282967, -0.02895312, 0.01787654, -0.00420059
)  # fmt: skip
_I1_LIMIT = 3.75


def log_likelihood(energy: Tensor, rate: Tensor, quantum: Tensor) -> Tensor:
    """Logarithm of the density of deposited energies (of the probability, where a cell is empty).

    Args:
        energy: deposited energies, GeV, any shape; 0 for an empty cell.
        rate: expected numbers of crossings, same shape, > 0.
        quantum: mean deposits of one crossing, GeV, same shape or broadcastable.
    """
    hit = energy > 0
    x = ops.where(hit, energy / quantum, 1.0)
    y = 2.0 * ops.sqrt(rate * x)
    density = -ops.square(ops.sqrt(rate) - ops.sqrt(x)) + 0.5 * ops.log(rate / x) + _log_i1e(y) - ops.log(quantum)
    return ops.where(hit, density, -rate)


def sample(rate: Tensor, normal: Tensor) -> Tensor:
    """Draw deposited energies in units of the quantum, as a differentiable function of the rate.

    The quantile of the law is read from a table by linear interpolation in (log rate, normal deviate). It
    rises from 0 without a jump, since the density of a lone deposit is finite at 0: so gradients with
    respect to the rate are those of the sample path.

    Args:
        rate: expected numbers of crossings, any shape, > 0.
        normal: independent standard normal numbers, same shape.
    """
    table = ops.convert_to_tensor(quantile_table().reshape(-1))
    log_rate = ops.clip(ops.log(rate), LOG_RATE_MIN, LOG_RATE_MAX)
    row = (log_rate - LOG_RATE_MIN) * ((LOG_RATE_STEPS - 1) / (LOG_RATE_MAX - LOG_RATE_MIN))
    column = (ops.clip(normal, -NORMAL_MAX, NORMAL_MAX) + NORMAL_MAX) * ((NORMAL_STEPS - 1) / (2 * NORMAL_MAX))
    row0 = ops.clip(ops.floor(row), 0, LOG_RATE_STEPS - 2)
    column0 = ops.clip(ops.floor(column), 0, NORMAL_STEPS - 2)
    v, w = row - row0, column - column0
    corner = ops.cast(row0 * NORMAL_STEPS + column0, "int32")
    low = ops.take(table, corner) * (1 - w) + ops.take(table, corner + 1) * w
    high = ops.take(table, corner + NORMAL_STEPS) * (1 - w) + ops.take(table, corner + NORMAL_STEPS + 1) * w
    return ops.relu(low * (1 - v) + high * v) * (1 + rate)


@functools.cache
def quantile_table() -> NDArray[np.float32]:
    """Quantiles of E / quantum divided by (1 + rate), shape (LOG_RATE_STEPS, NORMAL_STEPS).

    Row: rate, evenly spaced in its logarithm. Column: standard normal deviate, evenly spaced. Below the
    deviate at which a cell becomes empty the table goes on with the slope it has there, so that linear
    interpolation followed by max(0, .) keeps the probability of an empty cell.
    """
    rates = np.exp(np.linspace(LOG_RATE_MIN, LOG_RATE_MAX, LOG_RATE_STEPS))
    deviates = np.linspace(-NORMAL_MAX, NORMAL_MAX, NORMAL_STEPS)
    rows = [_quantiles(rate, deviates) / (1 + rate) for rate in rates]
    return np.asarray(rows, dtype=np.float32)


@functools.cache
def normal_table() -> NDArray[np.float32]:
    """The standard normal deviate of each of 65,536 equally probable numbers, shape (65536,)."""
    return np.asarray(special.ndtri((np.arange(2**16) + 0.5) / 2**16), dtype=np.float32)


def _quantiles(rate: float, deviates: NDArray[np.float64]) -> NDArray[np.float64]:
    top = 1.25 * (rate + 8 * math.sqrt(2 * rate)) + 22
    x = np.concatenate([np.geomspace(1e-7, 1e-2, 50), np.linspace(math.sqrt(1.2e-2), math.sqrt(top), 1500) ** 2])
    number = np.arange(1, int(rate + 12 * math.sqrt(rate) + 30))
    weights = stats.poisson.pmf(number, rate)
    keep = weights > 1e-16
    # P(E > x): summed from above, so that the upper tail keeps its digits.
    above = special.gammaincc(number[keep, None], x[None, :]).T @ weights[keep]
    normal = -special.ndtri(np.clip(above, 1e-300, 1 - 1e-16))
    normal, first = np.unique(normal, return_index=True)
    values: NDArray[np.float64] = np.interp(deviates, normal, x[first])
    empty_below = special.ndtri(np.exp(-rate))
    slope = np.exp(-0.5 * empty_below**2) / math.sqrt(2 * math.pi) / (rate * np.exp(-rate)) if rate < 30 else 0.0
    below = deviates < empty_below
    values[below] = (deviates[below] - empty_below) * slope
    return values


def _log_i1e(y: Tensor) -> Tensor:
    """Logarithm of exp(-y) I1(y), y > 0, to 1e-6."""
    above = ops.maximum(y, _I1_LIMIT)
    small = _polynomial(ops.square(ops.minimum(y, _I1_LIMIT) / _I1_LIMIT), _I1_BELOW)
    large = _polynomial(_I1_LIMIT / above, _I1_ABOVE)
    return ops.where(y < _I1_LIMIT, ops.log(small) + ops.log(y) - y, ops.log(large) - 0.5 * ops.log(above))


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
