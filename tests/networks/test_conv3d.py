import keras
import numpy as np
import pytest

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks.conv3d import Conv3D
from calogan.networks.families import build_generator


@pytest.fixture(scope="module")
def model() -> Conv3D:
    keras.utils.set_random_seed(1)
    network = build_generator(Network(family="conv3d"))
    assert isinstance(network, Conv3D)
    return network


def test_the_generator_has_the_parameters_of_the_published_layers(model: Conv3D) -> None:
    dense = 200 * 3136 + 3136
    convolutions = [8 * 6 * 6 * 8 * 64 + 64, 64 * 6 * 5 * 8 * 6 + 6, 6 * 3 * 3 * 8 * 6 + 6, 6 * 2 * 2 * 2]
    normalisations = 4 * 64 + 4 * 6
    assert model.network.count_params() == dense + sum(convolutions) + normalisations


def test_showers_come_out_without_negative_or_unreadable_cells(model: Conv3D) -> None:
    latent = np.random.default_rng(1).standard_normal((2, model.latent_size), np.float32)
    showers = np.asarray(model(np.array([50, 500], np.float32), latent))
    assert showers.shape == (2, *CLIC.shape)
    assert ((showers == 0) | (showers >= CLIC.threshold_gev)).all()
    assert showers.max() > 0


def test_the_latent_numbers_are_scaled_with_the_energy(model: Conv3D) -> None:
    features, _ = model.prepare(np.array([50, 200], np.float32), np.ones((2, model.latent_size), np.float32))
    np.testing.assert_allclose(features, [[0.5] * 200, [2.0] * 200])
