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
from calogan.networks.stages import ADVERSARIAL, WARMUP, StagePlan
from calogan.training import adversarial
from calogan.training.adversarial import AdversarialStage
from calogan.training.run import TrainingRun
from calogan.training.survey import survey


def test_fit_ecal_finds_a_known_polynomial() -> None:
    energy = np.linspace(2, 500, 200, dtype=np.float32)
    e = energy.astype(np.float64) / 100
    coefficients = [1e-3, -2e-2, 0.1, -0.3, 2.0]
    showers = np.zeros((200, *CLIC.shape), np.float32)
    showers[:, 12, 12, 5] = e * np.polyval(coefficients, e)
    np.testing.assert_allclose(adversarial.fit_ecal(survey(Events(showers, energy))), coefficients, rtol=2e-3)


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


def run_of(
    generator: GeneratorNetwork, discriminator: keras.Model, showers: Events, config: Training
) -> TrainingRun[GeneratorNetwork]:
    """A training with a discriminator of its own instead of the published one."""
    return TrainingRun(generator, showers, survey(showers), config, networks={"discriminator": discriminator})


def values(model: keras.Model) -> list[NDArray[np.float32]]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]


def changed(before: list[NDArray[np.float32]], model: keras.Model) -> set[str]:
    pairs = zip(before, model.variables, strict=True)
    return {variable.path for old, variable in pairs if not np.array_equal(old, ops.convert_to_numpy(variable))}


