import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from calogan.events import Events
from calogan.geometry import CLIC
from calogan.training import energy_score


def test_energy_score_of_known_numbers() -> None:
    real, first, second = (
        np.array([[0, 0]], np.float32),
        np.array([[3, 3]], np.float32),
        np.array([[0, 4]], np.float32),
    )
    # Distances over sqrt(2): 3 to the first, 4 / sqrt(2) to the second, sqrt(10 / 2) between them.
    expected = 0.5 * (3 + 4 / np.sqrt(2) - np.sqrt(5))
    assert float(energy_score.energy_score(real, first, second)) == pytest.approx(expected, rel=1e-5)


def test_the_energy_score_of_a_perfect_prediction_is_0() -> None:
    same = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    assert float(energy_score.energy_score(same, same, same)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 0.5), (0.0, 1.8)])
def test_the_energy_score_is_least_for_the_true_distribution(shift: float, scale: float) -> None:
    rng = np.random.default_rng(1)
    real, first, second = rng.standard_normal((3, 20_000, 2)).astype(np.float32)
    true = float(energy_score.energy_score(real, first, second))
    assert float(energy_score.energy_score(real, shift + scale * first, shift + scale * second)) > true + 0.01


def test_views_add_up(geant4: Events) -> None:
    some = geant4[:8]
    fraction = np.mean(some.showers.sum(axis=(1, 2, 3)) / some.energy)
    total, *profiles_and_planes, soft, hard = (
        np.asarray(view) for view in energy_score.views(some.showers, some.energy, fraction)
    )
    np.testing.assert_allclose(total[:, 0], some.showers.sum(axis=(1, 2, 3)) / some.energy, rtol=1e-5)
    assert [view.shape[1] for view in profiles_and_planes] == [25, 25, 25, 625, 625, 625]
    for view in profiles_and_planes:
        np.testing.assert_allclose(view.sum(axis=1), fraction, rtol=1e-4)
    for cells in (soft, hard):
        assert cells.shape == (8, 25**3)
        assert np.array_equal(cells > 0, some.showers.reshape(8, -1) > 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_profiles_are_along_x_y_and_z(axis: int) -> None:
    shower = np.zeros((1, *CLIC.shape), np.float32)
    cell = (3, 12, 20)
    shower[(0, *cell)] = 1.0
    profile = np.asarray(energy_score.views(shower, np.array([10.0], np.float32), 0.02)[1 + axis])
    assert profile[0].argmax() == cell[axis]
    assert profile[0].max() == pytest.approx(0.02)


@given(st.floats(2, 500))
def test_shapes_do_not_depend_on_the_scale(scale: float) -> None:
    shower, energy = np.full((1, *CLIC.shape), 1e-3, np.float32), np.array([10.0], np.float32)
    one, other = (energy_score.views(shower * np.float32(factor), energy, 0.02)[1:-2] for factor in (1, scale))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4)


def test_an_almost_empty_shower_has_no_large_shares() -> None:
    shower, energy = np.full((1, *CLIC.shape), 1e-9, np.float32), np.array([10.0], np.float32)
    profile = np.asarray(energy_score.views(shower, energy, 0.02)[1])
    assert profile.sum() == pytest.approx(shower.sum() / energy[0] / 0.25, rel=1e-4)


def test_numbers_of_a_known_shower() -> None:
    shower = np.zeros((1, *CLIC.shape), np.float32)
    shower[0, 12, 12, 4] = shower[0, 12, 16, 4] = 0.5
    values = np.asarray(energy_score.numbers(shower, np.array([50.0], np.float32)))[0]
    # Centre and width (with 0.01 added to its square) along x, y and z; two hits; half of it in the central column.
    expected = [12, 0.1, 14, np.sqrt(4.01), 4, 0.1, 0.002, 0.5]
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_numbers_of_empty_and_negative_showers_are_finite() -> None:
    showers = np.stack([np.zeros(CLIC.shape, np.float32), np.full(CLIC.shape, -1.0, np.float32)])
    assert np.isfinite(np.asarray(energy_score.numbers(showers, np.array([2.0, 500.0], np.float32)))).all()


def test_no_shower_decides_a_step_alone() -> None:
    weights = tf.constant([1.0, 1.0, 1.0, 100.0])
    showers = tf.Variable(tf.ones((4, 2, 2, 2)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weights[:, None, None, None] * energy_score.limit_gradients(showers))
    np.testing.assert_allclose(tape.gradient(loss, showers)[:, 0, 0, 0], [1, 1, 1, 2], rtol=1e-5)
    np.testing.assert_array_equal(energy_score.limit_gradients(showers), showers)
