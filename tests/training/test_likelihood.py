import numpy as np
import pytest

from calogan.config import Network, Training
from calogan.events import Events
from calogan.networks import lean
from calogan.networks.families import build_generator
from calogan.training import likelihood
from calogan.training.batches import batches
from calogan.training.likelihood import FlowStage


def test_batches_meet_every_shower_at_most_once() -> None:
    rows = list(batches(50, 16, np.random.default_rng(1)))
    assert [len(part) for part in rows] == [16, 16, 16]
    assert len(set(np.concatenate(rows).tolist())) == 48


def test_the_flow_learns_and_nothing_else_moves(geant4: Events) -> None:
    model = build_generator(Network(width=8))
    assert isinstance(model, lean.Lean)
    stage = FlowStage(model, geant4, Training(flow_epochs=4, batch_size=32, flow_rate=5e-3))
    network = [variable.numpy() for variable in model.network.trainable_variables]
    rng = np.random.default_rng(1)
    losses = [stage.run_epoch(epoch, rng)["flow_loss"] for epoch in range(4)]
    assert losses[-1] < losses[0]
    for before, variable in zip(network, model.network.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy())


def test_moments_of_a_known_shower() -> None:
    shower = np.zeros((1, 25, 25, 25), np.float32)
    shower[0, 14, 12, 3] = 1.0
    shower[0, 10, 13, 3] = 3.0
    x, width_x, y, width_y, hits, core = likelihood._moments(shower).reshape(6, 25)
    assert x[3] == pytest.approx(-1)  # (1 * 2 - 3 * 2) / 4
    assert y[3] == pytest.approx(0.75)
    assert width_x[3] == pytest.approx(np.log(4 + 0.05))
    assert width_y[3] == pytest.approx(np.log(0.75 + 0.05))
    assert hits[3] == pytest.approx(np.log(3))
    assert core[3] == pytest.approx(np.log(1e-3))
    assert hits[4] == 0


def test_mirrored_showers_have_mirrored_moments(geant4: Events) -> None:
    there, back = (likelihood._moments(showers) for showers in (geant4.showers[:5], geant4.showers[:5, ::-1]))
    np.testing.assert_allclose(back[:, :25], -there[:, :25], atol=1e-5)
    np.testing.assert_allclose(back[:, 25:], there[:, 25:], rtol=1e-4, atol=1e-5)
