"""The training run: stages in order, a checkpoint after every epoch, and the weights of the best epoch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from calogan.atomic_files import atomic_write
from calogan.config import Config
from calogan.errors import TrainingError
from calogan.events import Events, EventSource
from calogan.networks.base import GeneratorNetwork
from calogan.networks.families import build_generator, find_family
from calogan.networks.stages import StagePlan
from calogan.training import arithmetic, progress, selection
from calogan.training.adversarial import AdversarialStage
from calogan.training.distance import DistanceStage
from calogan.training.likelihood import ShapeStage, flow_stage, pretraining_stage, shape_flow_stage
from calogan.training.progress import Epoch
from calogan.training.run import Stage, TrainingRun, start_run
from calogan.training.selection import DRAWS, Scored
from calogan.training.workers import ALONE, Workers, random_states

__all__ = ["STAGES", "WEIGHTS", "Epoch", "Score", "TrainingResult", "train"]

WEIGHTS = "generator.weights.h5"

Score: TypeAlias = Callable[[Events, Events], Scored]
OnEpoch: TypeAlias = Callable[[Epoch], None]
OnShowers: TypeAlias = Callable[[Epoch, Events, Events], None]

# The implementation of each stage.
STAGES: Mapping[str, Callable[[StagePlan, TrainingRun[Any]], Stage]] = {
    "pretraining": pretraining_stage,
    "flow": flow_stage,
    "shape": ShapeStage,
    "shape_flow": shape_flow_stage,
    "distance": DistanceStage,
    "refinement": DistanceStage,
    "warmup": AdversarialStage,
    "adversarial": AdversarialStage,
}


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        weights: file of the generator's weights at the best epoch.
        best: the epoch with the highest score.
        history: all epochs.
        stop_reason: reason why training ended before its last epoch; empty if it did not.
    """

    weights: Path
    best: Epoch
    history: tuple[Epoch, ...]
    stop_reason: str = ""


def train(
    showers: EventSource,
    validation: Events,
    config: Config,
    folder: Path,
    *,
    score: Score,
    start: Path | None = None,
    inputs: Sequence[Path] = (),
    on_epoch: OnEpoch | None = None,
    on_showers: OnShowers | None = None,
    workers: Workers = ALONE,
) -> TrainingResult:
    """Train a generator; an interrupted run resumes after its last finished epoch.

    `selection` decides which epochs are scored, which one is the best and when training ends.

    Args:
        showers: the training split; a sample larger than the buffer is streamed, see `events.batches`.
        validation: the validation split, used only to choose the best epoch.
        config: networks and numbers of epochs.
        folder: folder of the checkpoints and the result.
        score: (reference, candidate) -> score and metrics of an epoch.
        start: file of weights of the same network to start from, of the model `config.training.start`.
        inputs: the files of the showers, and `start`; a training does not resume with different ones.
        on_epoch: called after every epoch.
        on_showers: called after every scored epoch, with the validation and the generated showers.
        workers: the processes that share the training; only the chief scores, writes and calls back.

    Raises:
        ConfigError: there is no such generator family.
        TrainingError: a number is not finite, the generator has collapsed, or the folder contains a different training.
    """
    basis = progress.basis(config, inputs)
    history = progress.read(folder, basis)
    run, stages = _start(showers, config, workers, start)
    parts = _parts(run, stages)
    manager = _checkpoints(folder, parts, epochs=len(history))
    workers.agree(len(history), f"finished epochs in {folder}")
    epochs = [(stage, epoch) for stage in stages for epoch in range(stage.epochs)]
    for number, (stage, epoch) in list(enumerate(epochs))[len(history) :]:
        if _stop_reason(history, config):
            break
        started = time.monotonic()
        place = f"epoch {epoch} of {stage.plan.name}"
        workers.mirror(parts.values())
        losses = stage.run_epoch(epoch, np.random.default_rng([config.training.seed, number]))
        _check(losses, parts, place)
        scored = stage.plan.is_scored(epoch, of=stage.epochs, every=config.training.score_every)
        generated, result = _judge(run.model, validation, score, place) if scored and workers.chief else (None, None)
        if result and selection.is_best(result.score, [earlier.score for earlier in history]):
            _save_weights(run.model, folder)
        value = workers.share(result.score if result else 0.0) if scored else None
        metrics, spent = result.metrics if result else {}, time.monotonic() - started
        history.append(Epoch(stage.plan.name, number, len(epochs), losses, value, spent, metrics))
        if workers.chief:
            manager.save(checkpoint_number=len(history))
            progress.write(folder, basis, history)
            _report(history[-1], validation, generated, on_epoch, on_showers)
    return _result(folder, config, history, planned=len(epochs))


