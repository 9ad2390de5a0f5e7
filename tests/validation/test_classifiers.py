import numpy as np
import pytest

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


@pytest.mark.parametrize("ratio", [1, 3])
def test_trees_find_real_differences_only(ratio: int) -> None:
    rng = np.random.default_rng(1)
    energy = rng.uniform(2, 500, 400)
    folds = classifiers.energy_folds(energy, np.repeat(energy, ratio))
    r, c = rng.standard_normal((400, 3)), rng.standard_normal((400 * ratio, 3))

    same = classifiers.repeated_auc(r, c, folds)
    assert same.auc.value == pytest.approx(0.5, abs=3 * same.auc.error)
    assert same.jsd.value < 0.05
    apart = classifiers.repeated_auc(r, c + np.array([3, 0, 0]), folds)
    # two unit normal distributions three apart: Phi(3 / sqrt 2)
    assert apart.auc.value == pytest.approx(0.983, abs=0.015)
    assert apart.jsd.value > 0.6
    assert len(apart.trainings) == 5
    assert apart.auc_spread > 0
    assert apart.auc.error < apart.trainings[0].auc.error


def test_pairs_of_one_energy_do_not_push_the_area_below_one_half() -> None:
    energy = np.random.default_rng(2).uniform(2, 500, (500, 1))
    separability = classifiers.repeated_auc(energy, energy, classifiers.energy_folds(energy[:, 0], energy[:, 0]))
    assert separability.auc.value == pytest.approx(0.5, abs=0.01)


def test_a_seed_gives_the_same_again() -> None:
    rng = np.random.default_rng(3)
    r, c = rng.standard_normal((2, 100, 2))
    folds = classifiers.energy_folds(np.arange(100.0), np.arange(100.0))
    first, second = (classifiers.repeated_auc(r, c, folds, trainings=1, seed=4) for _ in range(2))
    assert first.auc == second.auc
    assert first.auc_spread == 0
