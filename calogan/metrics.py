"""How far a candidate is from the reference: pure functions, each a number with its statistical error.

Energies are taken per shower and relative to Ep unless said otherwise, so that all Ep count alike, and every metric is
0 for two equal distributions, except the AUC (0.5) and the plain moments of the candidate. Errors are the spread over Poisson
bootstrap replicas of the showers of both samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan.errors import EventsError
from calogan.events import Events
from calogan.observables import AXES, PLANES, Floats, Observables, high_level_features, moments

ENERGY_BINS_GEV = ((2, 50), (50, 150), (150, 300), (300, 500))
TAIL_CELLS = 5  # [R21]: the tails are the first and last five cells of the transverse profile
FEWEST_SHOWERS = 20  # below this neither a spread nor its error means anything
_REPLICAS = 100
_BLOCK = 1024  # showers taken at a time
_SHOWERS_PER_MATCHED_BIN = 40

Columns = Callable[[Observables], Floats]


@dataclass(frozen=True)
class Estimate:
    """A number and its statistical error (one standard deviation)."""

    value: float
    error: float


def match_energies(reference: Observables, candidate: Observables) -> tuple[Observables, Observables]:
    """Weight the candidate so that both samples have the same spectrum of Ep.

    Shower shapes change with Ep, so a difference of spectra would pass for a difference of physics. Ep is divided into
    bins of about equal numbers of reference showers; in each, the candidate's weights add up to the reference's. What
    has no counterpart in the other sample gets weight 0. Two samples of the same energies are left as they are.

    Raises:
        EventsError: fewer than `FEWEST_SHOWERS` of a sample have a counterpart and hold energy.
    """
    bins = max(1, min(25, len(reference) // _SHOWERS_PER_MATCHED_BIN))
    edges = np.unique(np.quantile(reference.energy, np.linspace(0, 1, bins + 1)))
    inside = (candidate.energy >= edges[0]) & (candidate.energy <= edges[-1])
    of_reference, of_candidate = (np.searchsorted(edges[1:-1], s.energy, side="right") for s in (reference, candidate))
    wanted = np.bincount(of_reference, minlength=len(edges)).astype(np.float64)
    found = np.bincount(of_candidate, weights=inside, minlength=len(edges))
    both = (wanted > 0) & (found > 0)
    ratio = np.divide(wanted, found, out=np.zeros_like(wanted), where=both)
    matched = (
        replace(reference, weight=both[of_reference].astype(np.float64)),
        replace(candidate, weight=np.where(inside, ratio[of_candidate], 0.0)),
    )
    for name, sample in zip(("reference", "candidate"), matched, strict=True):
        used = np.count_nonzero(sample.weight)
        if used < FEWEST_SHOWERS:
            raise EventsError(
                f"only {used} of {len(sample)} {name} showers have energies that the other sample has too; "
                f"at least {FEWEST_SHOWERS} are needed: generate the candidate at the energies of the reference "
                f"({edges[0]:g} to {edges[-1]:g} GeV)"
            )
        alive = np.count_nonzero((sample.weight > 0) & (sample.ecal > 0))
        if alive < FEWEST_SHOWERS:
            raise EventsError(
                f"only {alive} of {used} {name} showers hold any energy; at least {FEWEST_SHOWERS} are needed: "
                "check the model or the unit of the cells (GeV)"
            )
    return matched


def replica_means(sample: Observables, columns: Columns, seed: tuple[int, int]) -> Floats:
    """Weighted means of per-shower numbers, for the sample and for its bootstrap replicas.

    Args:
        sample: n observed showers.
        columns: the per-shower numbers of some showers, shape (showers, k).
        seed: of the replicas; differs between reference and candidate.

    Returns:
        Means, shape (1 + replicas, k); row 0 is the sample itself.
    """
    weights = _replica_weights(sample, seed)
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(sample), _BLOCK))
    total: Floats = sum((weights[:, block] @ columns(sample[block]) for block in blocks), start=np.zeros(()))
    means: Floats = total / weights.sum(axis=1, keepdims=True)
    return means


def composite_mse(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Total mean squared error between the two-dimensional projections of the mean showers.

    The metric of arXiv 2103.10142, table 4, which leaves binning and normalisation open. Here: R and C are the means
    over showers of the projection divided by Ep, 25x25 cells; each of xy, xz, yz contributes sum((C - R)^2) /
    sum(R^2), and the three are added. A candidate too high by a factor 1 + s gives 3 s^2. The part that the finite
    samples alone would give, the variance of the two means, is subtracted, and less than 0 is given as 0.
    """

    def columns(sample: Observables) -> Floats:
        cells = sample.projections.reshape(len(sample), -1) / sample.energy[:, None]
        return np.hstack([cells, cells**2])

    means = _both_means(reference, candidate, columns, seed)
    (r, r_square), (c, c_square) = (np.split(m.reshape(len(m), 2, len(PLANES), -1), 2, axis=1) for m in means)
    noise = (r_square - r**2) / _effective(reference) + (c_square - c**2) / _effective(candidate)
    total = (((c - r) ** 2 - noise).sum(axis=-1) / (r**2).sum(axis=-1)).sum(axis=(1, 2))
    error = _estimate(total).error
    return Estimate(max(0.0, float(total[0])), error)