def test_the_step_of_the_discriminator_moves_the_discriminator_only(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    stage = AdversarialStage(WARMUP, run_of(generator, discriminator, geant4[:32], Training(batch_size=16)))
    assert (stage.plan, stage.epochs) == (WARMUP, 1)
    of_generator, of_discriminator = values(generator), values(discriminator)
    losses = stage.run_epoch(0, np.random.default_rng(1))
    assert losses.keys() == {"discriminator_real_loss", "discriminator_fake_loss"}
    assert all(np.isfinite(value) for value in losses.values())
    assert not changed(of_generator, generator)
    assert {variable.path for variable in discriminator.trainable_variables} <= changed(of_discriminator, discriminator)


def test_the_step_of_the_generator_moves_neither_discriminator_nor_flow(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    stage = AdversarialStage(ADVERSARIAL, run_of(generator, discriminator, geant4[:32], Training(batch_size=16)))
    of_generator, of_discriminator = values(generator), values(discriminator)
    fakes, _, target = stage._draw_fakes(16, True, np.random.default_rng(1))
    stage._step_generator(*fakes, tf.constant(target), tf.ones(16), tf.constant(geant4.showers[:16]), True)
    assert not changed(of_discriminator, discriminator)
    names = changed(of_generator, generator)
    assert names
    assert not any("flow" in path for path in names)
    assert any("template" in path for path in names)


def test_fakes_are_drawn_from_the_published_energies(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    stage = AdversarialStage(ADVERSARIAL, run_of(generator, discriminator, geant4[:32], Training(batch_size=16)))
    early = stage._draw_fakes(64, True, np.random.default_rng(1))[1]
    late = stage._draw_fakes(64, False, np.random.default_rng(1))[1]
    assert early.min() >= 100
    assert early.max() <= 400
    assert late.min() >= 2
    assert late.min() < 100
    assert late.max() <= 500


def test_one_label_in_twenty_is_flipped() -> None:
    labels = adversarial._labels(20_000, 0.9, 0.0, np.random.default_rng(1))
    assert set(np.unique(labels)) == {np.float32(0), np.float32(0.9)}
    assert (labels == 0).mean() == pytest.approx(0.05, abs=0.008)


def test_the_rate_is_full_for_82_files_and_then_falls() -> None:
    rates = [adversarial.published_rate(5e-4, file) for file in range(600)]
    assert rates[:82] == [5e-4] * 82
    assert rates[82] == pytest.approx(5e-4 * np.exp(-0.012))
    # The last file of epoch 30, n = 599: `l_dec` is called with 599 and has exp(-0.012 (598 - 80)).
    assert rates[599] == pytest.approx(9.99e-7, rel=1e-3)
    assert rates[-1] < 2.1e-3 * rates[0]


def test_the_published_ecal_is_two_per_cent_of_a_hundred_gev() -> None:
    # 0.0018 - 0.023 + 0.11 - 0.28 + 2.21 GeV at 100 GeV; at 200 GeV 2 (16 x 0.0018 - 8 x 0.023 + 4 x 0.11 - 0.56 + 2.21)
    for e, expected in ((1.0, 2.0188), (2.0, 3.8696)):
        assert e * np.polyval(adversarial.PUBLISHED_ECAL, e) == pytest.approx(expected, rel=1e-9)


class Counted(AdversarialStage):
    """Notes the rates instead of training."""

    rates: list[float]

    def __init__(self, plan: StagePlan, run: TrainingRun[GeneratorNetwork]) -> None:
        super().__init__(plan, run)
        self._generate = lambda *_, **__: 0.0
        self.rates = []

    def _discriminate(self, kind: str, *_: object) -> dict[str, float]:
        self.rates.append(float(self._optimizers["discriminator"].learning_rate))
        return {f"discriminator_{kind}": 1.0}


def test_the_published_schedule_restarts_the_optimizers_twenty_times_an_epoch(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Training(batch_size=8, steps_per_epoch=40, schedule="published", discriminator_rate=1e-4)
    stage = Counted(WARMUP, run_of(generator, discriminator, geant4[:24], config))
    restarts: list[tuple[int, int]] = []
    moments = next(v for v in stage._optimizers["discriminator"].variables if v.shape == (4, 1))

    def note(epoch: int, step: int) -> None:
        moments.assign(np.ones((4, 1), np.float32))
        AdversarialStage._set_rates(stage, epoch, step)
        if not np.any(ops.convert_to_numpy(moments)):
            restarts.append((epoch, step))

    monkeypatch.setattr(stage, "_set_rates", note)
    stage.run_epoch(4, np.random.default_rng(1))
    assert restarts == [(4, step) for step in range(0, 40, 2)]
    # Real and fake of every step, two steps a file; epoch 4 has the files 80 to 99.
    expected = [adversarial.published_rate(1e-4, 80 + number // 4) for number in range(80)]
    np.testing.assert_allclose(stage.rates, expected, rtol=1e-6)


def test_the_constant_schedule_leaves_the_optimizers_alone(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    config = Training(batch_size=8, discriminator_rate=2e-4)
    stage = Counted(WARMUP, run_of(generator, discriminator, geant4[:24], config))
    moments = next(v for v in stage._optimizers["discriminator"].variables if v.shape == (4, 1))
    moments.assign(np.ones((4, 1), np.float32))
    stage.run_epoch(9, np.random.default_rng(1))
    np.testing.assert_allclose(stage.rates, [2e-4] * 6, rtol=1e-6)  # three batches, real and fake
    np.testing.assert_array_equal(ops.convert_to_numpy(moments), np.ones((4, 1)))


def test_the_target_of_fakes_is_the_fitted_or_the_published_polynomial(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    statistics = survey(geant4)
    for name, polynomial in (("fitted", adversarial.fit_ecal(statistics)), ("published", adversarial.PUBLISHED_ECAL)):
        config = Training.model_validate({"ecal": name})
        stage = AdversarialStage(ADVERSARIAL, run_of(generator, discriminator, geant4, config))
        _, energy, target = stage._draw_fakes(64, False, np.random.default_rng(1))
        e = energy.astype(np.float64) / 100
        np.testing.assert_allclose(target, e * np.polyval(polynomial, e), rtol=1e-5)


@pytest.mark.parametrize("inference_mode", [True, False])
def test_in_inference_mode_the_statistics_of_the_batches_stay_out(
    inference_mode: bool, generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    config = Training(batch_size=16, inference_mode=inference_mode)
    stage = AdversarialStage(WARMUP, run_of(generator, discriminator, geant4[:32], config))
    before = values(discriminator)
    stage.run_epoch(0, np.random.default_rng(1))
    names = changed(before, discriminator)
    assert {variable.path for variable in discriminator.trainable_variables} <= names
    assert any("moving" in path for path in names) is not inference_mode


def test_a_critic_and_the_energy_score_join_the_published_loss(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    config = Training(batch_size=8, critic_weight=0.5, energy_score_weight=2.0)
    run = run_of(generator, discriminator, geant4[:32], config)
    stage = AdversarialStage(ADVERSARIAL, run)
    of_critic, of_discriminator = values(run.networks["critic"]), values(discriminator)
    losses = stage.run_epoch(0, np.random.default_rng(1))
    names = {f"{name}_{kind}_loss" for name in ("discriminator", "critic") for kind in ("real", "fake")}
    assert losses.keys() == names | {"generator_loss"}
    assert all(np.isfinite(value) for value in losses.values())
    assert changed(of_critic, run.networks["critic"])
    assert changed(of_discriminator, discriminator)
    assert {name.partition("_")[2] for name in stage.state} == {
        "generator_optimizer",
        "discriminator_optimizer",
        "critic_optimizer",
    }


def test_a_guided_generator_is_left_in_gev(discriminator: keras.Model, geant4: Events) -> None:
    keras.utils.set_random_seed(1)
    model = build_generator(Network(family="rehm2021"))
    config = Training(
        batch_size=4, steps_per_epoch=2, energy_score_weight=1.0, generator_rate=1e-9, inference_mode=True
    )
    stage = AdversarialStage(ADVERSARIAL, run_of(model, discriminator, geant4[:8], config))
    before = values(model)
    stage.run_epoch(0, np.random.default_rng(1))
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def test_guided_showers_have_the_energies_of_the_real_ones_twice(
    generator: GeneratorNetwork, discriminator: keras.Model, geant4: Events
) -> None:
    config = Training(batch_size=8, energy_score_weight=1.0)
    stage = AdversarialStage(ADVERSARIAL, run_of(generator, discriminator, geant4[:8], config))
    fakes, energy, target = stage._draw_fakes(8, False, np.random.default_rng(1), at=geant4.energy[:8])
    np.testing.assert_array_equal(fakes[0], np.tile(geant4.energy[:8], 2))
    np.testing.assert_array_equal(energy, geant4.energy[:8])
    assert target.shape == (8,)
    assert not np.array_equal(fakes[1][:8], fakes[1][8:])
