from types import MappingProxyType

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops
from numpy.typing import NDArray

from calogan.config import Network, Training
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks.base import LatentNetwork
from calogan.networks.families import build_generator
from calogan.networks.stages import DISTANCE
from calogan.training import arithmetic, distance
from calogan.training.distance import DistanceStage
from calogan.training.run import start_run


class Small(LatentNetwork):
    """A dense network with the inputs and outputs of the published ones."""

    family = "small"

    def __init__(self) -> None:
        features = keras.Input((self.latent_size,))
        hidden = layers.Dense(16, activation="relu")(features)
        cells = layers.Dense(25**3, activation="relu", use_bias=False)
        super().__init__(keras.Model(features, layers.Reshape(CLIC.shape)(cells(hidden))))


def test_energy_score_of_known_numbers() -> None:
    real, first, second = (
        np.array([[0, 0]], np.float32),
        np.array([[3, 3]], np.float32),
        np.array([[0, 4]], np.float32),
    )
    # Distances over sqrt(2): 3 to the first, 4 / sqrt(2) to the second, sqrt(10 / 2) between them.
    expected = 0.5 * (3 + 4 / np.sqrt(2) - np.sqrt(5))
    assert float(distance.energy_score(real, first, second)) == pytest.approx(expected, rel=1e-5)


def test_the_energy_score_of_a_perfect_prediction_is_0() -> None:
    same = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    assert float(distance.energy_score(same, same, same)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 0.5), (0.0, 1.8)])
def test_the_energy_score_is_least_for_the_true_distribution(shift: float, scale: float) -> None:
    rng = np.random.default_rng(1)
    real, first, second = rng.standard_normal((3, 20_000, 2)).astype(np.float32)
    true = float(distance.energy_score(real, first, second))
    assert float(distance.energy_score(real, shift + scale * first, shift + scale * second)) > true + 0.01


def test_views_add_up(geant4: Events) -> None:
    some = geant4[:8]
    fraction = np.mean(some.showers.sum(axis=(1, 2, 3)) / some.energy)
    total, *profiles_and_planes, soft, hard = (
        np.asarray(view) for view in distance.views(some.showers, some.energy, fraction)
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
    profile = np.asarray(distance.views(shower, np.array([10.0], np.float32), 0.02)[1 + axis])
    assert profile[0].argmax() == cell[axis]
    assert profile[0].max() == pytest.approx(0.02)


@given(st.floats(2, 500))
def test_shapes_do_not_depend_on_the_scale(scale: float) -> None:
    shower, energy = np.full((1, *CLIC.shape), 1e-3, np.float32), np.array([10.0], np.float32)
    one, other = (distance.views(shower * np.float32(factor), energy, 0.02)[1:-2] for factor in (1, scale))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4)


def test_an_almost_empty_shower_has_no_large_shares() -> None:
    shower, energy = np.full((1, *CLIC.shape), 1e-9, np.float32), np.array([10.0], np.float32)
    profile = np.asarray(distance.views(shower, energy, 0.02)[1])
    assert profile.sum() == pytest.approx(shower.sum() / energy[0] / 0.25, rel=1e-4)


def test_numbers_of_a_known_shower() -> None:
    shower = np.zeros((1, *CLIC.shape), np.float32)
    shower[0, 12, 12, 4] = shower[0, 12, 16, 4] = 0.5
    values = np.asarray(distance.numbers(shower, np.array([50.0], np.float32)))[0]
    # Centre and width (with 0.01 added to its square) along x, y and z; two hits; half of it in the central column.
    expected = [12, 0.1, 14, np.sqrt(4.01), 4, 0.1, 0.002, 0.5]
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_numbers_of_empty_and_negative_showers_are_finite() -> None:
    showers = np.stack([np.zeros(CLIC.shape, np.float32), np.full(CLIC.shape, -1.0, np.float32)])
    assert np.isfinite(np.asarray(distance.numbers(showers, np.array([2.0, 500.0], np.float32)))).all()