def profile_moments(reference: Observables, candidate: Observables, axis: str, *, seed: int = 0) -> dict[str, Estimate]:
    """Mean and standard deviation of the mean profile along an axis, in cells counted from 0.

    Table 3 of arXiv 2103.10142: the candidate's `mean` and `std`, and their differences from the reference,
    `mean_shift` and `std_shift`.
    """
    r, c = _both_means(reference, candidate, lambda s: _per_ep(s.profiles[:, AXES.index(axis)], s), seed)
    (r_mean, r_std), (c_mean, c_std) = moments(r), moments(c)
    values = {"mean": c_mean, "std": c_std, "mean_shift": c_mean - r_mean, "std_shift": c_std - r_std}
    return {name: _estimate(value) for name, value in values.items()}


def sampling_fraction_shift(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Relative deviation of the mean of ECAL/Ep."""
    r, c = _both_means(reference, candidate, lambda s: s.sampling_fraction[:, None], seed)
    return _estimate(_deviation(c, r)[:, 0])


def resolution_shift(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Relative deviation of the resolution, the standard deviation of ECAL/Ep over its mean."""

    def resolution(means: Floats) -> Floats:
        return np.sqrt(np.maximum(means[:, 1] - means[:, 0] ** 2, 0)) / np.maximum(means[:, 0], np.finfo(float).tiny)

    def columns(sample: Observables) -> Floats:
        return np.stack([sample.sampling_fraction, sample.sampling_fraction**2], axis=1)

    r, c = _both_means(reference, candidate, columns, seed)
    return _estimate(_deviation(resolution(c), resolution(r)))


def worst_layer(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Relative deviation of the mean energy of the layer where it is largest, with its sign.

    In GeV, not over Ep: the first layers hold nearly the same energy at every Ep, so that over Ep a few showers of low
    energy would decide about them, with three times the statistical error.
    """
    r, c = _both_means(reference, candidate, lambda s: s.profiles[:, AXES.index("z")], seed)
    deviation = _deviation(c, r)
    return _estimate(deviation[:, np.argmax(np.abs(deviation[0]))])


def tail(reference: Observables, candidate: Observables, axis: str, *, last: bool, seed: int = 0) -> Estimate:
    """Relative deviation of the mean energy (over Ep) in the first or last five cells of a transverse profile."""
    cells = slice(-TAIL_CELLS, None) if last else slice(TAIL_CELLS)
    along = AXES.index(axis)
    r, c = _both_means(
        reference, candidate, lambda s: _per_ep(s.profiles[:, along, cells].sum(axis=1, keepdims=True), s), seed
    )
    return _estimate(_deviation(c, r)[:, 0])


def hits_shift(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Relative deviation of the mean number of cells above the read-out threshold."""
    r, c = _both_means(reference, candidate, lambda s: s.hits.sum(axis=1, keepdims=True), seed)
    return _estimate(_deviation(c, r)[:, 0])


def empty_showers(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Share of showers without any energy, candidate minus reference."""
    r, c = _both_means(reference, candidate, lambda s: (s.ecal == 0).astype(np.float64)[:, None], seed)
    return _estimate((c - r)[:, 0])


def separation_cell_energy(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Separation power of the spectra of cell energy, 0 for equal and 1 for disjoint ones.

    Half the sum of (r - c)^2 / (r + c) over the bins of two histograms normalised to 1: arXiv 2009.03796, eq. 15.
    """
    r, c = (m / m.sum(axis=1, keepdims=True) for m in _both_means(reference, candidate, lambda s: s.spectrum, seed))
    return _estimate(0.5 * ((r - c) ** 2 / np.maximum(r + c, 1e-16)).sum(axis=1))


def wasserstein(
    reference: Observables, candidate: Observables, quantity: Callable[[Observables], Floats], *, seed: int = 0
) -> Estimate:
    """Wasserstein-1 distance of a per-shower number, in standard deviations of the reference.

    Never negative, so two samples of the same kind give about 1/sqrt(n), not 0. Showers for which the number is not
    defined (NaN) are left out.
    """
    r, c = quantity(reference), quantity(candidate)
    r_keep, c_keep = np.isfinite(r), np.isfinite(c)
    r, c = r[r_keep], c[c_keep]
    r_weights = _replica_weights(reference, (seed, 0))[:, r_keep]
    c_weights = _replica_weights(candidate, (seed, 1))[:, c_keep]
    mean = np.average(r, weights=r_weights[0])
    spread = np.sqrt(np.average((r - mean) ** 2, weights=r_weights[0]))
    distances = np.array([wasserstein_distance(r, c, u, v) for u, v in zip(r_weights, c_weights, strict=True)])
    if spread == 0:
        return _estimate(np.where(distances > 0, np.inf, 0.0))
    return _estimate(distances / spread)


def auc_high_level(reference: Observables, candidate: Observables, *, seed: int = 0) -> Estimate:
    """Area under the ROC curve of a classifier that tells candidate from reference by its high-level features.

    Gradient-boosted trees, trained on one half and tested on the other, then the other way round; the two areas are
    averaged. 0.5: cannot be told apart; 1: always told apart. The error is that of the test, not of the training.
    """
    features = np.vstack([high_level_features(s)[0] for s in (reference, candidate)])
    label = np.repeat([0, 1], [len(reference), len(candidate)])
    weights = np.hstack([_replica_weights(s, (seed, i)) for i, s in enumerate((reference, candidate))])
    half = _halves(reference.energy, candidate.energy, seed)
    areas = []
    for test in (half, ~half):
        model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
        # On a machine that does other work too, its OpenMP threads wait for each other: 2 take 20 times as long as 1.
        with threadpool_limits(1):
            train = _drawn_by_weight(weights[0], ~test)
            model.fit(features[train], label[train])
            score = model.predict_proba(features[test])[:, 1]
        areas.append([roc_auc_score(label[test], score, sample_weight=w) for w in weights[:, test]])
    return _estimate(np.mean(areas, axis=0))


def pixelwise_difference(float32: Events, candidate: Events) -> dict[str, Estimate]:
    """How far single showers move from those of the float32 model made with the same latent.

    Table 5 of arXiv 2103.10142: the sum over cells of the absolute difference; its `mean` and `std` over showers in
    GeV, and `relative`, the mean of its ratio to the ECAL of the float32 shower.

    Raises:
        EventsError: the two do not have the same energies, so they cannot have the same latent.
    """
    if not np.array_equal(float32.energy, candidate.energy):
        raise EventsError(
            "the float32 showers and the candidate differ in number or energies; generate both with the same energies and seed"
        )
    n = len(candidate)
    difference, total = np.empty(n), np.empty(n)
    for block in (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)):
        difference[block] = np.abs(float32.showers[block] - candidate.showers[block]).sum(
            axis=(1, 2, 3), dtype=np.float64
        )
        total[block] = float32.showers[block].sum(axis=(1, 2, 3), dtype=np.float64)
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


def in_energy_bin(sample: Observables, low: float, high: float) -> Observables:
    """Showers of weight above 0 with low <= Ep < high (GeV)."""
    return sample[np.flatnonzero((sample.energy >= low) & (sample.energy < high) & (sample.weight > 0))]


def _both_means(reference: Observables, candidate: Observables, columns: Columns, seed: int) -> tuple[Floats, Floats]:
    return replica_means(reference, columns, (seed, 0)), replica_means(candidate, columns, (seed, 1))


def _replica_weights(sample: Observables, seed: tuple[int, int]) -> Floats:
    counts = np.random.default_rng(seed).poisson(1.0, (1 + _REPLICAS, len(sample)))
    counts[0] = 1
    return counts * sample.weight


def _estimate(replicas: Floats) -> Estimate:
    with np.errstate(invalid="ignore"):
        error = float(np.std(replicas[1:]))
    return Estimate(float(replicas[0]), error)


def _per_ep(energies: Floats, sample: Observables) -> Floats:
    return energies / sample.energy[:, None]


def _deviation(candidate: Floats, reference: Floats) -> Floats:
    """Relative deviation; 0 where both are 0, infinite where only the reference is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = candidate / reference
    return np.where(candidate == reference, 0.0, ratio - 1)


def _effective(sample: Observables) -> float:
    """Number of showers of equal weight that would have the same statistical error."""
    return float(sample.weight.sum() ** 2 / (sample.weight**2).sum())


def _drawn_by_weight(weights: Floats, which: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices of some showers, each as many times as its weight says on average.

    For a training: with weights given instead, scikit-learn 1.9 takes 15 times as long to choose its bins.
    """
    rows = np.flatnonzero(which)
    drawn = np.floor(np.cumsum(weights[rows]) + 0.5)
    return np.repeat(rows, np.diff(drawn, prepend=0.0).astype(np.intp))


def _halves(reference_ep: Floats, candidate_ep: Floats, seed: int) -> NDArray[np.bool_]:
    """Divide two samples in halves, showers of neighbouring energies together.

    A candidate usually has the energies of the reference. If one shower of a pair trained the classifier and the
    other tested it, it could learn which energy has which label and would be wrong each time: AUC below 0.5.
    """
    blocks = min(len(reference_ep), len(candidate_ep))
    in_first = np.random.default_rng(seed).permutation(blocks) % 2 == 0
    halves = []
    for energy in (reference_ep, candidate_ep):
        rank = np.empty(len(energy), dtype=np.intp)
        rank[np.argsort(energy, kind="stable")] = np.arange(len(energy))
        halves.append(in_first[rank * blocks // len(energy)])
    return np.concatenate(halves)
