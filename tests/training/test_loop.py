import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.config import Config, Network, Training
from calogan.errors import TrainingError
from calogan.events import Events
from calogan.training import loop
from calogan.training.loop import Epoch, TrainingResult, train


@pytest.fixture(scope="module", autouse=True)
def _eager() -> Iterator[None]:
    """Take the steps without compiling them, which would be most of the time of these tests."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class StoppedError(Exception):
    """Stands for a machine that goes away."""


@pytest.fixture(scope="module")
def config() -> Config:
    training = Training(flow_epochs=2, shape_epochs=2, adversarial_epochs=0, batch_size=16)
    return Config(network=Network(width=8), training=training)


@pytest.fixture(scope="module")
def undisturbed(geant4: Events, config: Config, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(geant4[:48], geant4[48:50], config, tmp_path_factory.mktemp("run"), score=lambda _, __: 1.0)


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_a_run_tells_of_every_epoch(undisturbed: TrainingResult) -> None:
    assert [(epoch.stage, epoch.number, epoch.of) for epoch in undisturbed.history] == [
        ("flow", 0, 4),
        ("flow", 1, 4),
        ("shape", 2, 4),
        ("shape", 3, 4),
    ]
    assert [epoch.score for epoch in undisturbed.history] == [None, None, None, 1.0]
    assert undisturbed.best == undisturbed.history[3]
    assert undisturbed.history[0].losses.keys() == {"flow_loss"}
    assert undisturbed.history[2].losses.keys() == {"cell_loss", "divergence"}


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    geant4: Events, config: Config, undisturbed: TrainingResult, tmp_path: Path
) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(geant4[:48], geant4[48:50], config, tmp_path, score=lambda _, __: 1.0, on_epoch=stop)
    seen: list[Epoch] = []
    result = train(geant4[:48], geant4[48:50], config, tmp_path, score=lambda _, __: 1.0, on_epoch=seen.append)
    assert [epoch.number for epoch in seen] == [3]
    assert len(result.history) == 4
    expected, found = weights(undisturbed.weights), weights(result.weights)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_finished_run_is_not_done_again(geant4: Events, config: Config, undisturbed: TrainingResult) -> None:
    def never(epoch: Epoch) -> None:
        raise AssertionError(epoch)

    folder = undisturbed.weights.parent
    assert train(geant4[:48], geant4[48:50], config, folder, score=lambda _, __: 2.0, on_epoch=never) == undisturbed


def test_another_configuration_does_not_go_on_in_the_folder(
    geant4: Events, config: Config, undisturbed: TrainingResult
) -> None:
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 2})})
    with pytest.raises(TrainingError, match="holds a training of another configuration; name another folder"):
        train(geant4[:48], geant4[48:50], other, undisturbed.weights.parent, score=lambda _, __: 1.0)


class FakeStage:
    """Counts its epochs in the one variable the test can see: the template of the network."""

    name = "adversarial"
    epochs = 4

    def __init__(self, model: object, losses: Iterator[float]) -> None:
        self.state: dict[str, object] = {}
        self._model, self._losses = model, losses

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:  # noqa: ARG002 - one interface
        self._model.template.assign(np.full((25, 25, 25), epoch, np.float32))  # type: ignore[attr-defined]
        return {"loss": next(self._losses)}


def with_fake_stage(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    monkeypatch.setattr(loop, "_stages", lambda model, *_: [FakeStage(model, iter(losses))])


def test_the_first_of_the_best_epochs_is_kept(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0] * 4)
    scores = iter([0.2, 0.8, 0.8, 0.1])
    result = train(geant4[:8], geant4[8:9], config, tmp_path, score=lambda _, __: next(scores))
    assert (result.best.number, result.best.score) == (1, 0.8)
    assert [epoch.score for epoch in result.history] == [0.2, 0.8, 0.8, 0.1]
    assert any(values.shape == (25, 25, 25) and (values == 1).all() for values in weights(result.weights).values())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_ends_the_run_at_the_epoch_before(
    bad: float, geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0, bad])
    with pytest.raises(TrainingError, match="loss is not a finite number in epoch 1 of adversarial; try a lower"):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=lambda _, __: 1.0)
    assert len(json.loads((tmp_path / "progress.json").read_text())["history"]) == 1


def test_a_score_that_is_no_number_ends_the_run(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0])
    with pytest.raises(TrainingError, match="score is not a finite number in epoch 0"):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=lambda _, __: np.nan)


def test_a_checkpoint_without_its_entry_is_not_gone_on_from(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped between checkpoint and history repeats that epoch from the checkpoint before it."""
    with_fake_stage(monkeypatch, [1.0] * 4)
    write, calls = loop._write_progress, []

    def stop(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise StoppedError
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_write_progress", stop)
    with pytest.raises(StoppedError):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=lambda _, __: 1.0)
    restored: list[float] = []

    class Stage(FakeStage):
        def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
            restored.append(float(self._model.template[0, 0, 0]))  # type: ignore[attr-defined]
            return super().run_epoch(epoch, rng)

    monkeypatch.setattr(loop, "_stages", lambda model, *_: [Stage(model, iter([1.0] * 4))])
    assert len(train(geant4[:8], geant4[8:9], config, tmp_path, score=lambda _, __: 1.0).history) == 4
    assert restored == [0, 1, 2]


@pytest.mark.parametrize("family", ["lean", "rehm2021"])
def test_a_run_without_epochs_is_refused(family: str, geant4: Events, tmp_path: Path) -> None:
    training = Training(flow_epochs=1, shape_epochs=0, adversarial_epochs=0)
    config = Config.model_validate({"network": {"family": family, "width": 8}, "training": training.model_dump()})
    with pytest.raises(TrainingError, match="no epochs of training; set shape_epochs or adversarial_epochs"):
        train(geant4[:48], geant4[48:50], config, tmp_path, score=lambda _, __: 1.0)
