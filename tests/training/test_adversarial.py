import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from calogan.config import Network, Training
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork
from calogan.networks.families import build_generator
from calogan.training import adversarial
from calogan.training.adversarial import AdversarialStage
from calogan.training.survey import survey


def test_mape_of_known_numbers() -> None:
    # |2 - 1| / 2 and |4 - 5| / 4
    assert float(adversarial.mape(np.float32([2, 4]), np.float32([1, 5]))) == pytest.approx(37.5, rel=1e-5)


def test_binary_crossentropy_of_known_numbers() -> None:
    found = float(adversarial.binary_crossentropy(np.float32([1, 0, 0.9]), np.float32([0.5, 0.25, 0.5])))
    assert found == pytest.approx((np.log(2) + np.log(4 / 3) + np.log(2)) / 3, rel=1e-5)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_binary_crossentropy_of_certainty_is_finite(probability: float) -> None:
    found = float(adversarial.binary_crossentropy(np.float32([1 - probability]), np.float32([probability])))
    assert found == pytest.approx(-np.log(2e-7), rel=0.02)


def test_the_published_loss_weighs_its_three_terms() -> None:
    answer = (np.float32([[0.5]]), np.float32([[1.5]]), np.float32([[3.0]]))
    loss = adversarial.published_loss(np.float32([1]), np.float32([100]), np.float32([4]), answer)
    assert float(loss) == pytest.approx(6 * np.log(2) + 0.2 * 50 + 0.1 * 25, rel=1e-5)


def test_fit_ecal_finds_a_known_polynomial() -> None:
    energy = np.linspace(2, 500, 200, dtype=np.float32)
    e = energy.astype(np.float64) / 100
    known = [1e-3, -2e-2, 0.1, -0.3, 2.0]
    showers = np.zeros((200, *CLIC.shape), np.float32)
    showers[:, 12, 12, 5] = e * np.polyval(known, e)
    np.testing.assert_allclose(adversarial.fit_ecal(survey(Events(showers, energy))), known, rtol=2e-3)


@pytest.fixture
def discriminator() -> keras.Model:
    """A small network with the outputs of the published one."""
    keras.utils.set_random_seed(2)
    showers = keras.Input(CLIC.shape)
    x = layers.BatchNormalization()(layers.Dense(4)(layers.Flatten()(layers.AveragePooling2D(5)(showers))))
    real, energy = layers.Dense(1, activation="sigmoid")(x), layers.Dense(1)(x)
    return keras.Model(showers, [real, energy, ops.sum(showers, axis=(1, 2, 3))[:, None]])


@pytest.fixture(scope="module")
def generator() -> GeneratorNetwork:
    keras.utils.set_random_seed(1)
    return build_generator(Network(width=8))


def values(model: keras.Model) -> list[NDArray[np.float32]]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]


def changed(before: list[NDArray[np.float32]], model: keras.Model) -> set[str]:
    pairs = zip(before, model.variables, strict=True)
    return {variable.path for old, variable in pairs if not np.array_equal(old, ops.convert_to_numpy(variable))}


def test_the_step_of_the_discriminator_moves_the_discriminator_only(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    stage = AdversarialStage(
        generator, discriminator, geant4[:32], survey(geant4[:32]), Training(batch_size=16), move_generator=False
    )
    assert (stage.name, stage.epochs) == ("warmup", 1)
    of_generator, of_discriminator = values(generator), values(discriminator)
    losses = stage.run_epoch(0, np.random.default_rng(1))
    assert losses.keys() == {"discriminator_real_loss", "discriminator_fake_loss"}
    assert all(np.isfinite(value) for value in losses.values())
    assert not changed(of_generator, generator)
    assert {variable.path for variable in discriminator.trainable_variables} <= changed(of_discriminator, discriminator)


def test_the_step_of_the_generator_moves_neither_discriminator_nor_flow(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    stage = AdversarialStage(
        generator, discriminator, geant4[:32], survey(geant4[:32]), Training(batch_size=16), move_generator=True
    )
    assert stage.name == "adversarial"
    of_generator, of_discriminator = values(generator), values(discriminator)
    fakes, _, target = stage._draw_fakes(16, 0, np.random.default_rng(1))
    stage._step_generator(*fakes, tf.constant(target), tf.ones(16))
    assert not changed(of_discriminator, discriminator)
    moved = changed(of_generator, generator)
    assert moved
    assert not any("flow" in path for path in moved)
    assert any("template" in path for path in moved)


def test_fakes_are_drawn_from_the_published_energies(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    stage = AdversarialStage(
        generator, discriminator, geant4[:32], survey(geant4[:32]), Training(batch_size=16), move_generator=True
    )
    early = stage._draw_fakes(64, 0, np.random.default_rng(1))[1]
    late = stage._draw_fakes(64, 2, np.random.default_rng(1))[1]
    assert early.min() >= 100
    assert early.max() <= 400
    assert late.min() >= 2
    assert late.min() < 100
    assert late.max() <= 500


def test_all_of_the_published_network_may_be_moved() -> None:
    model = build_generator(Network(family="rehm2021"))
    assert len(adversarial.adversarial_variables(model)) == len(model.trainable_variables)


def test_one_label_in_twenty_is_flipped() -> None:
    labels = adversarial._labels(20_000, 0.9, 0.0, np.random.default_rng(1))
    assert set(np.unique(labels)) == {np.float32(0), np.float32(0.9)}
    assert (labels == 0).mean() == pytest.approx(0.05, abs=0.008)
