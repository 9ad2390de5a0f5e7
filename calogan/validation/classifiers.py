"""How well a trained classifier tells candidate from reference, and whether its scores are probabilities.

The CaloChallenge (arXiv 2410.21611) judges generators so: a classifier is trained on one part of the showers, its
scores are made probabilities on a second part, and area under the ROC curve (AUC) and Jensen-Shannon divergence (JSD)
are measured on a third. Here the parts rotate from training to training, so that all showers are tested in the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan.errors import EventsError
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Floats
from calogan.validation.resampling import folds_by_energy

FOLDS = 5  # three to train, one to choose and calibrate, one to test: 60, 20 and 20 %
TREE_SHOWERS = 10_000  # of each sample
_CURVE_BINS = 10
_REPLICAS = 100

Rows = NDArray[np.intp]
Scorer = Callable[[Rows], Floats]  # rows of the joined samples -> probability of each to be of the candidate
Trainer = Callable[[Rows, Rows, int], Scorer]  # rows to train on, rows to choose by, seed -> classifier


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """How often showers of a score are of the candidate; a straight line if the scores are probabilities.

    Attributes:
        score: mean score in each bin, shape (bins,); NaN where no shower is.
        share: share of the candidate in each bin, shape (bins,).
        error: binomial error of `share`, shape (bins,).
    """

    score: Floats
    share: Floats
    error: Floats


@dataclass(frozen=True, eq=False)
class Assessment:
    """What test showers say of a classifier. The errors are those of the test, from Poisson bootstrap replicas.

    Attributes:
        auc: area under the ROC curve: 0.5 cannot be told apart, 1 always told apart.
        jsd: Jensen-Shannon divergence between the samples as the calibrated scores see it, in bits: 0 to 1. Slightly
            below 0 for samples that cannot be told apart, because the calibration is of finite showers.
        calibration_error: expected calibration error of the scores as the classifier gives them.
        raw_curve: of the scores as the classifier gives them.
        curve: of the calibrated scores.
    """

    auc: Estimate
    jsd: Estimate
    calibration_error: Estimate
    raw_curve: CalibrationCurve
    curve: CalibrationCurve


@dataclass(frozen=True, eq=False)
class Separability:
    """The verdict of several trainings.

    Attributes:
        auc, jsd, calibration_error: means over the trainings, with the error of the test showers.
        auc_spread, jsd_spread: standard deviation over the trainings, each with its own test showers; 0 for one.
        raw_curve, curve: of all tested showers, see `Assessment`.
        trainings: what each found, for a table.
    """

    auc: Estimate
    jsd: Estimate
    calibration_error: Estimate
    auc_spread: float
    jsd_spread: float
    raw_curve: CalibrationCurve
    curve: CalibrationCurve
    trainings: tuple[Assessment, ...]


def energy_folds(
    reference_energy: NDArray[np.floating], candidate_energy: NDArray[np.floating], *, seed: int = 0
) -> tuple[Rows, Rows]:
    """Divide two samples in `FOLDS` parts, see `resampling.folds_by_energy`.

    Raises:
        EventsError: too few showers to train on.
    """
    if min(len(reference_energy), len(candidate_energy)) < 10 * FOLDS:
        raise EventsError(
            f"{len(reference_energy)} reference and {len(candidate_energy)} candidate showers are too few for a "
            f"classifier; give at least {10 * FOLDS} of each"
        )
    return folds_by_energy(reference_energy, candidate_energy, folds=FOLDS, seed=seed)


def repeated_auc(
    reference: NDArray[np.floating],
    candidate: NDArray[np.floating],
    folds: tuple[Rows, Rows],
    *,
    trainings: int = FOLDS,
    seed: int = 0,
) -> Separability:
    """Let gradient-boosted trees tell candidate from reference by their features, several times.

    Args:
        reference: shape (n, d); NaN where not defined.
        candidate: shape (m, d); NaN where not defined.
        folds: see `energy_folds`. At most `TREE_SHOWERS` of each sample train and test, chosen at random.
        trainings: how many; `FOLDS` of them test every shower once.
        seed: of the trainings.
    """
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(len(sample))[:TREE_SHOWERS] for sample in (reference, candidate)]
    features = np.vstack([sample[rows] for sample, rows in zip((reference, candidate), kept, strict=True)])
    label, fold = joined(*(of_sample[rows] for of_sample, rows in zip(folds, kept, strict=True)))

    def train(rows: Rows, _: Rows, seed: int) -> Scorer:
        model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
        # On a machine that does other work too, its OpenMP threads wait for each other: 2 take 20 times as long as 1.
        with threadpool_limits(1):
            model.fit(features[rows], label[rows])
        share = label[rows].mean()

        def score(which: Rows) -> Floats:
            with threadpool_limits(1):
                probability = model.predict_proba(features[which])[:, 1]
            # As if there were as many showers of the candidate as of the reference.
            odds_candidate, odds_reference = probability / share, (1 - probability) / (1 - share)
            balanced: Floats = odds_candidate / (odds_candidate + odds_reference)
            return balanced

        return score

    return repeated_trainings(train, label, fold, trainings=trainings, seed=seed)


def joined(reference_fold: Rows, candidate_fold: Rows) -> tuple[Rows, Rows]:
    """Labels (0 reference, 1 candidate) and folds of both samples, one after the other, each of shape (n + m,)."""
    label = np.repeat(np.arange(2, dtype=np.intp), [len(reference_fold), len(candidate_fold)])
    return label, np.concatenate([reference_fold, candidate_fold])


def repeated_trainings(train: Trainer, label: Rows, fold: Rows, *, trainings: int, seed: int) -> Separability:
    """Train a classifier several times, each time with another part to test and another to calibrate.

    Args:
        train: trains once.
        label: 0 for the reference, 1 for the candidate, shape (n,).
        fold: part of each shower, from 0 to `FOLDS` - 1, shape (n,).
        trainings: how many.
        seed: of the first training; the next ones count up.
    """
    found, tested, raw, calibrated = [], [], [], []
    for number in range(trainings):
        part = (fold + number) % FOLDS
        test, choose, rest = (np.flatnonzero(which) for which in (part == 0, part == 1, part > 1))
        score = train(rest, choose, seed + number)
        calibrate = isotonic_calibration(label[choose], score(choose))
        scores = score(test)
        probabilities = calibrate(scores)
        found.append(assess(label[test], scores, probabilities, seed=seed + number))
        tested.append(label[test])
        raw.append(scores)
        calibrated.append(probabilities)
    labels = np.concatenate(tested)
    return Separability(
        auc=_mean([a.auc for a in found]),
        jsd=_mean([a.jsd for a in found]),
        calibration_error=_mean([a.calibration_error for a in found]),
        auc_spread=_spread([a.auc for a in found]),
        jsd_spread=_spread([a.jsd for a in found]),
        raw_curve=calibration_curve(labels, np.concatenate(raw)),
        curve=calibration_curve(labels, np.concatenate(calibrated)),
        trainings=tuple(found),
    )


def isotonic_calibration(label: Rows, score: Floats, weight: Floats | None = None) -> Callable[[Floats], Floats]:
    """Fit the rising step function that makes scores probabilities (Zadrozny and Elkan 2002).

    The CaloChallenge keeps the probabilities 1e-6 away from 0 and 1. From n showers none can be known to better than
    about 1/n, and a single wrong one at 1e-6 would outweigh hundreds; so here they stay 1/(n + 2) away, Laplace's rule.

    Args:
        label: 0 or 1, of showers that trained nothing, shape (n,).
        score: of the classifier, shape (n,).
        weight: of each shower, shape (n,); the two labels are brought to equal sums in any case.

    Returns:
        A function of scores, shape (k,), that gives probabilities, shape (k,).
    """
    least = 1 / (len(label) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    model.fit(score, label, sample_weight=_balanced(label, weight)[0])

    def calibrate(scores: Floats) -> Floats:
        return np.asarray(model.predict(scores), np.float64)

    return calibrate


def assess(
    label: Rows, score: Floats, probability: Floats, weight: Floats | None = None, *, seed: int = 0
) -> Assessment:
    """Judge a classifier by test showers; both labels count alike, however many showers each has.

    JSD = 1 - BCE / ln 2 with the binary cross-entropy BCE of the calibrated probabilities, as in the CaloChallenge:
    what a perfect classifier would reach is the divergence itself, any other stays below. The expected calibration
    error is the mean distance of score and share of the candidate in ten bins of the score (Guo et al.,
    arXiv 1706.04599).

    Args:
        label: 0 for the reference, 1 for the candidate, shape (n,).
        score: as the classifier gives it, 0 to 1, shape (n,).
        probability: calibrated, see `isotonic_calibration`, shape (n,).
        weight: of each shower, shape (n,); 1 when not given.
        seed: of the replicas.
    """
    replicas = np.random.default_rng(seed).poisson(1.0, (1 + _REPLICAS, len(label))).astype(np.float64)
    replicas[0] = 1
    weights = _balanced(label, replicas if weight is None else replicas * weight)
    auc = np.array([roc_auc_score(label, score, sample_weight=w) for w in weights])
    likelihood = np.where(label == 1, probability, 1 - probability)
    jsd = 1 + weights @ np.log2(likelihood)
    inside = _in_bins(score)
    calibration_error = np.abs((weights * (score - label)) @ inside).sum(axis=1)
    return Assessment(
        auc=Estimate.of_replicas(auc),
        jsd=Estimate.of_replicas(jsd),
        calibration_error=Estimate.of_replicas(calibration_error),
        raw_curve=calibration_curve(label, score, weight),
        curve=calibration_curve(label, probability, weight),
    )


def calibration_curve(label: Rows, score: Floats, weight: Floats | None = None) -> CalibrationCurve:
    """Share of the candidate in ten bins of the score, for a figure; both labels count alike.

    Args:
        label: 0 or 1, shape (n,).
        score: 0 to 1, shape (n,).
        weight: of each shower, shape (n,); 1 when not given.
    """
    weights, inside = _balanced(label, weight)[0], _in_bins(score)
    total, square = weights @ inside, weights**2 @ inside
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (weights * label) @ inside / total
        error = np.sqrt(share * (1 - share) * square) / total
        return CalibrationCurve((weights * score) @ inside / total, share, error)


def _balanced(label: Rows, weight: Floats | None) -> Floats:
    """Weights, shape (replicas, n), that add up to 1/2 for each label."""
    weights = np.atleast_2d(np.ones(len(label)) if weight is None else weight).astype(np.float64)
    total = np.stack([weights @ (label == which) for which in (0, 1)], axis=1)
    balanced: Floats = weights / (2 * np.maximum(total, np.finfo(float).tiny))[:, label]
    return balanced


def _in_bins(score: Floats) -> Floats:
    """1 where a score is in a bin, shape (n, bins)."""
    which = np.minimum((np.asarray(score) * _CURVE_BINS).astype(np.intp), _CURVE_BINS - 1)
    inside: Floats = (which[:, None] == np.arange(_CURVE_BINS)).astype(np.float64)
    return inside


def _mean(found: list[Estimate]) -> Estimate:
    """Mean over trainings; those beyond the number of folds bring no new showers, so the error shrinks no further."""
    error = np.sqrt(np.mean([e.error**2 for e in found]) / min(len(found), FOLDS))
    return Estimate(float(np.mean([e.value for e in found])), float(error))


def _spread(found: list[Estimate]) -> float:
    return float(np.std([e.value for e in found], ddof=1)) if len(found) > 1 else 0.0
