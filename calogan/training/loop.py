"""The training run: stages one after the other, a checkpoint after every epoch, the best epoch kept."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from calogan.atomic_files import write_text
from calogan.config import Config
from calogan.errors import TrainingError
from calogan.events import Events, EventSource, held
from calogan.networks import rehm2021
from calogan.networks.base import GeneratorNetwork, LatentNetwork
from calogan.networks.families import build_generator
from calogan.networks.lean import Lean
from calogan.training import selection
from calogan.training.adversarial import AdversarialStage
from calogan.training.distance import DistanceStage
from calogan.training.likelihood import PriorStage, ShapeStage, flow_stages
from calogan.training.selection import DRAWS, Scored
from calogan.training.survey import survey
from calogan.training.workers import ALONE, Workers, random_states

WEIGHTS = "generator.weights.h5"
_PROGRESS = "progress.json"

Score = Callable[[Events, Events], Scored]


class Stage(Protocol):
    """A part of the run with its own loss and optimizers."""

    name: str
    epochs: int
    state: dict[str, keras.Model | keras.Optimizer]

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> Mapping[str, float]:
        """Train for one epoch; returns the mean of each loss."""
        ...


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        stage: `pretraining`, `flow`, `shape`, `prior`, `distance`, `warmup` or `adversarial`.
        number: epoch of the run, counted from 0.
        of: epochs of the whole run.
        losses: mean of each loss.
        score: physics score on the validation split, higher is better; None where it was not taken.
        seconds: wall time.
        metrics: what was measured on the validation split together with the score.
    """

    stage: str
    number: int
    of: int
    losses: Mapping[str, float]
    score: float | None
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        weights: file of the generator's weights at the best epoch.
        best: the epoch with the highest score.
        history: all epochs.
        stopped: why training ended before its last epoch; empty if it did not.
    """

    weights: Path
    best: Epoch
    history: tuple[Epoch, ...]
    stopped: str = ""


def train(
    showers: EventSource,
    validation: Events,
    config: Config,
    folder: Path,
    *,
    score: Score,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_showers: Callable[[Epoch, Events, Events], None] | None = None,
    workers: Workers = ALONE,
) -> TrainingResult:
    """Train a generator; a run that was stopped goes on after its last finished epoch.

    When the score is taken, which epoch is kept and when training ends is told in `selection`.

    Args:
        showers: the training split; what does not fit into a buffer is streamed, see `events.batches`.
        validation: the validation split; it only chooses the epoch.
        config: networks and numbers of epochs.
        folder: where checkpoints and the result are written.
        score: (reference, candidate) -> what chooses the epoch.
        on_epoch: called after every epoch.
        on_showers: called after every epoch that was scored, with the validation and the generated showers.
        workers: the processes that share the training; the chief alone scores, writes and calls back.

    Raises:
        TrainingError: something is not finite, the generator has collapsed, or the folder holds a run of another kind.
    """
    keras.utils.set_random_seed(config.training.seed)
    model = build_generator(config.network)
    stages = _stages(model, showers, config, workers)
    parts = {"generator": model} | {name: part for stage in stages for name, part in stage.state.items()}
    manager = _checkpoints(folder, parts)
    history = _resume(folder, config, manager)
    workers.agree(len(history), f"finished epochs in {folder}")
    plan = [(stage, epoch) for stage in stages for epoch in range(stage.epochs)]
    for number, (stage, epoch) in list(enumerate(plan))[len(history) :]:
        if _stop_reason(history, config):
            break
        started = time.monotonic()
        place = f"epoch {epoch} of {stage.name}"
        workers.mirror(parts.values())
        losses = stage.run_epoch(epoch, np.random.default_rng([config.training.seed, number]))
        _check(losses, parts, place)
        scored = _is_scored(stage, epoch, config)
        generated = _draw(model, validation) if scored and workers.chief else None
        found = None if generated is None else _judge(validation, generated, score, place)
        if found and selection.is_best(found.score, [earlier.score for earlier in history]):
            _save_weights(model, folder)
        value = workers.share(found.score if found else 0.0) if scored else None
        spent = time.monotonic() - started
        history.append(Epoch(stage.name, number, len(plan), losses, value, spent, found.metrics if found else {}))
        if workers.chief:
            manager.save(checkpoint_number=len(history))
            _write_progress(folder, config, history)
            if on_epoch:
                on_epoch(history[-1])
            if on_showers and generated is not None:
                on_showers(history[-1], validation, generated)
    return _result(folder, config, history, planned=len(plan))


def _checkpoints(folder: Path, parts: Mapping[str, keras.Model | keras.Optimizer]) -> tf.train.CheckpointManager:
    folder.mkdir(parents=True, exist_ok=True)
    # TensorFlow does not find what Keras draws the random numbers of dropout from.
    random = random_states(variable for part in parts.values() for variable in part.variables)
    state = tf.train.Checkpoint(**parts, random=random)
    return tf.train.CheckpointManager(state, str(folder / "checkpoints"), max_to_keep=2)


def _check(losses: Mapping[str, float], parts: Mapping[str, keras.Model | keras.Optimizer], place: str) -> None:
    selection.check_finite(losses, place)
    selection.check_weights({name: part for name, part in parts.items() if isinstance(part, keras.Model)}, place)


def _result(folder: Path, config: Config, history: list[Epoch], *, planned: int) -> TrainingResult:
    best = max((epoch for epoch in history if epoch.score is not None), key=lambda epoch: epoch.score or 0.0)
    stopped = _stop_reason(history, config) if len(history) < planned else ""
    return TrainingResult(folder / WEIGHTS, best, tuple(history), stopped)


def _stages(model: GeneratorNetwork, showers: EventSource, config: Config, workers: Workers) -> list[Stage]:
    numbers = config.training
    showers = held(showers)
    known = survey(showers)
    stages: list[Stage] = []
    if isinstance(model, Lean):
        shape = ShapeStage(model, showers, known, numbers, workers)
        stages += [*flow_stages(model, known, numbers, workers), shape]
        stages.append(PriorStage(model, shape, showers, numbers, workers))
    if isinstance(model, LatentNetwork) and numbers.distance_epochs:
        stages.append(DistanceStage(model, showers, numbers, workers))
    if numbers.adversarial_epochs:
        discriminator = rehm2021.discriminator()
        for move in (False, True):
            stage = AdversarialStage(
                model, discriminator, showers, known, numbers, move_generator=move, workers=workers
            )
            stages.append(stage)
        stages[-1].state["discriminator"] = discriminator
    if not any(stage.epochs for stage in stages if stage.name in {"shape", "distance", "adversarial"}):
        needed = "shape_epochs" if isinstance(model, Lean) else "distance_epochs"
        raise TrainingError(f"the configuration has no epochs of training; set {needed} or adversarial_epochs")
    return stages


def _is_scored(stage: Stage, epoch: int, config: Config) -> bool:
    if stage.name in {"shape", "prior", "distance"}:
        every = config.training.score_every
        return epoch == stage.epochs - 1 or (every > 0 and (epoch + 1) % every == 0)
    return stage.name == "adversarial"


def _stop_reason(history: list[Epoch], config: Config) -> str:
    return selection.stop_reason([epoch.score for epoch in history], config.training.patience)


def _judge(validation: Events, generated: Events, score: Score, place: str) -> Scored:
    health = selection.check_showers(validation, generated, place)
    found = score(validation, generated)
    selection.check_finite({"score": found.score}, place)
    return replace(found, metrics={**found.metrics, **health})


def _draw(model: GeneratorNetwork, validation: Events) -> Events:
    energy = np.repeat(validation.energy, DRAWS)
    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, len(energy), 128):
        e = energy[start : start + 128]
        latent = rng.standard_normal((len(e), model.latent_size), np.float32)
        noise = rng.standard_normal((len(e), *validation.showers.shape[1:]), np.float32)
        parts.append(np.asarray(model(e, latent, noise, training=False)))
    return Events(np.concatenate(parts), energy)


def _save_weights(model: GeneratorNetwork, folder: Path) -> None:
    """Replace the best weights at once: a run that dies meanwhile keeps the old ones."""
    temporary = folder / f".part.{WEIGHTS}"
    model.save_weights(temporary)
    temporary.replace(folder / WEIGHTS)


def _resume(folder: Path, config: Config, manager: tf.train.CheckpointManager) -> list[Epoch]:
    path = folder / _PROGRESS
    if not path.exists():
        return []
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        # What a version before this one did not write has its default, there as here.
        trained = Config.model_validate(progress["config"])
        history = [Epoch(**epoch) for epoch in progress["history"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: is not the history of a training of this version ({error}); name another folder or remove {folder}"
        ) from error
    if trained != config:
        raise TrainingError(f"{folder} holds a training of another configuration; name another folder or remove it")
    # Not the latest: a run may have been stopped between its checkpoint and its entry in the history.
    checkpoint = f"{manager.directory}/ckpt-{len(history)}"
    try:
        manager.checkpoint.restore(checkpoint).expect_partial()
    except tf.errors.NotFoundError as error:
        raise TrainingError(f"{checkpoint}: is missing, so training cannot go on; remove {folder}") from error
    return history


def _write_progress(folder: Path, config: Config, history: list[Epoch]) -> None:
    text = json.dumps({"config": config.model_dump(), "history": [asdict(epoch) for epoch in history]}, indent=1)
    write_text(folder / _PROGRESS, text)
