"""Compare the distributions of per-shower numbers: histograms, moments in bins of Ep, correlations.

Pure functions of numbers of shape (showers,) or (showers, columns), any unit. All showers have equal weight; undefined
numbers (NaN) are left out of their column. Errors are the spread over Poisson bootstrap replicas of both samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from calogan.validation.metrics import Estimate, relative_deviation
from calogan.validation.observables import Floats

FEWEST_IN_BIN = 20  # with fewer, neither a spread nor its error is meaningful
_REPLICAS = 100
_BLOCK = 1024  # showers processed at a time
_ALMOST_ONE = 1 - 1e-12


def separation_power(
    reference: NDArray[np.floating], candidate: NDArray[np.floating], *, bins: int = 40, seed: int = 0
) -> Estimate:
    """Separation power of two histograms: half the sum over bins of (r - c)^2 / (r + c), 0 equal and 1 disjoint.

    arXiv 2009.03796, eq. 15, with r and c normalised to 1. The bins hold about equal numbers of showers of the joint
    sample, so the value is the same in GeV and in log GeV and no bin is empty. Never negative: two samples of n and m
    showers of one distribution give about (bins - 1) (1/n + 1/m) / 4.

    Args:
        reference: one number per shower, shape (n,).
        candidate: one number per shower, shape (m,).
        bins: number of bins; there are fewer if many showers have the same number.
        seed: seed of the replicas.
    """
    r, c = _defined(reference), _defined(candidate)
    quantiles = np.quantile(np.concatenate([r, c]), np.linspace(0, 1, bins + 1), method="inverted_cdf")
    edges = np.unique(quantiles[1:-1])
    histograms = []
    for i, sample in enumerate((r, c)):
        which = np.searchsorted(edges, sample)
        counts = np.stack(
            [np.bincount(which, weights=w, minlength=len(edges) + 1) for w in _weights(len(sample), seed, i)]
        )
        histograms.append(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    h_r, h_c = histograms
    return Estimate.of_replicas(0.5 * ((h_r - h_c) ** 2 / np.maximum(h_r + h_c, 1e-16)).sum(axis=1))


def kolmogorov_smirnov(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, seed: int = 0) -> Estimate:
    """Largest distance of the two cumulative distributions, 0 equal and 1 disjoint.

    Never negative: two samples of one distribution give about 0.87 sqrt(1/n + 1/m), the mean of the Kolmogorov
    distribution.

    Args:
        reference: one number per shower, shape (n,).
        candidate: one number per shower, shape (m,).
        seed: seed of the replicas, which are drawn with replacement.
    """
    r, c = _defined(reference), _defined(candidate)
    rng = np.random.default_rng(seed)
    pairs = [(r, c), *((rng.choice(r, len(r)), rng.choice(c, len(c))) for _ in range(_REPLICAS))]
    return Estimate.of_replicas(np.array([ks_2samp(*pair, method="asymp").statistic for pair in pairs]))


@dataclass(frozen=True, eq=False)
class MomentShifts:
    """Relative deviations of the mean and of the standard deviation in bins of Ep, shape (bins, columns).

    NaN where a sample has fewer than `FEWEST_IN_BIN` showers in the bin.

    Attributes:
        mean, mean_error: deviation of the mean, candidate over reference minus 1, and its error.
        std, std_error: deviation of the standard deviation, and its error.
        overall: mean over bins and columns of the absolute deviation of the mean. Never negative: for two samples of
            one distribution it is about 0.8 times the mean of `mean_error`.
    """

    mean: Floats
    mean_error: Floats
    std: Floats
    std_error: Floats
    overall: Estimate


def moment_shifts(
    reference: NDArray[np.floating],
    candidate: NDArray[np.floating],
    energy: tuple[NDArray[np.floating], NDArray[np.floating]],
    bins: Sequence[tuple[float, float]],
    *,
    seed: int = 0,
) -> MomentShifts:
    """Compare per-shower moments in bins of Ep, as the authors' public code does (`validate` of 3DGAN).

    In that code the columns are the first and second moments along x, y and z, the bins are 5 GeV around fixed energies,
    and the figure of merit corresponds to `MomentShifts.overall`. It does not include the standard deviations, which
    describe how much the showers of a bin differ.

    Args:
        reference: numbers of each shower, shape (n, columns).
        candidate: numbers of each shower, shape (m, columns).
        energy: Ep of both samples, shapes (n,) and (m,), GeV.
        bins: lower (inclusive) and upper (exclusive) limit of Ep of each bin, GeV.
        seed: seed of the replicas.
    """
    (r_mean, r_std), (c_mean, c_std) = (
        _binned_moments(sample, ep, bins, (seed, i))
        for i, (sample, ep) in enumerate(zip((reference, candidate), energy, strict=True))
    )
    mean, std = relative_deviation(c_mean, r_mean), relative_deviation(c_std, r_std)
    defined = np.isfinite(mean[0])
    overall = np.abs(mean[:, defined]).mean(axis=1) if defined.any() else np.full(1 + _REPLICAS, np.nan)
    return MomentShifts(mean[0], mean[1:].std(axis=0), std[0], std[1:].std(axis=0), Estimate.of_replicas(overall))


@dataclass(frozen=True, eq=False)
class Correlations:
    """Pearson correlations between the columns of each sample, and their differences.

    Attributes:
        reference, candidate: the correlations, shape (k, k); 0 for a constant column.
        pull: difference of the Fisher z (atanh of the correlation), candidate minus reference, over its bootstrap
            error, shape (k, k); 0 on the diagonal.
        largest_pull: largest absolute pull; about 3 among 300 pairs for samples of one distribution.
        difference: mean absolute difference of the correlations of two columns. Never negative.
    """

    reference: Floats
    candidate: Floats
    pull: Floats
    largest_pull: float
    difference: Estimate


def layer_correlation(
    reference_layers: NDArray[np.floating], candidate_layers: NDArray[np.floating], *, seed: int = 0
) -> Correlations:
    """Compare the Pearson correlations between layers (CaloChallenge, arXiv 2410.21611), or between any columns.

    The transform atanh makes the error of a correlation nearly independent of its size (Fisher 1921). Layer energies
    are not normally distributed, so the error comes from the bootstrap instead of 1/sqrt(n - 3).

    Args:
        reference_layers: energy of each layer over Ep, or other finite numbers, shape (n, k).
        candidate_layers: the same quantities, shape (m, k).
        seed: seed of the replicas.
    """
    shift = np.asarray(reference_layers, np.float64).mean(axis=0)
    r, c = (_correlations(s - shift, (seed, i)) for i, s in enumerate((reference_layers, candidate_layers)))
    upper = np.triu_indices(r.shape[1], 1)
    difference = np.abs(c - r)[:, *upper].mean(axis=1)
    z = np.arctanh(np.clip(c, -_ALMOST_ONE, _ALMOST_ONE)) - np.arctanh(np.clip(r, -_ALMOST_ONE, _ALMOST_ONE))
    error = z[1:].std(axis=0)
    pull = np.divide(z[0], error, out=np.zeros_like(error), where=error > 0)
    return Correlations(r[0], c[0], pull, float(np.abs(pull).max()), Estimate.of_replicas(difference))


def _binned_moments(
    numbers: NDArray[np.floating],
    energy: NDArray[np.floating],
    bins: Sequence[tuple[float, float]],
    seed: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Means and standard deviations of the sample and its replicas, each of shape (1 + replicas, bins, columns)."""
    x = np.asarray(numbers, np.float64)
    weights = _weights(len(x), *seed)
    shape = (len(weights), len(bins), x.shape[1])
    mean, std = np.full(shape, np.nan), np.full(shape, np.nan)
    for k, (low, high) in enumerate(bins):
        rows = np.flatnonzero((energy >= low) & (energy < high))
        defined = np.isfinite(x[rows])
        enough = defined.sum(axis=0) >= FEWEST_IN_BIN
        if not enough.any():
            continue
        value = np.where(defined, x[rows], 0)
        centre = value.sum(axis=0) / np.maximum(defined.sum(axis=0), 1)  # subtracted to keep digits of a small spread
        value = np.where(defined, value - centre, 0)
        count = np.maximum(weights[:, rows] @ defined, 1)
        first = weights[:, rows] @ value / count
        second = weights[:, rows] @ value**2 / count
        mean[:, k, enough] = (first + centre)[:, enough]
        std[:, k, enough] = np.sqrt(np.maximum(second - first**2, 0))[:, enough]
    return mean, std


