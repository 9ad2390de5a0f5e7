"""How alike two samples are as a whole: distances of distributions, correlations, and classifiers trained repeatedly.

What `comparison` does not do for every candidate of a search, because it takes a minute.
"""

import numpy as np

from calogan.events import Events, EventSource, Selection
from calogan.validation import distances, distributions, metrics
from calogan.validation.cell_classifier import CELL_SHOWERS, auc_low_level
from calogan.validation.classifiers import FOLDS, Separability, energy_folds, repeated_auc
from calogan.validation.metrics import Estimate
from calogan.validation.observables import AXES, Floats, Observables, high_level_features, moments
from calogan.validation.resampling import Sample

SEPARATED = ("sampling_fraction", "depth", "width", "hits", "core_share", "max_cell")
FEWEST = 10 * FOLDS  # showers of each sample, below which there is nothing to train on
_PRDC = ("precision", "recall", "density", "coverage")
METRICS = (
    *("frechet_distance", "kernel_distance", *_PRDC, "layer_correlation", "width_fluctuation", "moment_shifts"),
    *(f"separation_{name}" for name in SEPARATED),
    *(f"ks_{name}" for name in SEPARATED),
    *("auc_high_level_repeated", "jsd_high_level", "calibration_error_high_level"),
    *("auc_low_level", "jsd_low_level"),
)


def similarity(reference: Sample, candidate: Sample, *, seed: int = 0) -> dict[str, Estimate]:
    """Compare the distributions of the high-level features of two samples whose energies match.

    The functions of `distances`, `distributions` and `classifiers` count showers alike, so showers are chosen by their
    weights first. Empty when a sample is left with fewer than `FEWEST`.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator.
        seed: of choices, replicas and trainings.
    """
    r, c = (_thinned(sample, seed) for sample in (reference, candidate))
    if min(len(r), len(c)) < FEWEST:
        return {}
    features = [high_level_features(sample)[0] for sample in (r, c)]
    scaled = distances.normalised(*features)
    energy = (r.energy, c.energy)
    found = {
        "frechet_distance": distances.frechet_distance(*scaled, seed=seed),
        "kernel_distance": distances.kernel_distance(*scaled, seed=seed),
        **distances.precision_recall_density_coverage(*scaled, seed=seed),
        "layer_correlation": layer_correlations(r, c, seed=seed).difference,
        "width_fluctuation": distributions.fluctuation_shift(_width(r), _width(c), energy, seed=seed),
        "moment_shifts": distributions.moment_shifts(
            _depth_and_widths(r), _depth_and_widths(c), energy, metrics.ENERGY_BINS_GEV, seed=seed
        ).overall,
    }
    for name in SEPARATED:
        both = _observable(r, name), _observable(c, name)
        found[f"separation_{name}"] = distributions.separation_power(*both, seed=seed)
        found[f"ks_{name}"] = distributions.kolmogorov_smirnov(*both, seed=seed)
    trees = repeated_auc(features[0], features[1], energy_folds(*energy, seed=seed), seed=seed)
    found["auc_high_level_repeated"] = _with_spread(trees)
    found["jsd_high_level"] = trees.jsd
    found["calibration_error_high_level"] = trees.calibration_error
    # Bins with too few showers leave some undefined: those count as not measured.
    return {f"physics/{name}": estimate for name, estimate in found.items() if np.isfinite(estimate.value)}


def cell_similarity(
    reference: EventSource, candidate: EventSource, weights: tuple[Floats, Floats], *, trainings: int, seed: int = 0
) -> dict[str, Estimate]:
    """Let a convolutional network tell the cells of two samples apart; at most 2,000 showers of each are read.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator.
        weights: those that make the spectra of Ep equal, shapes (n,) and (m,).
        trainings: how many; 0 for none.
        seed: of choices and trainings.
    """
    rows = [distances.thinned(weight, seed=seed) for weight in weights]
    if not trainings or min(map(len, rows)) < FEWEST:
        return {}
    samples: list[Events] = []
    for source, chosen in zip((reference, candidate), rows, strict=True):
        some = np.random.default_rng(seed).permutation(len(chosen))[:CELL_SHOWERS]
        samples.append(Selection(source, np.sort(chosen[some]))[:])
    found = auc_low_level(*samples, trainings=trainings, seed=seed)
    return {"physics/auc_low_level": _with_spread(found), "physics/jsd_low_level": found.jsd}


def layer_correlations(reference: Observables, candidate: Observables, *, seed: int = 0) -> distributions.Correlations:
    """Correlations between the layers' energies over Ep, of both samples."""
    layers = [s.profiles[:, AXES.index("z")] / s.energy[:, None] for s in (reference, candidate)]
    return distributions.layer_correlation(*layers, seed=seed)


def _thinned(sample: Sample, seed: int) -> Observables:
    chosen = distances.thinned(sample.weight, seed=seed)
    return sample.observables[chosen[sample.observables.ecal[chosen] > 0]]


def _with_spread(found: Separability) -> Estimate:
    """The area with both errors: that of the test showers and that of the trainings."""
    spread = found.auc_spread / np.sqrt(len(found.trainings))
    return Estimate(found.auc.value, float(np.hypot(found.auc.error, spread)))


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
