"""The sampling fluctuation of one cell: a compound Poisson law.

A silicon cell is crossed by a Poisson number of particles, `rate` on average, and each deposits an energy with the mean
`quantum` and the law g of `deposits`. So one number per cell, its expected energy rate * quantum, fixes the probability
that it is empty, P(E = 0) = exp(-rate), and its variance, rate * quantum^2 * (1 + v) with v the relative variance of g.

For an exponential g (v = 1) the density has a closed form,

    f(E) = exp(-rate - x) sqrt(rate / x) I1(2 sqrt(rate x)) / quantum,    x = E / quantum > 0,

the Tweedie law of power 3/2 (Jorgensen, The Theory of Dispersion Models, 1997, section 4.2). For any other g the density
is computed by a Fourier transform and stored as a table of its logarithm, relative to the Tweedie law with the same mean
and variance, which is its limit for high rates.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from keras import ops
from numpy.typing import NDArray
from scipy import special

from calogan.networks import deposits
from calogan.networks.base import Tensor

# Tables: rate by standard normal deviate, or by log of the energy in quanta. The rates are evenly spaced between powers of
# two, so that the bits of a float give its row in a table.
PER_OCTAVE = 4
_OCTAVE_MIN, _OCTAVE_MAX = -20, 12
RATES = np.concatenate(
    [2.0**octave * (1 + np.arange(PER_OCTAVE) / PER_OCTAVE) for octave in range(_OCTAVE_MIN, _OCTAVE_MAX)]
)
NORMAL_MAX, NORMAL_STEPS = 4.4, 89
_LOG_X_MIN, _LOG_X_MAX, _LOG_X_STEPS = math.log(1e-3), math.log(200.0), 245

_MANY = 60.0  # crossings; above, the law is close to the Tweedie law, and a coarser grid suffices
_FEW_STEP, _MANY_STEP = 0.02, 0.1  # steps of the grids of energies, quanta
_NOISE = 1e-12  # densities below are rounding errors of the transform

# Coefficients of I1 (Abramowitz and Stegun, Handbook of Mathematical Functions, 9.8.3 and 9.8.4).
_I1_BELOW = (0.5, 0.87890594, 0.51498869, 0.15084934, 0.02658733, 0.00301532, 0.00032411)
_I1_ABOVE = (
    0.39894228, -0.03988024, -0.00362018, 0.00163801, -0.01031555, 0.02282967, -0.02895312, 0.01787654, -0.00420059
)  # fmt: skip
_I1_LIMIT = 3.75

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Law:
    """A law of single deposits and the tables computed from it.

    Attributes:
        quantiles: E / quantum divided by (1 + rate), shape (128, NORMAL_STEPS). Row: rate, see RATES. Column: standard
            normal deviate, evenly spaced. Below the deviate at which a cell becomes empty the table continues with a
            constant slope, so that linear interpolation followed by max(0, .) keeps the probability of an empty cell.
        corrections: logarithm of the density over that of the Tweedie law, shape (128, 245); 0 for high rates.
        mean: mean of a deposit, GeV.
        variation: relative variance of a deposit; 1 for an exponential law.
    """

    quantiles: NDArray[np.float32]
    corrections: NDArray[np.float32]
    mean: float
    variation: float


def law(probability: Floats) -> Law:
    """The tables of a law of single deposits, shape (deposits.BINS,)."""
    return _law(np.asarray(probability, np.float64).tobytes())


@functools.lru_cache(maxsize=8)
def _law(probability: bytes) -> Law:
    g = np.frombuffer(probability, np.float64)
    mean, variation = deposits.moments(g)
    deviates = np.linspace(-NORMAL_MAX, NORMAL_MAX, NORMAL_STEPS)
    quantiles, corrections = [], []
    for rate in RATES:
        several = _several(g, rate)
        quantiles.append(_quantiles(g, rate, several, deviates) / (1 + rate))
        corrections.append(np.clip(_corrections(g, rate, several, variation), -5, 5))
    return Law(np.asarray(quantiles, np.float32), np.asarray(corrections, np.float32), mean, variation)


def log_likelihood(energy: Tensor, rate: Tensor, quantum: Tensor, law: Law) -> Tensor:
    """Logarithm of the density of deposited energies; for an empty cell, of the probability.

    Args:
        energy: deposited energies, GeV, any shape; 0 for an empty cell.
        rate: expected numbers of crossings, same shape, > 0.
        quantum: mean deposits of one crossing, GeV, same shape or broadcastable.
        law: law of single deposits; its mean is replaced by `quantum`.

    Returns:
        Log-likelihoods, of the shape of `energy`; densities per GeV.
    """
    hit = energy > 0
    x = ops.where(hit, energy / quantum, 1.0)
    dispersion = (1 + law.variation) / 2
    r, y = rate / dispersion, x / dispersion
    root = 2.0 * ops.sqrt(r * y)
    density = -ops.square(ops.sqrt(r) - ops.sqrt(y)) + 0.5 * ops.log(r / y) + _log_i1e(root)
    density = density - math.log(dispersion) - ops.log(quantum)
    row = _row(rate)
    column = _place(ops.log(x), _LOG_X_MIN, _LOG_X_MAX, _LOG_X_STEPS)
    return ops.where(hit, density + _interpolate(law.corrections, row, column), -rate)


def sample(rate: Tensor, normal: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Draw deposited energies in units of the quantum, as a differentiable function of the rate.

    The quantile of the law is read from its table by linear interpolation. It rises from 0 without a jump, because the
    density of a single deposit is finite at 0, so gradients with respect to the rate follow the sample path.

    Args:
        rate: expected numbers of crossings, any shape, > 0.
        normal: independent standard normal numbers, same shape.
        quantiles: see `Law`.

    Returns:
        Energies, same shape, negative where the cell is empty; and how they grow with the logarithm of the rate, about.
    """
    row = _row(rate)
    column = _place(normal, -NORMAL_MAX, NORMAL_MAX, NORMAL_STEPS)
    low, high, v = _corners(quantiles, row, column)
    here = low * (1 - v) + high * v
    return here * (1 + rate), (high - low) * (1 + rate) * (PER_OCTAVE / math.log(2)) + here * rate


