import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.config import Benchmark, Config, Network, Training
from calogan.errors import OutputError, TrainingError
from calogan.events import Events
from calogan.networks.base import GeneratorNetwork
from calogan.networks.families import FAMILIES
from calogan.networks.stages import ADVERSARIAL, SHAPE
from calogan.training import loop, progress
from calogan.training.loop import Epoch, TrainingResult, train
from calogan.training.selection import Scored


@pytest.fixture(scope="module", autouse=True)
def _eager() -> Iterator[None]:
    """Take the steps without compiling them, which would be most of the time of these tests."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class StoppedError(Exception):
    """Stands for a machine that goes away."""


def scored(*scores: float) -> Callable[[Events, Events], Scored]:
    """Give these scores one after the other, the last one from then on."""
    values = itertools.chain(scores, itertools.repeat(scores[-1]))
    return lambda _, __: Scored(next(values), {"physics/hits_shift": 0.25})


@pytest.fixture(scope="module")
def config() -> Config:
    training = Training(
        flow_epochs=2, shape_epochs=2, shape_flow_epochs=0, adversarial_epochs=0, batch_size=16, score_every=1
    )
    return Config(network=Network(width=8), training=training)


@pytest.fixture(scope="module")
def undisturbed(geant4: Events, config: Config, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(geant4[:48], geant4[48:50], config, tmp_path_factory.mktemp("run"), score=scored(1.0))


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    values: dict[str, NDArray[np.float32]] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: values.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return values


def test_a_run_reports_every_epoch(undisturbed: TrainingResult) -> None:
    assert [(epoch.stage, epoch.number, epoch.of) for epoch in undisturbed.history] == [
        ("flow", 0, 4),
        ("flow", 1, 4),
        ("shape", 2, 4),
        ("shape", 3, 4),
    ]
    assert [epoch.score for epoch in undisturbed.history] == [None, None, 1.0, 1.0]
    assert undisturbed.best == undisturbed.history[2]
    assert undisturbed.history[0].losses.keys() == {"flow_loss"}
    assert undisturbed.history[2].losses.keys() == {"cell_loss"}
    assert undisturbed.history[0].metrics == {}
    assert undisturbed.history[2].metrics == {"physics/hits_shift": 0.25}
    assert not undisturbed.stop_reason


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    geant4: Events, config: Config, undisturbed: TrainingResult, tmp_path: Path
) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(geant4[:48], geant4[48:50], config, tmp_path, score=scored(1.0), on_epoch=stop)
    epochs: list[Epoch] = []
    result = train(geant4[:48], geant4[48:50], config, tmp_path, score=scored(1.0), on_epoch=epochs.append)
    assert [epoch.number for epoch in epochs] == [3]
    assert len(result.history) == 4
    expected, actual = weights(undisturbed.weights), weights(result.weights)
    assert actual.keys() == expected.keys()
    for name, values in actual.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_finished_run_is_not_done_again(geant4: Events, config: Config, undisturbed: TrainingResult) -> None:
    def never(epoch: Epoch) -> None:
        raise AssertionError(epoch)

    folder = undisturbed.weights.parent
    assert train(geant4[:48], geant4[48:50], config, folder, score=scored(2.0), on_epoch=never) == undisturbed


def test_another_configuration_does_not_go_on_in_the_folder(
    geant4: Events, config: Config, undisturbed: TrainingResult
) -> None:
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 2})})
    with pytest.raises(
        TrainingError, match=r"holds another training: training\.seed was 1 and is 2; name another folder"
    ):
        train(geant4[:48], geant4[48:50], other, undisturbed.weights.parent, score=scored(1.0))


def test_a_finished_run_is_one_for_every_benchmark(geant4: Events, config: Config, undisturbed: TrainingResult) -> None:
    other = config.model_copy(update={"benchmark": Benchmark(repetitions=9)})
    folder = undisturbed.weights.parent
    assert train(geant4[:48], geant4[48:50], other, folder, score=scored(2.0)) == undisturbed


class FakeStage:
    """Counts its epochs in the one variable the test can see: the template of the network."""

    plan = ADVERSARIAL
    epochs = 4

    def __init__(self, model: object, losses: Iterator[float]) -> None:
        self.state: dict[str, object] = {}
        self._model, self._losses = model, losses

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:  # noqa: ARG002 - one interface
        self._model.template.assign(np.full((25, 25, 25), epoch, np.float32))  # type: ignore[attr-defined]
        return {"loss": next(self._losses)}


def with_fake_stage(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    monkeypatch.setattr(loop, "_stages", lambda run, _: [FakeStage(run.model, iter(losses))])


def test_the_first_of_the_best_epochs_is_kept(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0] * 4)
    result = train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(0.2, 0.8, 0.8, 0.1))
    assert (result.best.number, result.best.score) == (1, 0.8)
    assert [epoch.score for epoch in result.history] == [0.2, 0.8, 0.8, 0.1]
    assert any(values.shape == (25, 25, 25) and (values == 1).all() for values in weights(result.weights).values())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_ends_the_run_at_the_epoch_before(
    bad: float, geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0, bad])
    with pytest.raises(TrainingError, match=rf"loss \({bad}\) is not a finite number in epoch 1 of adversarial"):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(1.0))
    assert len(json.loads((tmp_path / "progress.json").read_text())["history"]) == 1


def test_a_score_that_is_no_number_ends_the_run(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0])
    with pytest.raises(TrainingError, match=r"score \(nan\) is not a finite number in epoch 0"):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(np.nan))


def test_a_checkpoint_without_a_history_entry_is_not_used(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped between checkpoint and history repeats that epoch from the checkpoint before it."""
    with_fake_stage(monkeypatch, [1.0] * 4)
    write, calls = progress.write, []

    def stop(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise StoppedError
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(progress, "write", stop)
    with pytest.raises(StoppedError):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(1.0))
    restored: list[float] = []

    class Stage(FakeStage):
        def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
            restored.append(float(self._model.template[0, 0, 0]))  # type: ignore[attr-defined]
            return super().run_epoch(epoch, rng)

    monkeypatch.setattr(loop, "_stages", lambda run, _: [Stage(run.model, iter([1.0] * 4))])
    assert len(train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(1.0)).history) == 4
    assert restored == [0, 1, 2]


