"""The metrics that take a minute: distances of distributions, correlations, and the classifier on cells.

A search does not compute them for every candidate; the fast metrics are in `standard`.
"""

from collections.abc import Sequence

import numpy as np

from calogan.events import EventSource, Selection
from calogan.validation import distances, distributions, metrics
from calogan.validation.cell_classifier import CELL_SHOWERS, auc_low_level
from calogan.validation.classifiers import FOLDS, Rows
from calogan.validation.metrics import Estimate
from calogan.validation.observables import AXES, Floats, Observables, high_level_features, moments
from calogan.validation.resampling import Sample

SEPARATED = ("sampling_fraction", "depth", "width", "hits", "core_share", "max_cell")
FEWEST = 10 * FOLDS  # showers of each sample; fewer are not enough for a training
_PRDC = ("precision", "recall", "density", "coverage")
METRICS = (
    *("frechet_distance", "kernel_distance", *_PRDC, "layer_correlation", "moment_shifts"),
    *(f"separation_{name}" for name in SEPARATED),
    *(f"ks_{name}" for name in SEPARATED),
    *("auc_low_level", "jsd_low_level"),
)


def similarity(reference: Sample, candidate: Sample, *, seed: int = 0) -> dict[str, Estimate]:
    """Compare the distributions of the high-level features of two samples whose energies match.

    The functions of `distances`, `distributions` and `classifiers` give all showers equal weight, so showers are first
    selected according to their weights.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator.
        seed: seed of selections, replicas and trainings.

    Returns:
        The metrics by name; empty if fewer than `FEWEST` showers of a sample are selected.
    """
    r, c = (_unweight(sample, seed) for sample in (reference, candidate))
    if min(len(r), len(c)) < FEWEST:
        return {}
    features = [high_level_features(sample)[0] for sample in (r, c)]
    scaled = distances.normalised(*features)
    energy = (r.energy, c.energy)
    estimates = {
        "frechet_distance": distances.frechet_distance(*scaled, seed=seed),
        "kernel_distance": distances.kernel_distance(*scaled, seed=seed),
        **distances.precision_recall_density_coverage(*scaled, seed=seed),
        "layer_correlation": layer_correlations(r, c, seed=seed).difference,
        "moment_shifts": distributions.moment_shifts(
            _depth_and_widths(r), _depth_and_widths(c), energy, metrics.ENERGY_BINS_GEV, seed=seed
        ).overall,
    }
    for name in SEPARATED:
        both = _observable(r, name), _observable(c, name)
        estimates[f"separation_{name}"] = distributions.separation_power(*both, seed=seed)
        estimates[f"ks_{name}"] = distributions.kolmogorov_smirnov(*both, seed=seed)
    # Metrics that are undefined because a bin has too few showers count as not measured.
    return {f"physics/{name}": estimate for name, estimate in estimates.items() if np.isfinite(estimate.value)}


def cell_similarity(
    reference: EventSource, candidate: EventSource, weights: tuple[Floats, Floats], *, trainings: int, seed: int = 0
) -> dict[str, Estimate]:
    """Train a convolutional network to separate two samples by their cells.

    Of each sample it gets as many showers as half the reference has, at most `CELL_SHOWERS`: those of the floor.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator.
        weights: weights that make the spectra of Ep equal, shapes (n,) and (m,).
        trainings: number of trainings; 0 for none.
        seed: seed of selections and trainings.

    Returns:
        The metrics by name; empty without trainings or with fewer than `FEWEST` showers of a sample.
    """
    ours, theirs, n = _cell_rows(weights, seed)
    return _separate_cells(
        (Selection(reference, np.sort(ours[:n])), Selection(candidate, np.sort(theirs[:n]))), trainings, seed
    )


def cell_floor(
    reference: EventSource, weights: tuple[Floats, Floats], *, trainings: int, seed: int = 0
) -> dict[str, Estimate]:
    """Separate one half of the reference from the other, with the numbers of showers of `cell_similarity`."""
    ours, _, n = _cell_rows(weights, seed)
    halves = (Selection(reference, np.sort(rows)) for rows in (ours[:n], ours[n : 2 * n]))
    return _separate_cells(tuple(halves), trainings, seed)


def _cell_rows(weights: tuple[Floats, Floats], seed: int) -> tuple[Rows, Rows, int]:
    """Showers of both samples in random order, of equal weight, and the number of each to use."""
    rng = np.random.default_rng(seed)
    ours, theirs = (rng.permutation(distances.unweight(weight, seed=seed)) for weight in weights)
    return ours, theirs, min(CELL_SHOWERS, len(ours) // 2, len(theirs))


def _separate_cells(samples: Sequence[Selection], trainings: int, seed: int) -> dict[str, Estimate]:
    if not trainings or min(map(len, samples)) < FEWEST:
        return {}
    separability = auc_low_level(*(sample[:] for sample in samples), trainings=trainings, seed=seed)
    return {"physics/auc_low_level": separability.auc_with_spread, "physics/jsd_low_level": separability.jsd}


def layer_correlations(reference: Observables, candidate: Observables, *, seed: int = 0) -> distributions.Correlations:
    """Correlations between the layers' energies over Ep, of both samples."""
    layers = [s.profiles[:, AXES.index("z")] / s.energy[:, None] for s in (reference, candidate)]
    return distributions.layer_correlation(*layers, seed=seed)


def _unweight(sample: Sample, seed: int) -> Observables:
    rows = distances.unweight(sample.weight, seed=seed)
    return sample.observables[rows[sample.observables.ecal[rows] > 0]]


def _width(sample: Observables) -> Floats:
    return moments(sample.profiles[:, AXES.index("y")])[1]


def _depth_and_widths(sample: Observables) -> Floats:
    """Depth, and the width along every axis, of each shower, shape (n, 4), cells."""
    mean, width = moments(sample.profiles)
    return np.column_stack([mean[:, AXES.index("z")], width])


def _observable(sample: Observables, name: str) -> Floats:
    if name == "width":
        return _width(sample)
    values: dict[str, Floats] = {
        "sampling_fraction": sample.sampling_fraction,
        "depth": moments(sample.profiles[:, AXES.index("z")])[0],
        "hits": sample.hits.sum(axis=1).astype(np.float64),
        "core_share": sample.core_shares[:, 0],
        "max_cell": sample.max_cell / sample.energy,
    }
    return values[name]
