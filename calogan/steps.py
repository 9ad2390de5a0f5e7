"""The steps of the pipeline with the files they read and write: what the command line and the Ray jobs call."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from calogan import bundle, generator, lowering
from calogan.bundle import Bundle
from calogan.config import Config
from calogan.errors import ModelError
from calogan.events import Events, packaged_sample, read_events, split_events
from calogan.quantization import quantize
from calogan.training.loop import Epoch, TrainingResult, train
from calogan.validation import ValidationReport, load_gates, physics_score, validate

_VALIDATION_SEED = 20_000  # no other step draws showers with it


def data_path(config: Config) -> Path:
    """File of Geant4 showers a configuration is about."""
    return Path(config.data.path) if config.data.path else packaged_sample()


def read_split(config: Config, name: str) -> Events:
    """Read one part of the showers: train, validation, calibration or test."""
    return split_events(read_events(data_path(config)), config.data.fractions)[name]


def train_model(config: Config, folder: Path, *, on_epoch: Callable[[Epoch], None] | None = None) -> TrainingResult:
    """Train a generator and freeze it into `folder`; a run that was stopped goes on from `folder/training`.

    Args:
        config: the whole configuration.
        folder: where the model is written.
        on_epoch: called after every epoch.
    """
    parts = split_events(read_events(data_path(config)), config.data.fractions)
    result = train(
        parts["train"], parts["validation"], config, folder / "training", score=score_showers, on_epoch=on_epoch
    )
    lowering.freeze(result.weights, config, folder, inputs=(data_path(config),))
    return result


def score_showers(reference: Events, candidate: Events) -> float:
    """The number that chooses the best epoch: the physics score of a comparison without floor."""
    return physics_score(validate(reference, candidate, floor=False))


def quantize_model(config: Config, model: Path, target: Path | None = None) -> Bundle:
    """Quantize a model to int8 on the calibration split, in place or into another folder.

    Raises:
        ModelError: there is no such model, or it is a packaged one and no other folder is given.
    """
    source = bundle.find(model)
    if target is None and source != model:
        raise ModelError(f"{model} is a packaged model, which stays as it is; name another folder with --out")
    return quantize(source, read_split(config, "calibration"), config.quantization, target or source)


def validate_model(config: Config, model: Path, precision: str, *, threads: int = 1) -> ValidationReport:
    """Judge one precision of a model on the test split, with float32 of the same latent beside it."""
    reference = read_split(config, "test")
    energy = np.repeat(reference.energy, config.validation.draws)
    float32 = generator.load(model, precision="float32", threads=threads).sample(energy, seed=_VALIDATION_SEED)
    candidate = float32
    if precision != "float32":
        candidate = generator.load(model, precision=precision, threads=threads).sample(energy, seed=_VALIDATION_SEED)
    gates = load_gates(config.validation.gates)
    return validate(reference, candidate, float32=float32, gates=gates, inputs=(data_path(config),))
