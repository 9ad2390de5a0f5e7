import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from calogan.errors import EventsError
from calogan.validation import classifiers
from calogan.validation.observables import Floats


def two_scores(candidate: int, reference: int, high: float = 0.8) -> tuple[classifiers.Rows, Floats]:
    """Four of five candidate showers have a high score, four of five reference showers a low one."""
    numbers = [candidate * 4 // 5, candidate // 5, reference // 5, reference * 4 // 5]
    return np.repeat([1, 1, 0, 0], numbers), np.repeat([high, 1 - high, high, 1 - high], numbers)


def test_neighbours_in_energy_stay_together() -> None:
    rng = np.random.default_rng(0)
    energy = rng.uniform(2, 500, 500)
    other = energy[rng.permutation(500)]
    r, c = classifiers.energy_folds(energy, other, seed=3)

    assert np.array_equal(r[np.argsort(energy)], c[np.argsort(other)])
    assert (np.bincount(r) == 100).all()
    many = classifiers.energy_folds(energy, np.repeat(energy, 4))[1]
    assert (np.bincount(many) == 400).all()
    with pytest.raises(EventsError, match="too few"):
        classifiers.energy_folds(energy[:49], energy)


@pytest.mark.parametrize("reference", [1000, 5000])
def test_known_scores_give_the_known_numbers(reference: int) -> None:
    label, score = two_scores(1000, reference)
    assessment = classifiers.assess(label, score, score)

    assert assessment.auc.value == pytest.approx(0.8 * 0.8 + 0.5 * 2 * 0.8 * 0.2)
    # 1 minus the entropy of (0.8, 0.2) in bits
    assert assessment.jsd.value == pytest.approx(1 + 0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    assert assessment.calibration_error.value == pytest.approx(0, abs=1e-12)
    assert assessment.auc.error == pytest.approx(0.4 * np.sqrt(0.25 / 1000 + 0.25 / reference) * 2**0.5, rel=0.5)
    assert assessment.curve.share[[1, 8]] == pytest.approx([0.2, 0.8])
    assert np.isnan(assessment.curve.share[5])


def test_overconfident_scores_are_detected_and_corrected() -> None:
    label, score = two_scores(2000, 2000, high=0.95)
    calibrate = classifiers.isotonic_calibration(label, score)
    assessment = classifiers.assess(label, score, calibrate(score))

    assert assessment.calibration_error.value == pytest.approx(0.15)
    assert calibrate(np.array([0.0, 0.05, 0.95, 1.0])) == pytest.approx([0.2, 0.2, 0.8, 0.8])
    assert assessment.curve.score[[1, 2, 8]] == pytest.approx([np.nan, 0.2, 0.8], nan_ok=True)
    assert assessment.jsd.value == pytest.approx(0.278, abs=1e-3)


def test_weights_count_as_showers() -> None:
    label, score = np.repeat([0, 0, 1, 1], 10), np.repeat([0.2, 0.6, 0.4, 0.9], 10)
    weight = np.repeat([1.0, 3, 2, 1], 10)
    weighted = classifiers.assess(label, score, score, weight)
    rows = np.repeat(np.arange(40), weight.astype(int))
    repeated = classifiers.assess(label[rows], score[rows], score[rows])

    assert weighted.auc.value == pytest.approx(repeated.auc.value)
    assert weighted.jsd.value == pytest.approx(repeated.jsd.value)


def test_a_sure_mistake_does_not_outweigh_the_rest() -> None:
    label = np.repeat([0, 1], 100)
    calibrate = classifiers.isotonic_calibration(label, label.astype(float))
    wrong = label.copy()
    wrong[0] = 1
    assert calibrate(np.array([0.0, 1.0])) == pytest.approx([1 / 202, 1 - 1 / 202])
    assert classifiers.assess(wrong, label.astype(float), calibrate(label.astype(float))).jsd.value > 0.8


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 3), st.integers(0, 1)), min_size=2, max_size=30))
def test_areas_are_those_of_scikit_learn(showers: list[tuple[int, float, int]]) -> None:
    score, weight, label = (np.array(column) for column in zip(*showers, strict=True))
    label[:2] = [0, 1]
    weights = np.vstack([np.ones(len(score)), weight])
    expected = [roc_auc_score(label, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(classifiers.areas(label, score.astype(float), weights), expected, rtol=1e-9)


def test_a_replica_without_a_sample_knows_nothing() -> None:
    weights = np.array([[1.0, 0, 1, 1], [0, 0, 1, 1]])
    areas = classifiers.areas(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4]), weights)
    assert areas.tolist() == [1.0, 0.5]


def test_groups_never_meet_and_are_averaged() -> None:
    label, fold, group = np.tile([0, 1], 50), np.arange(100) // 2 % 5, np.repeat([0, 1], 50)
    seen: list[set[int]] = []

    def train(rows: classifiers.Rows, selection: classifiers.Rows, _: int) -> classifiers.Scorer:
        seen.append({*rows, *selection})
        right = group[rows[0]] == 0  # the classifier of the first group is always right, the other always wrong
        return lambda which: np.where((label[which] == 1) == right, 0.9, 0.1)

    result = classifiers.repeated_trainings(train, label, fold, trainings=5, seed=0, group=group)
    assert len(result.trainings) == 10
    assert all(rows <= set(range(50)) for rows in seen[:5])
    assert all(rows <= set(range(50, 100)) for rows in seen[5:])
    assert [assessment.auc.value for assessment in result.trainings] == [1.0] * 5 + [0.0] * 5
    assert result.auc.value == 0.5
    assert result.auc_with_spread.error == pytest.approx(np.std([1.0] * 5 + [0.0] * 5, ddof=1) / np.sqrt(10), rel=0.02)
