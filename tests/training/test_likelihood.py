import keras
import numpy as np

from calogan.config import Network, Training
from calogan.events import Events
from calogan.networks import lean
from calogan.networks.families import build_generator
from calogan.networks.stages import FLOW, PRETRAINING, PRIOR, SHAPE
from calogan.training.likelihood import PriorStage, ShapeStage, flow_stage, pretraining_stage
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


def test_the_prior_learns_where_the_encoder_puts_the_training_showers(geant4: Events) -> None:
    keras.utils.set_random_seed(1)
    model = build_generator(Network(width=8))
    assert isinstance(model, lean.Lean)
    run = start_run(model, geant4, Training(shape_epochs=1, prior_epochs=8, batch_size=32, flow_rate=5e-3))
    ShapeStage(SHAPE, run)
    # An encoder that says the same of every shower.
    last = run.networks["encoder"].layers[-1]
    last.set_weights([np.zeros_like(last.get_weights()[0]), np.full(2 * lean.SHAPE_LATENT, -2.0)])
    stage = PriorStage(PRIOR, run)
    losses = [stage.run_epoch(epoch, np.random.default_rng(epoch))["prior_loss"] for epoch in range(8)]
    assert losses[-1] < losses[0] - 5
    condition = np.zeros((500, 26), np.float32)
    samples = np.asarray(
        model.prior(np.random.default_rng(1).standard_normal((500, lean.SHAPE_LATENT), np.float32), condition)
    )
    # Mean -2, spread exp(-2), for each of the sixteen numbers.
    np.testing.assert_allclose(samples.mean(axis=0), -2, atol=0.5)
    assert samples.std() < 0.5
