"""Boosted trees that separate candidate and reference by their observables: the one definition of the AUC.

Training, searches, reports and pages all use it: n reference showers against n of the candidate, where n is half the
reference, at most `TREE_SHOWERS`, and all features of `observables.high_level_features`. Each half of the reference meets
other showers of the candidate in five trainings, which learn from three fifths, calibrate with a fourth and are tested with
a fifth, in turn; the result is the mean of the ten. The floor is one half of the reference against the other: five trainings
of the same n against n. So an AUC and its floor are of the same numbers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan.validation.classifiers import FOLDS, Rows, Scorer, Separability, join_folds, repeated_trainings
from calogan.validation.distances import unweight
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Floats, Observables, high_level_features
from calogan.validation.resampling import Sample, folds_by_energy

TREE_SHOWERS = 5_000  # of each sample in a training and its test
METRICS = ("auc_high_level", "jsd_high_level", "calibration_error_high_level")
_FEWEST = 2 * FOLDS


def compare(reference: Sample, candidate: Sample, *, seed: int = 0) -> tuple[dict[str, Estimate], int]:
    """Separate two samples whose energies match.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator.
        seed: seed of the selection, the parts and the trainings.

    Returns:
        The metrics by name, empty if there are too few showers for five parts; and the number n of showers.
    """
    rng = np.random.default_rng(seed)
    ours, theirs = (rng.permutation(unweight(sample.weight, seed=seed)) for sample in (reference, candidate))
    n = min(TREE_SHOWERS, len(ours) // 2, len(theirs))
    if n < _FEWEST:
        return {}, n
    # The second half may meet showers of the candidate again, but none occurs twice in one training and its test.
    groups = [
        (reference.observables[ours[k * n : (k + 1) * n]], candidate.observables[np.take(theirs, which, mode="wrap")])
        for k, which in enumerate((np.arange(n), np.arange(n, 2 * n)))
    ]
    return _metrics(separate(groups, seed=seed)), n


def floor(reference: Sample, showers: int, *, seed: int = 0) -> dict[str, Estimate]:
    """Metrics of one half of the reference against the other, with the number of showers of `compare`."""
    if showers < _FEWEST:
        return {}
    rows = np.random.default_rng(seed).permutation(unweight(reference.weight, seed=seed))[: 2 * showers]
    halves = reference.observables[rows[:showers]], reference.observables[rows[showers:]]
    return _metrics(separate([halves], seed=seed))


def separate(groups: Sequence[tuple[Observables, Observables]], *, seed: int = 0) -> Separability:
    """Train trees on pairs of samples, which do not mix, and average.

    Args:
        groups: reference and candidate showers with the same spectrum of Ep.
        seed: seed of the parts and the trainings.
    """
    features, labels, folds = [], [], []
    for number, (ours, theirs) in enumerate(groups):
        features += [high_level_features(sample)[0] for sample in (ours, theirs)]
        label, fold = join_folds(*folds_by_energy(ours.energy, theirs.energy, folds=FOLDS, seed=seed + number))
        labels.append(label)
        folds.append(fold)
    group = np.repeat(np.arange(len(groups)), [len(label) for label in labels])
    return train(np.vstack(features), np.concatenate(labels), np.concatenate(folds), group, seed=seed)


def _metrics(trees: Separability) -> dict[str, Estimate]:
    estimates = (trees.auc_with_spread, trees.jsd, trees.calibration_error)
    return {f"physics/{name}": estimate for name, estimate in zip(METRICS, estimates, strict=True)}


def train(
    features: NDArray[np.floating],
    label: Rows,
    fold: Rows,
    group: Rows | None = None,
    *,
    trainings: int = FOLDS,
    seed: int = 0,
) -> Separability:
    """Train gradient-boosted trees several times to separate candidate and reference by their features.

    Args:
        features: of all showers, shape (n, d); NaN where undefined.
        label: 0 for the reference, 1 for the candidate, shape (n,).
        fold: part of each shower, from 0 to `FOLDS` - 1, shape (n,).
        group: see `classifiers.repeated_trainings`.
        trainings: number of trainings of each group; with `FOLDS` of them, every shower is tested once.
        seed: seed of the trainings.
    """

    def fit(rows: Rows, _: Rows, seed: int) -> Scorer:
        model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
        # On a busy machine OpenMP threads wait for each other: 2 threads take 20 times as long as 1.
        with threadpool_limits(1):
            model.fit(features[rows], label[rows])
        share = label[rows].mean()

        def score(which: Rows) -> Floats:
            with threadpool_limits(1):
                probability = model.predict_proba(features[which])[:, 1]
            # Corrected to equal numbers of candidate and reference showers.
            odds_candidate, odds_reference = probability / share, (1 - probability) / (1 - share)
            balanced: Floats = odds_candidate / (odds_candidate + odds_reference)
            return balanced

        return score

    return repeated_trainings(fit, label, fold, trainings=trainings, seed=seed, group=group)
