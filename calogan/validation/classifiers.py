"""Separation of candidate and reference by trained classifiers, and calibration of their scores.

The CaloChallenge (arXiv 2410.21611) judges generators in this way: a classifier is trained on one part of the showers,
its scores are calibrated to probabilities on a second part, and area under the ROC curve (AUC) and Jensen-Shannon
divergence (JSD) are measured on a third. Here the parts rotate from training to training, so that all showers are used
for testing in the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from calogan.errors import EventsError
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Floats
from calogan.validation.resampling import folds_by_energy

FOLDS = 5  # three for training, one for selection and calibration, one for testing: 60, 20 and 20 %
_CURVE_BINS = 10
_REPLICAS = 100

Rows = NDArray[np.intp]
Scorer = Callable[[Rows], Floats]  # rows of the joint sample -> probability of each to belong to the candidate
Trainer = Callable[[Rows, Rows, int], Scorer]  # rows for training, rows for model selection, seed -> classifier


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Share of the candidate against score; a straight line if the scores are probabilities.

    Attributes:
        score: mean score in each bin, shape (bins,); NaN for an empty bin.
        share: share of the candidate in each bin, shape (bins,).
        error: binomial error of `share`, shape (bins,).
    """

    score: Floats
    share: Floats
    error: Floats


@dataclass(frozen=True, eq=False)
class Assessment:
    """Test results of a classifier; the errors are those of the test, from Poisson bootstrap replicas.

    Attributes:
        auc: area under the ROC curve: 0.5 for indistinguishable samples, 1 for samples that are always distinguished.
        jsd: Jensen-Shannon divergence between the samples, estimated from the calibrated scores, in bits: 0 to 1.
            Slightly below 0 for indistinguishable samples, because the calibration sample is finite.
        calibration_error: expected calibration error of the raw scores.
        raw_curve: calibration curve of the raw scores.
        curve: calibration curve of the calibrated scores.
    """

    auc: Estimate
    jsd: Estimate
    calibration_error: Estimate
    raw_curve: CalibrationCurve
    curve: CalibrationCurve


@dataclass(frozen=True, eq=False)
class Separability:
    """Combined result of several trainings.

    Attributes:
        auc, jsd, calibration_error: means over the trainings, with the error of the test showers.
        auc_spread, jsd_spread: standard deviation over the trainings, each with its own test showers; 0 for a single
            training.
        raw_curve, curve: calibration curves of all test showers, see `Assessment`.
        trainings: result of each training.
    """

    auc: Estimate
    jsd: Estimate
    calibration_error: Estimate
    auc_spread: float
    jsd_spread: float
    raw_curve: CalibrationCurve
    curve: CalibrationCurve
    trainings: tuple[Assessment, ...]

    @property
    def auc_with_spread(self) -> Estimate:
        """The AUC with both errors combined: that of the test showers and that of the trainings."""
        spread = self.auc_spread / np.sqrt(len(self.trainings))
        return Estimate(self.auc.value, float(np.hypot(self.auc.error, spread)))


def energy_folds(
    reference_energy: NDArray[np.floating], candidate_energy: NDArray[np.floating], *, seed: int = 0
) -> tuple[Rows, Rows]:
    """Divide two samples into `FOLDS` parts, see `resampling.folds_by_energy`.

    Raises:
        EventsError: a sample has too few showers.
    """
    if min(len(reference_energy), len(candidate_energy)) < 10 * FOLDS:
        raise EventsError(
            f"{len(reference_energy)} reference and {len(candidate_energy)} candidate showers are too few for a "
            f"classifier; give at least {10 * FOLDS} of each"
        )
    return folds_by_energy(reference_energy, candidate_energy, folds=FOLDS, seed=seed)


def join_folds(reference_fold: Rows, candidate_fold: Rows) -> tuple[Rows, Rows]:
    """Labels (0 reference, 1 candidate) and folds of the joint sample, reference first, each of shape (n + m,)."""
    label = np.repeat(np.arange(2, dtype=np.intp), [len(reference_fold), len(candidate_fold)])
    return label, np.concatenate([reference_fold, candidate_fold])


