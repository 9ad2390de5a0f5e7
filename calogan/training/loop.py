"""The training run: stages one after the other, a checkpoint after every epoch, the best epoch kept."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from calogan.config import Config
from calogan.errors import TrainingError
from calogan.events import Events, EventSource, held
from calogan.networks import rehm2021
from calogan.networks.base import GeneratorNetwork
from calogan.networks.families import build_generator
from calogan.networks.lean import Lean
from calogan.training.adversarial import AdversarialStage
from calogan.training.likelihood import FlowStage, ShapeStage
from calogan.training.survey import survey

WEIGHTS = "generator.weights.h5"
_PROGRESS = "progress.json"
_SCORED_DRAWS = 4  # showers generated per validation shower: the score's noise is then Geant4's

Score = Callable[[Events, Events], float]


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
        stage: `flow`, `shape`, `warmup` or `adversarial`.
        number: epoch of the run, counted from 0.
        of: epochs of the whole run.
        losses: mean of each loss.
        score: physics score on the validation split, higher is better; None where it was not taken.
        seconds: wall time.
    """

    stage: str
    number: int
    of: int
    losses: Mapping[str, float]
    score: float | None
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        weights: file of the generator's weights at the best epoch.
        best: the epoch with the highest score.
        history: all epochs.
    """

    weights: Path
    best: Epoch
    history: tuple[Epoch, ...]


def train(
    showers: EventSource,
    validation: Events,
    config: Config,
    folder: Path,
    *,
    score: Score,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainingResult:
    """Train a generator; a run that was stopped goes on after its last finished epoch.

    The score is taken when pre-training ends and after every adversarial epoch, on showers generated at the
    energies of the validation split, and the weights with the highest one are kept.

    Args:
        showers: the training split; what does not fit into a buffer is streamed, see `events.batches`.
        validation: the validation split; it only chooses the epoch.
        config: networks and numbers of epochs.
        folder: where checkpoints and the result are written.
        score: (reference, candidate) -> positive number, higher is better.
        on_epoch: called after every epoch.

    Raises:
        TrainingError: a loss or score is not a finite number, or the folder holds a run of another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(config.training.seed)
    model = build_generator(config.network)
    stages = _stages(model, showers, config)
    parts = {"generator": model} | {name: part for stage in stages for name, part in stage.state.items()}
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(**parts), str(folder / "checkpoints"), max_to_keep=2)
    history = _resume(folder, config, manager)
    plan = [(stage, epoch) for stage in stages for epoch in range(stage.epochs)]
    for number, (stage, epoch) in list(enumerate(plan))[len(history) :]:
        started = time.monotonic()
        rng = np.random.default_rng([config.training.seed, number])
        losses = stage.run_epoch(epoch, rng)
        _check_finite(losses, stage.name, epoch)
        scored = stage.name == "adversarial" or (stage.name == "shape" and epoch == stage.epochs - 1)
        value = float(score(validation, _draw(model, validation))) if scored else None
        _check_finite({"score": value or 0.0}, stage.name, epoch)
        done = Epoch(stage.name, number, len(plan), losses, value, time.monotonic() - started)
        if value is not None and value > max((e.score for e in history if e.score is not None), default=-math.inf):
            model.save_weights(folder / WEIGHTS)
        history.append(done)
        manager.save(checkpoint_number=len(history))
        _write_progress(folder, config, history)
        if on_epoch:
            on_epoch(done)
    best = max((epoch for epoch in history if epoch.score is not None), key=lambda epoch: epoch.score or 0.0)
    return TrainingResult(folder / WEIGHTS, best, tuple(history))


def _stages(model: GeneratorNetwork, showers: EventSource, config: Config) -> list[Stage]:
    numbers = config.training
    showers = held(showers)
    known = survey(showers)
    stages: list[Stage] = []
    if isinstance(model, Lean):
        stages += [FlowStage(model, known, numbers), ShapeStage(model, showers, known, numbers)]
    if numbers.adversarial_epochs:
        discriminator = rehm2021.discriminator()
        for move in (False, True):
            stages.append(AdversarialStage(model, discriminator, showers, known, numbers, move_generator=move))
        stages[-1].state["discriminator"] = discriminator
    if not any(stage.epochs for stage in stages if stage.name in {"shape", "adversarial"}):
        raise TrainingError("the configuration has no epochs of training; set shape_epochs or adversarial_epochs")
    return stages


def _draw(model: GeneratorNetwork, validation: Events) -> Events:
    energy = np.repeat(validation.energy, _SCORED_DRAWS)
    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, len(energy), 128):
        e = energy[start : start + 128]
        latent = rng.standard_normal((len(e), model.latent_size), np.float32)
        noise = rng.standard_normal((len(e), *validation.showers.shape[1:]), np.float32)
        parts.append(np.asarray(model(e, latent, noise, training=False)))
    return Events(np.concatenate(parts), energy)


def _check_finite(losses: Mapping[str, float], stage: str, epoch: int) -> None:
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"{', '.join(bad)} is not a finite number in epoch {epoch} of {stage}; try a lower learning rate"
        )


def _resume(folder: Path, config: Config, manager: tf.train.CheckpointManager) -> list[Epoch]:
    path = folder / _PROGRESS
    if not path.exists():
        return []
    progress = json.loads(path.read_text(encoding="utf-8"))
    if progress["config"] != config.model_dump():
        raise TrainingError(f"{folder} holds a training of another configuration; name another folder or remove it")
    history = [Epoch(**epoch) for epoch in progress["history"]]
    # Not the latest: a run may have been stopped between its checkpoint and its entry in the history.
    manager.checkpoint.restore(f"{manager.directory}/ckpt-{len(history)}").expect_partial()
    return history


def _write_progress(folder: Path, config: Config, history: list[Epoch]) -> None:
    text = json.dumps({"config": config.model_dump(), "history": [asdict(epoch) for epoch in history]}, indent=1)
    temporary = folder / f".{_PROGRESS}.part"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / _PROGRESS)