def _correlations(columns: Floats, seed: tuple[int, int]) -> Floats:
    """Correlation matrices of the sample and its replicas, shape (1 + replicas, k, k)."""
    weights = _weights(len(columns), *seed)
    k = columns.shape[1]
    square = np.zeros((len(weights), k, k))
    for start in range(0, len(columns), _BLOCK):
        block = columns[start : start + _BLOCK]
        square += np.stack([(block * w[:, None]).T @ block for w in weights[:, start : start + _BLOCK]])
    total = weights.sum(axis=1)[:, None]
    mean = weights @ columns / total
    covariance = square / total[:, :, None] - mean[:, :, None] * mean[:, None, :]
    variance = np.einsum("rkk->rk", covariance)
    scale = np.sqrt(np.where(variance > 1e-20 * np.abs(columns).max(axis=0, initial=0) ** 2, variance, np.inf))
    correlations: Floats = covariance / (scale[:, :, None] * scale[:, None, :])
    return correlations


def _weights(n: int, seed: int, sample: int) -> Floats:
    """Weight of each shower in the sample itself (row 0) and in its Poisson bootstrap replicas."""
    counts = np.random.default_rng((seed, sample)).poisson(1.0, (1 + _REPLICAS, n)).astype(np.float64)
    counts[0] = 1
    return counts


def _defined(numbers: NDArray[np.floating]) -> Floats:
    x = np.asarray(numbers, np.float64)
    return x[np.isfinite(x)]
