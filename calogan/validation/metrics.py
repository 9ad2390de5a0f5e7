"""Deviations of a candidate from the reference: pure functions, each returns numbers with their statistical errors.

Energies are per shower and relative to Ep unless stated otherwise, so that all Ep have equal weight. Every metric is 0
for two equal distributions, except the AUC (0.5) and the plain moments of the candidate. Errors are the spread over
Poisson bootstrap replicas of the showers of both samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from calogan.validation.observables import AXES, PLANES, Floats, Observables, moments
from calogan.validation.resampling import Columns, Sample, replica_means

ENERGY_BINS_GEV = ((2, 50), (50, 150), (150, 300), (300, 500))
TAIL_CELLS = 5  # [R21]: the tails are the first and last five cells of the transverse profile


@dataclass(frozen=True)
class Estimate:
    """A number and its statistical error (one standard deviation)."""

    value: float
    error: float

    @classmethod
    def of_replicas(cls, values: Floats) -> "Estimate":
        """The number of a sample (first) with the spread of its bootstrap replicas (the others), shape (1 + replicas,)."""
        with np.errstate(invalid="ignore"):
            error = float(np.std(values[1:]))
        return cls(float(values[0]), error)


@dataclass(frozen=True, eq=False)
class Projections:
    """The mean projections of a sample on xy, xz and yz, over Ep.

    Attributes:
        mean: means of the sample and of its replicas, shape (1 + REPLICAS, 3, 625).
        noise: variance of the mean of the sample, shape (3, 625).
    """

    mean: Floats
    noise: Floats


def projections(sample: Sample, sums: Floats) -> Projections:
    """Compute mean projections from sums over the showers of a sample, one weighting of `parts.SampleSummary.planes`."""
    weights = np.array([sample.weight.sum(), *(sample.weight @ sample.counts)])
    mean = sums[:-1] / weights[:, None]
    noise = (sums[-1] / weights[0] - mean[0] ** 2) / sample.effective
    return Projections(mean.reshape(len(mean), len(PLANES), -1), noise.reshape(len(PLANES), -1))


def composite_mse(reference: Projections, candidate: Projections) -> Estimate:
    """Total mean squared error between the two-dimensional projections of the mean showers.

    The metric of arXiv 2103.10142, table 4, which does not specify binning and normalisation. Here R and C are the
    means over showers of the projection divided by Ep, 25x25 cells; each of xy, xz, yz contributes sum((C - R)^2) /
    sum(R^2), and the three are added. A candidate too high by a factor 1 + s gives 3 s^2. The expectation from finite
    samples alone, the variance of the two means, is subtracted; a negative result is set to 0.
    """
    r, c = reference.mean, candidate.mean
    noise = reference.noise + candidate.noise
    total = (((c - r) ** 2 - noise).sum(axis=-1) / (r**2).sum(axis=-1)).sum(axis=1)
    return Estimate(max(0.0, float(total[0])), Estimate.of_replicas(total).error)


def profile_moments(reference: Sample, candidate: Sample, axis: str) -> dict[str, Estimate]:
    """Mean and standard deviation of the mean profile along an axis, in cells counted from 0.

    Table 3 of arXiv 2103.10142: the candidate's `mean` and `std`, and their differences from the reference,
    `mean_shift` and `std_shift`.
    """
    r, c = _both_means(reference, candidate, lambda s: _per_ep(s.profiles[:, AXES.index(axis)], s))
    (r_mean, r_std), (c_mean, c_std) = moments(r), moments(c)
    values = {"mean": c_mean, "std": c_std, "mean_shift": c_mean - r_mean, "std_shift": c_std - r_std}
    return {name: Estimate.of_replicas(value) for name, value in values.items()}


def sampling_fraction_shift(reference: Sample, candidate: Sample) -> Estimate:
    """Relative deviation of the mean of ECAL/Ep."""
    r, c = _both_means(reference, candidate, lambda s: s.sampling_fraction[:, None])
    return Estimate.of_replicas(relative_deviation(c, r)[:, 0])


def resolution_shift(reference: Sample, candidate: Sample) -> Estimate:
    """Relative deviation of the resolution, the standard deviation of ECAL/Ep over its mean."""

    def resolution(means: Floats) -> Floats:
        return np.sqrt(np.maximum(means[:, 1] - means[:, 0] ** 2, 0)) / np.maximum(means[:, 0], np.finfo(float).tiny)

    def columns(sample: Observables) -> Floats:
        return np.stack([sample.sampling_fraction, sample.sampling_fraction**2], axis=1)

    r, c = _both_means(reference, candidate, columns)
    return Estimate.of_replicas(relative_deviation(resolution(c), resolution(r)))


def worst_layer(reference: Sample, candidate: Sample) -> Estimate:
    """Relative deviation of the mean energy of the layer where it is largest, with its sign.

    In GeV, not over Ep: the first layers hold nearly the same energy at every Ep, so relative to Ep a few showers of
    low energy would dominate them, with three times the statistical error.
    """
    r, c = _both_means(reference, candidate, lambda s: s.profiles[:, AXES.index("z")])
    deviation = relative_deviation(c, r)
    return Estimate.of_replicas(deviation[:, np.argmax(np.abs(deviation[0]))])


def tail(reference: Sample, candidate: Sample, axis: str, *, last: bool) -> Estimate:
    """Relative deviation of the mean energy (over Ep) in the first or last five cells of a transverse profile."""
    cells = slice(-TAIL_CELLS, None) if last else slice(TAIL_CELLS)
    along = AXES.index(axis)
    r, c = _both_means(
        reference, candidate, lambda s: _per_ep(s.profiles[:, along, cells].sum(axis=1, keepdims=True), s)
    )
    return Estimate.of_replicas(relative_deviation(c, r)[:, 0])


def hits_shift(reference: Sample, candidate: Sample) -> Estimate:
    """Relative deviation of the mean number of cells above the read-out threshold."""
    r, c = _both_means(reference, candidate, lambda s: s.hits.sum(axis=1, keepdims=True, dtype=np.float64))
    return Estimate.of_replicas(relative_deviation(c, r)[:, 0])


def empty_showers(reference: Sample, candidate: Sample) -> Estimate:
    """Share of showers without any energy, candidate minus reference."""
    r, c = _both_means(reference, candidate, lambda s: (s.ecal == 0).astype(np.float64)[:, None])
    return Estimate.of_replicas((c - r)[:, 0])


def separation_cell_energy(reference: Sample, candidate: Sample) -> Estimate:
    """Separation power of the spectra of cell energy, 0 for equal and 1 for disjoint ones.

    Half the sum of (r - c)^2 / (r + c) over the bins of two histograms normalised to 1: arXiv 2009.03796, eq. 15.
    """
    r, c = (
        m / m.sum(axis=1, keepdims=True)
        for m in _both_means(reference, candidate, lambda s: s.spectrum.astype(np.float64))
    )
    return Estimate.of_replicas(0.5 * ((r - c) ** 2 / np.maximum(r + c, 1e-16)).sum(axis=1))


def wasserstein(reference: Sample, candidate: Sample, quantity: Callable[[Observables], Floats]) -> Estimate:
    """Wasserstein-1 distance of a per-shower number, in standard deviations of the reference.

    Never negative: two samples of one distribution give about 1/sqrt(n), not 0. Showers for which the number is
    undefined (NaN) are left out.
    """
    samples = (reference, candidate)
    values = [quantity(sample.observables) for sample in samples]
    rows = [np.flatnonzero(np.isfinite(v) & (s.weight > 0)) for v, s in zip(values, samples, strict=True)]
    r, c = (v[i] for v, i in zip(values, rows, strict=True))
    r_weight, c_weight = (s.weight[i] for s, i in zip(samples, rows, strict=True))
    together = np.concatenate([r, c])
    order = np.argsort(together)
    steps = np.diff(together[order])

    def distance(r_weight: Floats, c_weight: Floats) -> float:
        # The area between the two cumulative distributions, which are constant from one shower to the next.
        signed = np.concatenate([r_weight / r_weight.sum(), -c_weight / c_weight.sum()])
        return float(np.abs(np.cumsum(signed[order])[:-1]) @ steps)

    r_counts, c_counts = (s.counts[i].T for s, i in zip(samples, rows, strict=True))
    replicas = (distance(r_weight * u, c_weight * v) for u, v in zip(r_counts, c_counts, strict=True))
    distances = np.array([distance(r_weight, c_weight), *replicas])
    mean = np.average(r, weights=r_weight)
    spread = np.sqrt(np.average((r - mean) ** 2, weights=r_weight))
    if spread == 0:
        return Estimate.of_replicas(np.where(distances > 0, np.inf, 0.0))
    return Estimate.of_replicas(distances / spread)


def pixelwise_difference(sums: Floats) -> dict[str, Estimate]:
    """Difference of single showers from those of the float32 model with the same latent numbers.

    Table 5 of arXiv 2103.10142: the sum over cells of the absolute difference; its `mean` and `std` over showers, GeV,
    and `relative`, the mean of its ratio to the ECAL of the float32 shower.

    Args:
        sums: see `parts.energy_difference`, shape (n, 2), GeV.
    """
    n, (difference, total) = len(sums), sums.T
    std = difference.std()
    relative = difference[total > 0] / total[total > 0]
    fourth = np.mean((difference - difference.mean()) ** 4)
    # standard error of a standard deviation, from the fourth central moment
    std_error = np.sqrt(max(fourth - std**4, 0) / n) / (2 * std) if std > 0 else 0.0
    return {
        "mean": Estimate(float(difference.mean()), float(std / np.sqrt(n))),
        "std": Estimate(float(std), float(std_error)),
        "relative": Estimate(float(relative.mean()), float(relative.std() / np.sqrt(len(relative)))),
    }


def in_energy_bin(sample: Sample, low: float, high: float) -> Sample:
    """Leave out all showers but those with low <= Ep < high (GeV)."""
    energy = sample.observables.energy
    return replace(sample, weight=np.where((energy >= low) & (energy < high), sample.weight, 0.0))


def _both_means(reference: Sample, candidate: Sample, columns: Columns) -> tuple[Floats, Floats]:
    return replica_means(reference, columns), replica_means(candidate, columns)


def _per_ep(energies: Floats, sample: Observables) -> Floats:
    return energies / sample.energy[:, None]


def relative_deviation(candidate: Floats, reference: Floats) -> Floats:
    """Candidate over reference, less 1; 0 where both are 0, infinite where only the reference is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = candidate / reference
    return np.where(candidate == reference, 0.0, ratio - 1)
