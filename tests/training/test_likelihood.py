import keras
import numpy as np

from calogan.config import Network, Training
from calogan.events import Events
from calogan.networks import lean, shower_shape
from calogan.networks.families import build_generator
from calogan.networks.stages import FLOW, PRETRAINING, SHAPE_FLOW
from calogan.training.likelihood import flow_stage, pretraining_stage, shape_flow_stage
from calogan.training.run import start_run


def test_the_flow_learns_and_nothing_else_moves(geant4: Events) -> None:
    model = build_generator(Network(width=8))
    assert isinstance(model, lean.Lean)
    stage = flow_stage(FLOW, start_run(model, geant4, Training(flow_epochs=4, batch_size=32, flow_rate=5e-3)))
    network = [variable.numpy() for variable in model.network.trainable_variables]
    rng = np.random.default_rng(1)
    losses = [stage.run_epoch(epoch, rng)["flow_loss"] for epoch in range(4)]
    assert losses[-1] < losses[0]
    for before, variable in zip(network, model.network.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy())


def test_the_flow_learns_from_parametrised_showers(geant4: Events) -> None:
    keras.utils.set_random_seed(1)
    model = build_generator(Network(width=8))
    assert isinstance(model, lean.Lean)
    config = Training(pretraining_epochs=4, pretraining_showers=1500, batch_size=32, flow_rate=3e-3)
    stage = pretraining_stage(PRETRAINING, start_run(model, geant4, config))
    losses = [stage.run_epoch(epoch, np.random.default_rng(epoch))["pretraining_loss"] for epoch in range(4)]
    # 25 independent standard normal numbers, blurred, would have 36.6.
    assert losses[-1] < min(losses[0], 36.0)


def test_the_flow_of_the_shapes_learns_what_the_layers_do_not_say(geant4: Events) -> None:
    keras.utils.set_random_seed(1)
    model = build_generator(Network(width=8))
    assert isinstance(model, lean.Lean)
    run = start_run(model, geant4, Training(shape_flow_epochs=8, batch_size=32, flow_rate=5e-3))
    stage = shape_flow_stage(SHAPE_FLOW, run)
    losses = [stage.run_epoch(epoch, np.random.default_rng(epoch))["shape_flow_loss"] for epoch in range(8)]
    assert losses[-1] < losses[0]
    condition, sticks = model.scaled_sticks(run.survey.layer_energies, run.survey.energy)
    normal = np.random.default_rng(1).standard_normal((len(sticks), shower_shape.SIZE), np.float32)
    drawn = np.asarray(model.shape_flow(normal, np.concatenate([condition, sticks], axis=1)))
    measured = model.shape_flow.residuals(model.shape_flow.normalise(run.survey.shape, run.survey.energy), sticks)
    np.testing.assert_allclose(drawn.std(axis=0), measured.std(axis=0), rtol=0.25)
