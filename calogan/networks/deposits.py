"""Energy distribution of a single deposit, that of one particle crossing a cell, as a histogram.

Cells far from the axis are mostly crossed once, if at all, so Geant4 showers show this distribution where occupancy is
low. In the showers of the package it hardly depends on layer and position: a steep edge at 0.12 MeV, the minimum that a
fast electron deposits in 0.5 mm of silicon; above it a tail of slow electrons; below it electrons that stop or start in
the cell.
"""

import math

import numpy as np
from numpy.typing import NDArray

from calogan.geometry import CLIC

BINS = 150
_EDGES = np.geomspace(CLIC.threshold_gev, 0.1, BINS + 1)  # GeV
_LOG_EDGES = np.log(_EDGES)
_RARE = 0.015  # hits per shower; a cell below this nearly always has a single crossing
_ENOUGH = 2_000  # deposits; with fewer, an exponential law is a better estimate than their histogram
_DEFAULT_GEV = 3.5e-4

Floats = NDArray[np.float64]


def histogram(showers: NDArray[np.float32]) -> NDArray[np.int32]:
    """Histogram of the energies of each cell, shape (15625, BINS), of showers, shape (n, 25, 25, 25), GeV."""
    flat = showers.reshape(len(showers), -1)
    shower, cell = np.nonzero(flat >= CLIC.threshold_gev)
    which = np.searchsorted(_LOG_EDGES, np.log(flat[shower, cell]), side="right") - 1
    counts = np.bincount(cell * BINS + np.clip(which, 0, BINS - 1), minlength=flat.shape[1] * BINS)
    return counts.reshape(-1, BINS).astype(np.int32)


def single(counts: NDArray[np.int32], showers: int) -> Floats:
    """Estimate the law of a single deposit.

    Args:
        counts: sum of `histogram` over a sample.
        showers: number of showers of the sample.

    Returns:
        Probability of each bin, shape (BINS,); an exponential law if the sample has too few rare cells.
    """
    rare = counts[counts.sum(axis=1) < _RARE * showers].sum(axis=0).astype(float)
    if rare.sum() < _ENOUGH:
        return exponential(_DEFAULT_GEV)
    smooth = np.convolve(np.pad(rare, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return np.asarray(smooth / smooth.sum())


def exponential(mean_gev: float) -> Floats:
    """The exponential law with this mean, shape (BINS,)."""
    probability = np.diff(-np.expm1(-_EDGES / mean_gev))
    return np.asarray(probability / probability.sum())


def moments(probability: Floats) -> tuple[float, float]:
    """Mean of a law, GeV, and its relative variance; within a bin, the logarithm is uniform."""
    width = np.diff(_LOG_EDGES)
    mean = float(probability @ (np.diff(_EDGES) / width))
    square = float(probability @ (np.diff(_EDGES**2) / (2 * width)))
    return mean, square / mean**2 - 1


def below(probability: Floats, x: Floats) -> Floats:
    """Probability of a deposit below x times the mean, shape of x."""
    cumulated = np.concatenate([[0.0], np.cumsum(probability)])
    edges = _LOG_EDGES - math.log(moments(probability)[0])
    return np.asarray(np.interp(np.log(np.maximum(x, 1e-30)), edges, cumulated))


def log_density(probability: Floats, log_x: Floats) -> Floats:
    """Logarithm of the density at exp(log_x) times the mean, in units of 1 / mean, shape of log_x."""
    middle = 0.5 * (_LOG_EDGES[1:] + _LOG_EDGES[:-1]) - math.log(moments(probability)[0])
    per_log = probability / np.diff(_LOG_EDGES)
    inside = np.clip(log_x, middle[0], middle[-1])
    # In bins without any deposit in the sample, one is unlikely, but not impossible.
    return np.asarray(np.interp(inside, middle, np.log(per_log + 1e-9)) - inside)