@pytest.mark.parametrize(
    ("family", "field"), [("lean", "shape_epochs"), ("rehm2021", "distance_epochs or refinement_epochs")]
)
def test_a_run_without_epochs_is_refused(family: str, field: str, geant4: Events, tmp_path: Path) -> None:
    training = Training(flow_epochs=1, shape_epochs=0, adversarial_epochs=0)
    config = Config.model_validate({"network": {"family": family, "width": 8}, "training": training.model_dump()})
    with pytest.raises(TrainingError, match=f"no epochs of training; set {field} or adversarial_epochs"):
        train(geant4[:48], geant4[48:50], config, tmp_path, score=scored(1.0))


def test_the_shape_stage_is_scored_as_often_as_asked(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shape(FakeStage):
        plan, epochs = SHAPE, 5

    monkeypatch.setattr(loop, "_stages", lambda run, _: [Shape(run.model, iter([1.0] * 5))])
    training = config.training.model_copy(update={"score_every": 2})
    calls: list[tuple[int, int]] = []
    result = train(
        geant4[:8],
        geant4[8:9],
        config.model_copy(update={"training": training}),
        tmp_path,
        score=scored(1.0),
        on_showers=lambda epoch, real, generated: calls.append((epoch.number, len(generated) // len(real))),
    )
    assert [epoch.number for epoch in result.history if epoch.score is not None] == [1, 3, 4]
    assert calls == [(1, 4), (3, 4), (4, 4)]


def test_a_run_out_of_patience_ends_with_its_best_and_stays_finished(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = config.model_copy(update={"training": config.training.model_copy(update={"patience": 2})})
    with_fake_stage(monkeypatch, [1.0] * 4)
    result = train(geant4[:8], geant4[8:9], patient, tmp_path, score=scored(0.5, 0.4, 0.5))
    assert len(result.history) == 3
    assert result.best.number == 0
    assert result.stop_reason == (
        "no better physics score than 0.500 in 2 scored epochs, the patience of the configuration"
    )
    with_fake_stage(monkeypatch, [])  # another epoch would have no loss
    assert train(geant4[:8], geant4[8:9], patient, tmp_path, score=scored(1.0)) == result


def test_weights_that_are_no_numbers_end_the_run_and_leave_the_best(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stage(FakeStage):
        def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
            losses = super().run_epoch(epoch, rng)
            if epoch == 2:
                self._model.template[0, 0, 0].assign(np.nan)  # type: ignore[attr-defined]
            return losses

    monkeypatch.setattr(loop, "_stages", lambda run, _: [Stage(run.model, iter([1.0] * 4))])
    with pytest.raises(
        TrainingError, match=r"1 of 15625 weights of .*template of the generator are not finite after epoch 2"
    ):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(0.2, 0.8))
    assert any(
        values.shape == (25, 25, 25) and (values == 1).all() for values in weights(tmp_path / loop.WEIGHTS).values()
    )
    assert len(json.loads((tmp_path / "progress.json").read_text())["history"]) == 2
    assert (tmp_path / "checkpoints" / "ckpt-2.index").is_file()


def test_weights_that_cannot_be_written_leave_the_best_and_nothing_else(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stage(FakeStage):
        def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
            if epoch == 1:
                monkeypatch.setattr(type(self._model), "save_weights", fail)
            return super().run_epoch(epoch, rng)

    def fail(_: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "_stages", lambda run, _: [Stage(run.model, iter([1.0] * 4))])
    with pytest.raises(OutputError, match="No space left"):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(0.2, 0.8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", loop.WEIGHTS, "progress.json"]
    assert any(
        values.shape == (25, 25, 25) and (values == 0).all() for values in weights(tmp_path / loop.WEIGHTS).values()
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_every_stage_of_a_family_can_be_done(family: type[GeneratorNetwork]) -> None:
    assert {plan.name for plan in family.stages} <= set(loop.STAGES)


def test_a_history_without_its_checkpoint_is_reported(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fake_stage(monkeypatch, [1.0] * 4)
    train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(1.0))
    for part in (tmp_path / "checkpoints").iterdir():
        part.unlink()
    with pytest.raises(TrainingError, match=r"ckpt-4: is missing, so training cannot go on; remove"):
        train(geant4[:8], geant4[8:9], config, tmp_path, score=scored(1.0))


def test_dropout_draws_the_same_numbers_in_a_run_that_was_stopped(
    geant4: Events, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[NDArray[np.float32]] = []

    class Stage(FakeStage):
        def __init__(self, model: object, losses: Iterator[float]) -> None:
            super().__init__(model, losses)
            self.network = keras.Sequential([keras.Input((50,)), keras.layers.Dropout(0.5)])
            self.state = {"network": self.network}

        def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
            outputs.append(keras.ops.convert_to_numpy(self.network(np.ones((1, 50)), training=True)))
            return super().run_epoch(epoch, rng)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise StoppedError

    monkeypatch.setattr(loop, "_stages", lambda run, _: [Stage(run.model, iter([1.0] * 4))])
    train(geant4[:8], geant4[8:9], config, tmp_path / "undisturbed", score=scored(1.0))
    with pytest.raises(StoppedError):
        train(geant4[:8], geant4[8:9], config, tmp_path / "stopped", score=scored(1.0), on_epoch=stop)
    train(geant4[:8], geant4[8:9], config, tmp_path / "stopped", score=scored(1.0))
    assert len({values.tobytes() for values in outputs[:4]}) == 4
    np.testing.assert_array_equal(outputs[4:], outputs[:4])
