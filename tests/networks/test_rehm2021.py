from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks import rehm2021
from calogan.networks.families import build_generator


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.fixture(scope="module")
def model() -> rehm2021.Rehm2021:
    keras.utils.set_random_seed(1)
    network = build_generator(Network(family="rehm2021"))
    assert isinstance(network, rehm2021.Rehm2021)
    return network


@pytest.fixture(scope="module")
def discriminator() -> keras.Model:
    keras.utils.set_random_seed(1)
    return rehm2021.discriminator()


def test_the_generator_has_the_published_number_of_parameters(model: rehm2021.Rehm2021) -> None:
    assert model.network.count_params() == 2_055_324
    assert trainable(model.network) == 2_053_446


def test_the_discriminator_has_the_published_number_of_parameters(discriminator: keras.Model) -> None:
    assert discriminator.count_params() == 714_114
    assert trainable(discriminator) == 712_888


def test_showers_come_out_without_negative_or_unreadable_cells(model: rehm2021.Rehm2021) -> None:
    latent = np.random.default_rng(1).standard_normal((2, model.latent_size), np.float32)
    showers = np.asarray(model(np.array([50, 500], np.float32), latent))
    assert showers.shape == (2, *CLIC.shape)
    assert ((showers == 0) | (showers >= CLIC.threshold_gev)).all()


def test_the_latent_numbers_are_scaled_with_the_energy(model: rehm2021.Rehm2021) -> None:
    latent = np.ones((2, model.latent_size), np.float32)
    features, context = model.prepare(np.array([50, 200], np.float32), latent)
    np.testing.assert_allclose(features, [[0.5] * 200, [2.0] * 200])
    np.testing.assert_array_equal(context, [50, 200])


def test_the_threshold_is_applied_after_the_network(model: rehm2021.Rehm2021) -> None:
    cells = np.array([0, 0.9e-6, 1.1e-6, 1.0], np.float32)
    np.testing.assert_allclose(model.finish(cells, None, None), [0, 0, 1.1e-6, 1.0])


def test_the_discriminator_answers_probability_energy_and_sum(discriminator: keras.Model) -> None:
    showers = np.random.default_rng(1).random((3, *CLIC.shape), np.float32)
    real, energy, ecal = (np.asarray(answer) for answer in discriminator(showers))
    assert real.shape == energy.shape == ecal.shape == (3, 1)
    assert ((real > 0) & (real < 1)).all()
    np.testing.assert_allclose(ecal[:, 0], showers.sum(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(("axes", "there", "back"), rehm2021._BRANCHES[1:])
def test_a_branch_brings_its_axes_back(axes: str, there: tuple[int, ...], back: tuple[int, ...]) -> None:
    image: NDArray[np.float32] = np.random.default_rng(1).random((1, 2, 3, 4), np.float32)
    permuted = keras.layers.Permute(there)(image)
    assert permuted.shape[1:] == tuple(image.shape[1 + "xyz".index(axis)] for axis in (*axes, *set("xyz") - set(axes)))
    np.testing.assert_array_equal(keras.layers.Permute(back)(permuted), image)


def test_each_branch_has_another_axis_as_channels() -> None:
    image = np.zeros((1, 2, 3, 4), np.float32)
    channels = {
        (keras.layers.Permute(there)(image) if there else image).shape[-1] for _, there, _ in rehm2021._BRANCHES
    }
    assert channels == {2, 3, 4}


def test_the_discriminator_sees_a_linear_output_early(model: rehm2021.Rehm2021) -> None:
    energy, latent = np.array([150, 300], np.float32), np.random.default_rng(1).standard_normal((2, 200), np.float32)
    view = model.discriminator_view()
    linear, rectified = (np.asarray(view(energy, latent, None, early=early, training=False)) for early in (True, False))
    assert linear.min() < 0
    np.testing.assert_allclose(rectified, np.maximum(linear, 0), rtol=1e-5, atol=1e-6)
    # What is scored, frozen and served is never linear.
    assert np.asarray(model(energy, latent)).min() == 0
    assert model.network.layers[-1].activation is keras.activations.relu


def test_the_linear_epochs_train_the_weights_of_the_published_network(model: rehm2021.Rehm2021) -> None:
    latent = np.random.default_rng(1).standard_normal((1, 200), np.float32)
    with tf.GradientTape() as tape:
        total = ops.sum(
            model.discriminator_view()(np.array([150], np.float32), latent, None, early=True, training=True)
        )
    gradients = tape.gradient(total, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert np.abs(gradients[-1]).sum() > 0


def test_an_adversary_may_move_all_of_the_published_network(model: rehm2021.Rehm2021) -> None:
    assert len(model.adversarial_variables()) == len(model.trainable_variables)


def test_a_view_for_the_discriminator_is_not_saved_with_the_weights(model: rehm2021.Rehm2021, tmp_path: Path) -> None:
    """Keras saves whatever a model holds on to."""
    datasets: list[set[str]] = []
    for name in ("before", "after"):
        path = tmp_path / f"{name}.weights.h5"
        model.save_weights(path)
        names: set[str] = set()
        with h5py.File(path) as file:
            file.visit(names.add)
        datasets.append(names)
        model.discriminator_view()
    assert datasets[0] == datasets[1]