def _parts(run: TrainingRun[Any], stages: Sequence[Stage]) -> dict[str, keras.Model | keras.Optimizer]:
    """Contents of a checkpoint, by name."""
    own = {name: part for stage in stages for name, part in stage.state.items()}
    return {"generator": run.model} | own | run.networks


def _checkpoints(
    folder: Path, parts: Mapping[str, keras.Model | keras.Optimizer], *, epochs: int
) -> tf.train.CheckpointManager:
    """Open the checkpoints of a folder, and restore the one after the given number of epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    # TensorFlow does not track the seed generators of Keras's dropout layers.
    random = random_states(variable for part in parts.values() for variable in part.variables)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(**parts, random=random), str(folder / "checkpoints"), max_to_keep=2
    )
    if epochs:
        # Not the latest one: the run may have stopped between writing the checkpoint and the history.
        checkpoint = f"{manager.directory}/ckpt-{epochs}"
        try:
            manager.checkpoint.restore(checkpoint).expect_partial()
        except tf.errors.NotFoundError as error:
            raise TrainingError(f"{checkpoint}: is missing, so training cannot go on; remove {folder}") from error
    return manager


def _check(losses: Mapping[str, float], parts: Mapping[str, keras.Model | keras.Optimizer], place: str) -> None:
    selection.check_finite(losses, place)
    selection.check_weights({name: part for name, part in parts.items() if isinstance(part, keras.Model)}, place)


def _result(folder: Path, config: Config, history: list[Epoch], *, planned: int) -> TrainingResult:
    best = max((epoch for epoch in history if epoch.score is not None), key=lambda epoch: epoch.score or 0.0)
    stop_reason = _stop_reason(history, config) if len(history) < planned else ""
    return TrainingResult(folder / WEIGHTS, best, tuple(history), stop_reason)


def _start(
    showers: EventSource, config: Config, workers: Workers, weights: Path | None
) -> tuple[TrainingRun[Any], list[Stage]]:
    """Make the generator, untrained or with given weights, and the stages of its training."""
    family = find_family(config.network)
    plans = _plans(family, config)
    policy = arithmetic.choose(config.training.arithmetic, family=family.family, allowed=family.bfloat16)
    keras.utils.set_random_seed(config.training.seed)
    with arithmetic.layers_in(policy):
        run = start_run(build_generator(config.network), showers, config.training, workers)
        stages = _stages(run, plans)
    if weights:
        run.model.load_weights(weights)
    return run, stages


def _plans(family: type[GeneratorNetwork], config: Config) -> list[StagePlan]:
    """The stages of a family that have epochs."""
    plans = [plan for plan in family.stages if plan.epochs(config.training)]
    if not any(plan.trains_network for plan in plans):
        fields = [plan.field for plan in family.stages if plan.trains_network]
        raise TrainingError(f"the configuration has no epochs of training; set {' or '.join(fields)}")
    return plans


def _stages(run: TrainingRun[Any], plans: Sequence[StagePlan]) -> list[Stage]:
    return [STAGES[plan.name](plan, run) for plan in plans]


def _stop_reason(history: list[Epoch], config: Config) -> str:
    return selection.stop_reason([epoch.score for epoch in history], config.training.patience)


def _judge(model: GeneratorNetwork, validation: Events, score: Score, place: str) -> tuple[Events, Scored]:
    """Generate showers at the energies of the validation split and score them."""
    generated = _draw(model, validation)
    health = selection.check_showers(validation, generated, place)
    result = score(validation, generated)
    selection.check_finite({"score": result.score}, place)
    return generated, replace(result, metrics={**result.metrics, **health})


def _report(
    epoch: Epoch,
    validation: Events,
    generated: Events | None,
    on_epoch: OnEpoch | None,
    on_showers: OnShowers | None,
) -> None:
    if on_epoch:
        on_epoch(epoch)
    if on_showers and generated is not None:
        on_showers(epoch, validation, generated)


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
    """Replace the best weights atomically: if the run dies meanwhile, the old ones remain."""
    with atomic_write(folder / WEIGHTS) as temporary:
        model.save_weights(temporary)
