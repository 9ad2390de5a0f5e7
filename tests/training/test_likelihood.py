import numpy as np

from calogan.config import Network, Training
from calogan.events import Events
from calogan.networks import lean
from calogan.networks.families import build_generator
from calogan.training.likelihood import FlowStage
from calogan.training.survey import survey


def test_the_flow_learns_and_nothing_else_moves(geant4: Events) -> None:
    model = build_generator(Network(width=8))
    assert isinstance(model, lean.Lean)
    stage = FlowStage(model, survey(geant4), Training(flow_epochs=4, batch_size=32, flow_rate=5e-3))
    network = [variable.numpy() for variable in model.network.trainable_variables]
    rng = np.random.default_rng(1)
    losses = [stage.run_epoch(epoch, rng)["flow_loss"] for epoch in range(4)]
    assert losses[-1] < losses[0]
    for before, variable in zip(network, model.network.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy())
