"""What the published network outputs before it is trained."""

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks import sketch
from calogan.networks.rehm2021 import Rehm2021, generator_network

ENERGY = np.linspace(2, 500, 60).astype(np.float32)


@pytest.fixture(scope="module")
def model(geant4: Events) -> Rehm2021:
    model = Rehm2021()
    model.sketch(geant4.showers.mean(axis=0, dtype=np.float64), 250.0)
    return model


@pytest.fixture(scope="module")
def showers(model: Rehm2021) -> NDArray[np.float32]:
    features, _ = model.prepare(ENERGY, np.random.default_rng(1).standard_normal((60, 200), np.float32))
    return np.asarray(model.network(features))


def test_the_total_follows_the_energy(showers: NDArray[np.float32]) -> None:
    ratio = showers.sum(axis=(1, 2, 3)) / ENERGY
    assert ratio.std() < 0.2 * ratio.mean()
    assert abs(np.corrcoef(ENERGY, ratio)[0, 1]) < 0.3


def test_at_the_mean_energy_the_mean_cell_is_1(model: Rehm2021) -> None:
    latent = np.random.default_rng(2).standard_normal((100, 200), np.float32)
    features, _ = model.prepare(np.full(100, 250, np.float32), latent)
    assert np.mean(model.network(features)) == pytest.approx(1, rel=0.05)


def test_the_core_is_where_showers_are(showers: NDArray[np.float32], geant4: Events) -> None:
    across = showers.sum(axis=(0, 3))
    assert np.unravel_index(across.argmax(), across.shape) == CLIC.entry_cell
    assert across[8:17, 8:17].sum() > 0.7 * across.sum()
    along, real = (sample.sum(axis=(0, 1, 2)) / sample.sum() for sample in (showers, geant4.showers))
    assert np.abs(along - real).sum() < 0.5  # of at most 2


def test_each_latent_number_of_a_branch_changes_the_showers(geant4: Events) -> None:
    """Otherwise, the total would fluctuate more than that of Geant4's showers."""
    network = generator_network()
    sketch.draw(network, geant4.showers.mean(axis=0, dtype=np.float64))
    seed = network.get_layer("seed")
    amplitude = seed.kernel.numpy().std(axis=0)
    (used,) = np.nonzero(amplitude)
    assert len(used) == 16 * 5  # the edge columns of 25, in five layers
    inner = keras.Model(seed.output, network.output)
    image = (np.random.default_rng(3).standard_normal((1, 125)) * amplitude).astype(np.float32)
    shower = np.asarray(inner(image))
    for number in used:
        other = image.copy()
        other[0, number] += amplitude[number]
        assert np.abs(np.asarray(inner(other)) - shower).sum() > 1e-4 * shower.sum()


def test_every_drawing_is_the_same(geant4: Events) -> None:
    mean = geant4.showers.mean(axis=0, dtype=np.float64)
    networks = [generator_network() for _ in range(2)]
    for network in networks:
        sketch.draw(network, mean)
    for one, other in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(one, other)