def _row(rate: Tensor) -> Tensor:
    """Fractional row of rates in RATES."""
    inside = ops.clip(rate, RATES[0], RATES[-1])
    octave = ops.floor(ops.log2(inside))
    return PER_OCTAVE * (octave - _OCTAVE_MIN + inside / ops.power(2.0, octave) - 1)


def _place(value: Tensor, low: float, high: float, steps: int) -> Tensor:
    """Fractional position of values in an evenly spaced table, in steps."""
    return (ops.clip(value, low, high) - low) * ((steps - 1) / (high - low))


def _interpolate(table: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Read a table by bilinear interpolation; the table itself gets no gradient."""
    low, high, v = _corners(table, row, column)
    return low * (1 - v) + high * v


def _corners(table: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read the rows of a table on either side of a fractional row; returns both and the fraction."""
    rows, columns = table.shape
    flat = ops.reshape(ops.convert_to_tensor(table), (-1,))
    row0, column0 = ops.clip(ops.floor(row), 0, rows - 2), ops.clip(ops.floor(column), 0, columns - 2)
    v, w = row - row0, column - column0
    corner = ops.cast(row0 * columns + column0, "int32")
    low = ops.take(flat, corner) * (1 - w) + ops.take(flat, corner + 1) * w
    high = ops.take(flat, corner + columns) * (1 - w) + ops.take(flat, corner + columns + 1) * w
    return low, high, v


def _step(rate: float) -> float:
    return _FEW_STEP if rate < _MANY else _MANY_STEP


def _several(g: Floats, rate: float) -> Floats:
    """Probability of the sum of two and more deposits in steps of `_step` quanta around multiples of it."""
    step = _step(rate)
    top = 1.25 * (rate + 8 * math.sqrt(2 * rate)) + 40
    size = int(2 ** math.ceil(math.log2(top / step)))
    bounds = np.asarray((np.arange(size + 1) - 0.5) * step, np.float64)
    one = np.diff(deposits.below(g, bounds))
    whole = np.fft.irfft(np.exp(rate * (np.fft.rfft(one) - 1)), size)
    several = whole - rate * math.exp(-rate) * one
    several[0] -= math.exp(-rate)
    return np.asarray(np.maximum(several, 0.0))


def _corrections(g: Floats, rate: float, several: Floats, variation: float) -> Floats:
    """Logarithm of the density over that of the Tweedie law; constant beyond the range where the density is reliable."""
    log_x = np.linspace(_LOG_X_MIN, _LOG_X_MAX, _LOG_X_STEPS)
    if rate > _MANY:
        return np.zeros(_LOG_X_STEPS)
    step = _step(rate)
    one = rate * np.exp(-rate + deposits.log_density(g, log_x))
    density = one + np.interp(np.exp(log_x), np.arange(len(several)) * step, several / step)
    reliable = density > _NOISE
    tweedie = _log_tweedie(np.exp(log_x[reliable]), rate, (1 + variation) / 2)
    return np.asarray(np.interp(log_x, log_x[reliable], np.log(density[reliable]) - tweedie))


def _log_tweedie(x: Floats, rate: float, dispersion: float) -> Floats:
    r, y = rate / dispersion, x / dispersion
    root = 2 * np.sqrt(r * y)
    bessel = np.log(special.ive(1, root))
    return np.asarray(-((math.sqrt(r) - np.sqrt(y)) ** 2) + 0.5 * np.log(r / y) + bessel - math.log(dispersion))


def _quantiles(g: Floats, rate: float, several: Floats, deviates: Floats) -> Floats:
    step = _step(rate)
    top = (len(several) - 1) * step
    x = np.concatenate([np.geomspace(1e-4, 0.3, 80), np.arange(0.3 + step, top, 2 * step)])
    tail = np.cumsum(several[::-1])[::-1]  # summed from above, so that the upper tail keeps its digits
    bounds = (np.arange(len(several)) - 0.5) * step
    above = rate * math.exp(-rate) * (1 - deposits.below(g, x)) + np.interp(x, bounds, tail)
    normal = -special.ndtri(np.clip(above, 1e-300, 1 - 1e-16))
    # Below this deviate the cell is empty; between it and the first x the quantile is linear.
    empty_below = float(special.ndtri(math.exp(-rate)))
    positive = normal > max(empty_below, -30.0)
    normal = np.concatenate([[max(empty_below, -30.0)], np.maximum.accumulate(normal[positive])])
    x = np.concatenate([[0.0], x[positive]])
    normal, first = np.unique(normal, return_index=True)
    values = np.asarray(np.interp(deviates, normal, x[first]))
    below = deviates < empty_below
    if below.any() and not below.all():
        end = int(np.argmin(below))  # the first deviate for which the cell is hit
        values[below] = (deviates[below] - empty_below) * values[end] / (deviates[end] - empty_below)
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
