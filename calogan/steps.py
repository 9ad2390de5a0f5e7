"""The steps of the pipeline with the files they read and write: what the command line and the Ray jobs call."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from calogan import bundle, generator, lowering, report
from calogan.bundle import Bundle
from calogan.config import Config
from calogan.errors import ModelError
from calogan.events import Events, EventSource, Selection, open_events, packaged_sample, split_source
from calogan.events.files import find_files
from calogan.quantization import quantize
from calogan.simulation import parametric
from calogan.training.loop import Epoch, TrainingResult, train
from calogan.validation import ValidationReport, load_gates, physics_score, validate

PART_SHOWERS = 10_000  # of a part are used where it has to be in memory: more decide nothing
_VALIDATION_SEED = 20_000  # no other step draws showers with it


def data_paths(config: Config) -> tuple[Path, ...]:
    """Files of Geant4 showers a configuration is about."""
    return tuple(find_files(config.data.path)) if config.data.path else (packaged_sample(),)


def open_splits(config: Config) -> dict[str, Selection]:
    """Divide the showers of a configuration into train, validation, calibration and test; they stay on disk."""
    return split_source(open_events(data_paths(config), format=config.data.format or None), config.data.fractions)


def read_split(config: Config, name: str) -> Events:
    """Read one part of the showers into memory, the first `PART_SHOWERS` of it: validation, calibration or test."""
    return open_splits(config)[name][:PART_SHOWERS]


def train_model(config: Config, folder: Path, *, on_epoch: Callable[[Epoch], None] | None = None) -> TrainingResult:
    """Train a generator and freeze it into `folder`; a run that was stopped goes on from `folder/training`.

    Args:
        config: the whole configuration.
        folder: where the model is written.
        on_epoch: called after every epoch.
    """
    parts = open_splits(config)
    validation = parts["validation"][:PART_SHOWERS]
    result = train(parts["train"], validation, config, folder / "training", score=score_showers, on_epoch=on_epoch)
    lowering.freeze(result.weights, config, folder, inputs=data_paths(config))
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
    return _judge(config, reference, candidate, float32)


def validate_parametric(config: Config) -> ValidationReport:
    """Judge the parametrised simulation on the test split: what a model has to beat."""
    reference = read_split(config, "test")
    candidate = parametric.simulate(np.repeat(reference.energy, config.validation.draws), seed=_VALIDATION_SEED)
    return _judge(config, reference, candidate, None)


def _judge(config: Config, reference: Events, candidate: Events, float32: Events | None) -> ValidationReport:
    return validate(
        reference,
        candidate,
        float32=float32,
        thorough=config.validation.thorough,
        cell_trainings=config.validation.cell_trainings,
        gates=load_gates(config.validation.gates),
        inputs=data_paths(config),
    )


def write_comparison(
    path: Path,
    config: Config,
    model: Path,
    reports: Mapping[str, ValidationReport],
    *,
    speed: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write the page that shows the candidates of a pipeline beside each other, with a shower of each.

    Args:
        path: HTML file to write.
        config: the whole configuration.
        model: folder of the model.
        reports: by candidate: precisions of the model, and others that are shown without a picture.
        speed: by candidate, see `report.render`.
    """
    reference = read_split(config, "test")
    middle = np.argsort(reference.energy)[len(reference) // 2]
    one = slice(int(middle), int(middle) + 1)
    shown: dict[str, EventSource] = {"Geant4": reference[one]}
    for precision in [name for name in reports if name in bundle.read(model).network_files]:
        shown[precision] = generator.load(model, precision=precision).sample(
            reference.energy[one], seed=_VALIDATION_SEED
        )
    title = f"{config.name} against Geant4"
    return report.write_html(path, reports, title=title, pictures=report.typical_showers(shown), speed=speed)