def test_no_shower_decides_a_step_alone() -> None:
    weights = tf.constant([1.0, 1.0, 1.0, 100.0])
    showers = tf.Variable(tf.ones((4, 2, 2, 2)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weights[:, None, None, None] * distance._limit_gradients(showers))
    np.testing.assert_allclose(tape.gradient(loss, showers)[:, 0, 0, 0], [1, 1, 1, 2], rtol=1e-5)
    np.testing.assert_array_equal(distance._limit_gradients(showers), showers)


def means(model: LatentNetwork, energy: NDArray[np.float32]) -> NDArray[np.float32]:
    latent = np.random.default_rng(7).standard_normal((len(energy), model.latent_size), np.float32)
    return np.asarray(ops.sum(model(energy, latent), axis=(1, 2, 3)) / energy)


def test_a_generator_comes_nearer_to_geant4(geant4: Events) -> None:
    keras.utils.set_random_seed(1)
    model = Small()
    stage = DistanceStage(
        DISTANCE, start_run(model, geant4, Training(distance_epochs=6, batch_size=8, shape_rate=1e-2))
    )
    fraction = np.mean(geant4.showers.sum(axis=(1, 2, 3)) / geant4.energy)
    stage.run_epoch(0, np.random.default_rng(0))
    first = np.mean(means(model, geant4.energy))
    before = stage.run_epoch(1, np.random.default_rng(1))["distance_loss"]
    for epoch in range(2, 6):
        after = stage.run_epoch(epoch, np.random.default_rng(epoch))["distance_loss"]
    assert after < 0.9 * before
    assert abs(np.mean(means(model, geant4.energy)) - fraction) < 0.8 * abs(first - fraction)
    assert set(stage.state) == {"distance_optimizer"}


def test_weights_are_left_in_gev(geant4: Events) -> None:
    """Between epochs the network gives GeV, whatever unit the steps are taken in."""
    model = Small()
    stage = DistanceStage(
        DISTANCE, start_run(model, geant4[:16], Training(distance_epochs=3, batch_size=8, shape_rate=1e-7))
    )
    stage.run_epoch(0, np.random.default_rng(0))
    kernel = model.network.layers[-2].kernel.numpy()
    stage.run_epoch(1, np.random.default_rng(1))
    np.testing.assert_allclose(model.network.layers[-2].kernel.numpy(), kernel, atol=1e-7 * 4)
    assert np.abs(kernel).max() < 0.1 * np.abs(model.network.layers[1].kernel.numpy()).max()


@pytest.mark.parametrize(("start", "rate", "factor"), [("", 10.0, 1.0), ("a model", 50.0, 3.0)])
def test_biases_follow_trained_weights_faster(geant4: Events, start: str, rate: float, factor: float) -> None:
    class Eager(Small):
        bias_rate = 50.0
        rate_factors = MappingProxyType({"hidden": 3.0})

    config = Training(distance_epochs=1, batch_size=8, start=start)
    model = Eager()
    model.network.layers[1].name = "hidden"
    stage = DistanceStage(DISTANCE, start_run(model, geant4[:16], config))
    kernel, bias, _ = stage._optimizer._rates
    assert (kernel, bias) == (factor, rate)


def test_trained_weights_are_in_gev_from_the_first_epoch(geant4: Events) -> None:
    model = Small()
    config = Training(distance_epochs=1, batch_size=8, shape_rate=1e-7, start="a model")
    stage = DistanceStage(DISTANCE, start_run(model, geant4[:16], config))
    before = model.network.layers[-2].kernel.numpy()
    stage.run_epoch(0, np.random.default_rng(0))
    np.testing.assert_allclose(model.network.layers[-2].kernel.numpy(), before, atol=1e-6)


def test_bfloat16_takes_the_steps_of_float32(geant4: Events) -> None:
    config = Training(distance_epochs=1, batch_size=4, inference_mode=True)
    losses, totals = [], []
    for policy in ("float32", "mixed_bfloat16"):
        with arithmetic.layers_in(policy):
            model = build_generator(Network(family="rehm2021"))
            stage = DistanceStage(DISTANCE, start_run(model, geant4[:16], config))
        losses.append(stage.run_epoch(0, np.random.default_rng(0))["distance_loss"])
        totals.append(means(model, geant4.energy[:16]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    np.testing.assert_allclose(totals[1], totals[0], rtol=0.03)
