from types import MappingProxyType

import keras
import numpy as np
import pytest
from keras import layers, ops
from numpy.typing import NDArray

from calogan.config import Network, Training
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks.base import LatentNetwork
from calogan.networks.families import build_generator
from calogan.networks.stages import DISTANCE, REFINEMENT, StagePlan
from calogan.training import arithmetic
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


@pytest.mark.parametrize(("plan", "rate", "factor"), [(DISTANCE, 10.0, 1.0), (REFINEMENT, 50.0, 3.0)])
def test_biases_follow_trained_weights_faster(geant4: Events, plan: StagePlan, rate: float, factor: float) -> None:
    class Eager(Small):
        bias_rate = 50.0
        rate_factors = MappingProxyType({"hidden": 3.0})

    config = Training(distance_epochs=1, refinement_epochs=1, batch_size=8)
    model = Eager()
    model.network.layers[1].name = "hidden"
    stage = DistanceStage(plan, start_run(model, geant4[:16], config))
    kernel, bias, _ = stage._optimizer._rates
    assert (kernel, bias) == (factor, rate)


@pytest.mark.parametrize(("plan", "start"), [(DISTANCE, "a model"), (REFINEMENT, "")])
def test_trained_weights_are_in_gev_from_the_first_epoch(geant4: Events, plan: StagePlan, start: str) -> None:
    model = Small()
    rates = {"shape_rate": 1e-7, "refinement_rate": 1e-7}
    config = Training(distance_epochs=1, refinement_epochs=1, batch_size=8, start=start, **rates)
    stage = DistanceStage(plan, start_run(model, geant4[:16], config))
    before = model.network.layers[-2].kernel.numpy()
    stage.run_epoch(0, np.random.default_rng(0))
    np.testing.assert_allclose(model.network.layers[-2].kernel.numpy(), before, atol=1e-6)


def test_the_refinement_keeps_the_weights_of_the_stage_before(geant4: Events) -> None:
    config = Training(distance_epochs=1, refinement_epochs=1, batch_size=8)
    run = start_run(build_generator(Network(family="rehm2021")), geant4[:16], config)
    DistanceStage(DISTANCE, run)
    before = [variable.numpy() for variable in run.model.trainable_variables]
    stage = DistanceStage(REFINEMENT, run)
    for variable, value in zip(run.model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert set(stage.state) == {"refinement_optimizer"}


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