def repeated_trainings(
    train: Trainer, label: Rows, fold: Rows, *, trainings: int, seed: int, group: Rows | None = None
) -> Separability:
    """Train a classifier several times, each time with different parts for testing and calibration.

    Args:
        train: function that trains one classifier.
        label: 0 for the reference, 1 for the candidate, shape (n,).
        fold: part of each shower, from 0 to `FOLDS` - 1, shape (n,).
        trainings: number of trainings of each group.
        seed: seed of the first training; each further one adds 1.
        group: number of the group of each shower, from 0, shape (n,): showers of different groups never meet. By default
            all are in one.
    """
    assessments, test_labels, raw, calibrated = [], [], [], []
    groups = np.zeros_like(fold) if group is None else group
    for number in range(trainings * (groups.max() + 1)):
        part = np.where(groups == number // trainings, (fold + number) % FOLDS, -1)
        test, selection, training = (np.flatnonzero(which) for which in (part == 0, part == 1, part > 1))
        score = train(training, selection, seed + number)
        calibrate = isotonic_calibration(label[selection], score(selection))
        scores = score(test)
        probabilities = calibrate(scores)
        assessments.append(assess(label[test], scores, probabilities, seed=seed + number))
        test_labels.append(label[test])
        raw.append(scores)
        calibrated.append(probabilities)
    labels = np.concatenate(test_labels)
    different = FOLDS * (int(groups.max()) + 1)
    return Separability(
        auc=_mean([a.auc for a in assessments], different),
        jsd=_mean([a.jsd for a in assessments], different),
        calibration_error=_mean([a.calibration_error for a in assessments], different),
        auc_spread=_spread([a.auc for a in assessments]),
        jsd_spread=_spread([a.jsd for a in assessments]),
        raw_curve=calibration_curve(labels, np.concatenate(raw)),
        curve=calibration_curve(labels, np.concatenate(calibrated)),
        trainings=tuple(assessments),
    )


def isotonic_calibration(label: Rows, score: Floats, weight: Floats | None = None) -> Callable[[Floats], Floats]:
    """Fit the monotonic step function that converts scores to probabilities (Zadrozny and Elkan 2002).

    The CaloChallenge keeps the probabilities 1e-6 away from 0 and 1. But n showers determine none to better than about
    1/n, and a single wrong one at 1e-6 would outweigh hundreds; so here they stay 1/(n + 2) away, Laplace's rule.

    Args:
        label: 0 or 1, of showers not used for training, shape (n,).
        score: scores of the classifier, shape (n,).
        weight: weight of each shower, shape (n,); the sums of the two labels are always made equal.

    Returns:
        A function of scores, shape (k,), that returns probabilities, shape (k,).
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
    """Assess a classifier on test showers; both labels have equal weight, whatever their numbers of showers.

    JSD = 1 - BCE / ln 2 with the binary cross-entropy BCE of the calibrated probabilities, as in the CaloChallenge:
    a perfect classifier reaches the divergence itself, any other stays below. The expected calibration error is the
    mean distance between score and share of the candidate in ten bins of the score (Guo et al., arXiv 1706.04599).

    Args:
        label: 0 for the reference, 1 for the candidate, shape (n,).
        score: raw scores of the classifier, 0 to 1, shape (n,).
        probability: calibrated scores, see `isotonic_calibration`, shape (n,).
        weight: weight of each shower, shape (n,); 1 by default.
        seed: seed of the replicas.
    """
    replicas = np.random.default_rng(seed).poisson(1.0, (1 + _REPLICAS, len(label))).astype(np.float64)
    replicas[0] = 1
    weights = _balanced(label, replicas if weight is None else replicas * weight)
    auc = areas(label, score, weights)
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


def areas(label: NDArray[np.intp], score: Floats, weights: Floats) -> Floats:
    """Areas under the ROC curve for many weightings of the same scores, which are sorted only once.

    The area is the probability that a candidate has a higher score than a reference shower; ties count a half, and so does
    a weighting, such as a replica of a few showers, that leaves none of a sample.

    Args:
        label: 0 for the reference, 1 for the candidate, shape (n,).
        score: scores of the classifier, shape (n,).
        weights: shape (k, n).

    Returns:
        Areas, shape (k,).
    """
    order = np.argsort(score)
    first_of_equals = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    r, c = (np.add.reduceat((weights * (label == i))[:, order], first_of_equals, axis=1) for i in (0, 1))
    below = np.cumsum(r, axis=1) - r / 2
    pairs = c.sum(axis=1) * r.sum(axis=1)
    shares: Floats = np.divide((c * below).sum(axis=1), pairs, out=np.full(len(pairs), 0.5), where=pairs > 0)
    return shares


def calibration_curve(label: Rows, score: Floats, weight: Floats | None = None) -> CalibrationCurve:
    """Share of the candidate in ten bins of the score, for a figure; both labels have equal weight.

    Args:
        label: 0 for the reference, 1 for the candidate, shape (n,).
        score: scores, 0 to 1, shape (n,).
        weight: weight of each shower, shape (n,); 1 by default.
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


def _mean(estimates: list[Estimate], different: int) -> Estimate:
    """Mean over trainings; more than can have different test showers do not shrink the error further."""
    error = np.sqrt(np.mean([e.error**2 for e in estimates]) / min(len(estimates), different))
    return Estimate(float(np.mean([e.value for e in estimates])), float(error))


def _spread(estimates: list[Estimate]) -> float:
    return float(np.std([e.value for e in estimates], ddof=1)) if len(estimates) > 1 else 0.0
