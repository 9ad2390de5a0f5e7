"""The fast metrics and all curves of two samples whose energies match."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calogan.validation import metrics, spreads, thorough, tree_classifier
from calogan.validation.metrics import Estimate
from calogan.validation.observables import AXES, SPECTRUM_EDGES_GEV, Floats, Observables, moments
from calogan.validation.resampling import FEWEST_SHOWERS, Columns, Sample, replica_means

# Bins of the figures, not of the gates; finer where the shower changes fastest.
CURVE_EDGES_GEV: Floats = np.array([2, 10, 25, 50, 100, 150, 200, 300, 400, 500.0])

_WASSERSTEIN: dict[str, Callable[[Observables], Floats]] = {
    "sampling_fraction": lambda s: s.sampling_fraction,
    "depth": lambda s: moments(s.profiles[:, AXES.index("z")])[0],
    "width": lambda s: moments(s.profiles[:, AXES.index("y")])[1],
    "core_share": lambda s: s.core_shares[:, 0],
}
_BINS = tuple(f"{low}_{high}gev" for low, high in metrics.ENERGY_BINS_GEV)
_ALWAYS = (
    "composite_mse",
    *(f"{axis}_{name}" for axis in AXES for name in ("mean", "std", "mean_shift", "std_shift")),
    *(f"{axis}_tail_{end}" for axis in ("x", "y") for end in ("first", "last")),
    *("sampling_fraction_shift", "worst_layer", "hits_shift", "empty_showers", "separation_cell_energy"),
    *(f"wasserstein_{name}" for name in _WASSERSTEIN),
    *tree_classifier.METRICS,
    *spreads.METRICS,
)
_SOMETIMES = (
    *(f"{name}_{label}" for label in _BINS for name in ("sampling_fraction_shift", "resolution_shift")),
    *(f"pixelwise_{name}" for name in ("mean", "std", "relative")),
)
METRICS = tuple(f"physics/{name}" for name in (*_ALWAYS, *_SOMETIMES, *thorough.METRICS))


@dataclass(frozen=True, eq=False)
class Curve:
    """A quantity of both samples in bins, with errors of one standard deviation; NaN where a bin has too few showers.

    Attributes:
        edges: edges of the k bins, shape (k + 1,).
        reference, reference_error, candidate, candidate_error: shape (k,).
    """

    edges: Floats
    reference: Floats
    reference_error: Floats
    candidate: Floats
    candidate_error: Floats


def compare(
    reference: tuple[Sample, Floats], candidate: tuple[Sample, Floats], bins: spreads.Bins
) -> dict[str, Estimate]:
    """Compute the fast metrics, except the classifier's, of two samples whose energies match, see `resampling.match_energies`.

    Args:
        reference: a sample with the sums of its projections, one weighting of `parts.SampleSummary.planes`.
        candidate: the other sample, likewise.
        bins: see `spreads.energy_bins`.

    Returns:
        The metrics by name.
    """
    (r, r_planes), (c, c_planes) = reference, candidate
    estimates = {
        "composite_mse": metrics.composite_mse(metrics.projections(r, r_planes), metrics.projections(c, c_planes)),
        "sampling_fraction_shift": metrics.sampling_fraction_shift(r, c),
        "worst_layer": metrics.worst_layer(r, c),
        "hits_shift": metrics.hits_shift(r, c),
        "empty_showers": metrics.empty_showers(r, c),
        "separation_cell_energy": metrics.separation_cell_energy(r, c),
    }
    for axis in AXES:
        estimates |= {f"{axis}_{name}": estimate for name, estimate in metrics.profile_moments(r, c, axis).items()}
    for axis in ("x", "y"):
        estimates[f"{axis}_tail_first"] = metrics.tail(r, c, axis, last=False)
        estimates[f"{axis}_tail_last"] = metrics.tail(r, c, axis, last=True)
    for name, quantity in _WASSERSTEIN.items():
        estimates[f"wasserstein_{name}"] = metrics.wasserstein(r, c, quantity)
    for label, (low, high) in zip(_BINS, metrics.ENERGY_BINS_GEV, strict=True):
        in_bin = [metrics.in_energy_bin(sample, low, high) for sample in (r, c)]
        if min(len(sample.used) for sample in in_bin) >= FEWEST_SHOWERS:
            estimates[f"sampling_fraction_shift_{label}"] = metrics.sampling_fraction_shift(*in_bin)
            estimates[f"resolution_shift_{label}"] = metrics.resolution_shift(*in_bin)
    estimates |= spreads.compare(r, c, bins)
    return {f"physics/{name}": estimate for name, estimate in estimates.items()}


def curves(reference: Sample, candidate: Sample) -> dict[str, Curve]:
    """Compute the curves of the figures, see `ValidationReport.curves`."""

    def curve(edges: Floats, columns: Columns, finish: Callable[[Floats], Floats] = lambda means: means) -> Curve:
        both = [finish(replica_means(sample, columns)) for sample in (reference, candidate)]
        (r, r_error), (c, c_error) = ((values[0], values[1:].std(axis=0)) for values in both)
        return Curve(edges, r, r_error, c, c_error)

    cells = np.arange(reference.observables.profiles.shape[-1] + 1) - 0.5
    results = {
        axis: curve(cells, lambda s, i=i: s.profiles[:, i] / s.energy[:, None])  # type: ignore[misc]
        for i, axis in enumerate(AXES)
    }
    layers = np.arange(reference.observables.hits.shape[1] + 1) - 0.5
    results["hits_per_layer"] = curve(layers, lambda s: s.hits.astype(np.float64))
    results["depth"] = curve(CURVE_EDGES_GEV, lambda s: _in_bins(s, "z", 0), lambda means: _bin_moments(means)[0])
    results["width"] = curve(CURVE_EDGES_GEV, lambda s: _in_bins(s, "y", 1), lambda means: _bin_moments(means)[0])
    results["cell_energy"] = curve(SPECTRUM_EDGES_GEV, lambda s: s.spectrum.astype(np.float64))
    results["sampling_fraction"] = curve(CURVE_EDGES_GEV, _in_bins, lambda means: _bin_moments(means)[0])
    results["resolution"] = curve(CURVE_EDGES_GEV, _in_bins, _bin_resolution)
    return results


def _in_bins(sample: Observables, axis: str = "", moment: int = 0) -> Floats:
    """Per shower and bin of `CURVE_EDGES_GEV`: 1, a number and its square if the shower is in the bin, else 0.

    The number is ECAL/Ep, or the mean (moment 0) or width (1) of the shower along an axis, 0 for an empty shower.
    """
    which = np.searchsorted(CURVE_EDGES_GEV, sample.energy, side="right") - 1
    inside = (which[:, None] == np.arange(len(CURVE_EDGES_GEV) - 1)).astype(np.float64)
    number = moments(sample.profiles[:, AXES.index(axis)])[moment] if axis else sample.sampling_fraction
    column = np.nan_to_num(number)[:, None]
    return np.hstack([inside, inside * column, inside * column**2])


def _bin_resolution(means: Floats) -> Floats:
    """Standard deviation over mean of a number in each bin; NaN where all showers of a bin are empty."""
    mean, spread = _bin_moments(means)
    with np.errstate(invalid="ignore"):
        return spread / mean


def _bin_moments(means: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of a number in each bin, shape (replicas, bins), from the means of `_in_bins`."""
    share, first, second = np.split(means, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / share
        return mean, np.sqrt(np.maximum(second / share - mean**2, 0))
