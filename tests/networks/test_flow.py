import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calogan.events import Events
from calogan.networks.flow import SIZE, LayerFlow, log_energy, to_sticks


@pytest.fixture(scope="module")
def model(geant4: Events) -> LayerFlow:
    """A flow scaled to showers, whose couplings are no longer the identity."""
    keras.utils.set_random_seed(1)
    flow = LayerFlow(couplings=3, width=8)
    flow.fit_scale(to_sticks(layer_energies(geant4), geant4.energy), geant4.energy)
    flow(np.zeros((1, SIZE), np.float32), np.zeros((1, 1), np.float32))
    rng = np.random.default_rng(2)
    for variable in flow.trainable_variables:
        variable.assign(0.3 * rng.standard_normal(variable.shape))
    return flow


@pytest.fixture(scope="module")
def condition(geant4: Events) -> NDArray[np.float32]:
    return np.asarray(log_energy(geant4.energy))


def layer_energies(events: Events) -> NDArray[np.float32]:
    return np.asarray(events.showers.sum(axis=(1, 2)))


def forward(model: LayerFlow, x: NDArray[np.float32], condition: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sticks to normal numbers, by the couplings one by one: the direction whose density `log_likelihood` gives."""
    for order, block in zip(model.orders, model.blocks, strict=True):
        x = x[:, order]
        fixed, rest = x[:, : model.half], x[:, model.half :]
        scale, shift = np.split(np.asarray(block(np.concatenate([fixed, condition], axis=1))), 2, axis=1)
        x = np.concatenate([fixed, rest * np.exp(1.5 * np.tanh(scale / 1.5)) + shift], axis=1)
    return x


def test_the_condition_is_zero_at_100_gev() -> None:
    np.testing.assert_allclose(log_energy(np.array([100, 100 * np.exp(1.5)], np.float32)), [[0], [1]], atol=1e-6)


def test_drawing_and_going_back_gives_the_normal_numbers(model: LayerFlow, condition: NDArray[np.float32]) -> None:
    normal = np.random.default_rng(3).standard_normal((len(condition), SIZE), np.float32)
    scaled = np.asarray(model(normal, condition))
    assert np.abs(scaled - normal).max() > 0.5
    np.testing.assert_allclose(forward(model, scaled, condition), normal, atol=2e-4)


def test_the_likelihood_is_the_normal_density_times_the_determinant(model: LayerFlow) -> None:
    x = np.random.default_rng(4).standard_normal(SIZE).astype(np.float32)
    condition = np.array([[0.3]], np.float32)
    step = 1e-2
    ends = x + step * np.concatenate([np.eye(SIZE), -np.eye(SIZE)]).astype(np.float32)
    images = forward(model, ends, np.repeat(condition, 2 * SIZE, axis=0)).astype(np.float64)
    jacobian = (images[:SIZE] - images[SIZE:]) / (2 * step)
    normal = forward(model, x[None], condition)[0].astype(np.float64)
    expected = np.linalg.slogdet(jacobian)[1] - 0.5 * np.sum(normal**2) - 0.5 * SIZE * np.log(2 * np.pi)
    assert np.asarray(model.log_likelihood(x[None], condition))[0] == pytest.approx(expected, abs=0.02)


def test_an_untrained_flow_only_changes_the_order() -> None:
    flow = LayerFlow(couplings=2, width=8)
    normal = np.random.default_rng(5).standard_normal((4, SIZE), np.float32)
    condition = np.zeros((4, 1), np.float32)
    np.testing.assert_allclose(np.sort(flow(normal, condition)), np.sort(normal), atol=1e-6)
    expected = -0.5 * np.sum(normal**2, axis=1) - 0.5 * SIZE * np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_likelihood(normal, condition), expected, rtol=1e-5)


def test_sticks_of_a_known_shower() -> None:
    layers = np.zeros((1, SIZE), np.float32)
    layers[0, :3] = 1.0, 1.0, 2.0
    sticks = to_sticks(layers, np.array([200], np.float32))
    # A quarter of 4 GeV, a third of the 3 left, all of the 2 left, and 4 of 200 GeV.
    np.testing.assert_allclose(sticks[0, :2], [np.log(1 / 3), np.log(1 / 2)], rtol=1e-6)
    assert sticks[0, 2] == pytest.approx(np.log(99999), rel=1e-6)
    assert sticks[0, -1] == pytest.approx(np.log(0.02), rel=1e-6)


def test_showers_scaled_to_the_flow_and_back_keep_their_layers(
    model: LayerFlow, geant4: Events, condition: NDArray[np.float32]
) -> None:
    sticks = to_sticks(layer_energies(geant4), geant4.energy).astype(np.float32)
    scaled = np.asarray(model.normalise(sticks, condition))
    again = np.asarray(model.layer_energies(scaled, condition, geant4.energy))
    np.testing.assert_allclose(again, layer_energies(geant4), rtol=2e-3, atol=2e-4 * np.exp(sticks[:, -1:]).max())


def test_scaled_showers_are_centred_of_unit_width_and_uncorrelated(
    model: LayerFlow, geant4: Events, condition: NDArray[np.float32]
) -> None:
    sticks = to_sticks(layer_energies(geant4), geant4.energy).astype(np.float32)
    scaled = np.asarray(model.normalise(sticks, condition))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.5)
    np.testing.assert_allclose(np.cov(scaled, rowvar=False), np.eye(SIZE), atol=0.02)


@given(st.integers(0, 2**32), st.floats(2, 500))
@settings(max_examples=20, deadline=None)
def test_layers_sum_to_the_sampling_fraction_times_the_energy(model: LayerFlow, seed: int, energy: float) -> None:
    e = np.full(8, energy, np.float32)
    condition = np.asarray(log_energy(e))
    scaled = np.random.default_rng(seed).standard_normal((8, SIZE), np.float32)
    layers = np.asarray(model.layer_energies(scaled, condition, e))
    basis = np.power(condition, np.arange(4))
    spread, centre = np.exp(basis @ np.asarray(model.spread)), basis @ np.asarray(model.centre)
    fraction = np.exp((scaled @ np.asarray(model.unmix) * spread + centre)[:, -1])
    assert (layers >= 0).all()
    np.testing.assert_allclose(layers.sum(axis=1), fraction * e, rtol=1e-4)
