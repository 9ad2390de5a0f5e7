"""The steps of the pipeline with the files they read and write, called by the command line and the Ray jobs."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from calogan import provenance
from calogan.benchmark.peers import loading
from calogan.config import Config, Network, Validation
from calogan.errors import ConfigError, ModelError
from calogan.events import Events, EventSource, Selection, open_events, packaged_sample, split_source
from calogan.events.files import find_files
from calogan.generation import freezing, generator, model_folder
from calogan.generation.model_folder import ModelDescription
from calogan.quantization.quantize import quantize
from calogan.reporting import html, pictures, plots
from calogan.simulation import parametric
from calogan.training.loop import Epoch, TrainingResult, train
from calogan.training.selection import Scored
from calogan.training.workers import ALONE, Workers
from calogan.validation.gates import CLASSIFIER_GATE, Gate, load_gates
from calogan.validation.report import ValidationReport, physics_score
from calogan.validation.validate import validate

if TYPE_CHECKING:
    from calogan.tracking.registry import Registered

PART_SHOWERS = 10_000  # limit for parts that must fit into memory; more would not change any decision
_VALIDATION_SEED = 20_000  # no other step draws showers with it


def data_paths(config: Config) -> tuple[Path, ...]:
    """Files of the Geant4 showers of a configuration."""
    return tuple(find_files(config.data.path)) if config.data.path else (packaged_sample(),)


def open_splits(config: Config) -> dict[str, Selection]:
    """Split the showers of a configuration into train, validation, calibration and test, without loading them."""
    return split_source(open_events(data_paths(config), format=config.data.format or None), config.data.fractions)


def read_split(config: Config, name: str) -> Events:
    """Load the first `PART_SHOWERS` showers of one part: validation, calibration or test."""
    return open_splits(config)[name][:PART_SHOWERS]


def train_model(
    config: Config,
    folder: Path,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_showers: Callable[[Epoch, Events, Events], None] | None = None,
    workers: Workers = ALONE,
) -> TrainingResult:
    """Train a generator and freeze it into `folder`; an interrupted run resumes from `folder/training`.

    Args:
        config: the whole configuration.
        folder: folder of the model.
        on_epoch: called after every epoch.
        on_showers: called after every scored epoch, with the validation and the generated showers.
        workers: the processes that share the training; if there are several, a later call by one of them freezes it.
    """
    parts = open_splits(config)
    validation = parts["validation"][:PART_SHOWERS]
    start = _start_weights(config)
    inputs = (*data_paths(config), *([start] if start else []))
    result = train(
        parts["train"],
        validation,
        config,
        folder / "training",
        score=measure_showers,
        start=start,
        inputs=inputs,
        on_epoch=on_epoch,
        on_showers=on_showers,
        workers=workers,
    )
    if workers.size == 1 and not _is_frozen(result.weights, config, folder):
        freezing.freeze(result.weights, config, folder, inputs=inputs)
    return result


def _start_weights(config: Config) -> Path | None:
    """File of the weights that training starts from, or None for new ones.

    Raises:
        ModelError: there is no such model, or its weights are missing or altered.
        ConfigError: it has another network than the configuration.
    """
    if not config.training.start:
        return None
    folder = model_folder.find(config.training.start)
    description = model_folder.read(folder)
    model_folder.check_file(folder, description, description.weights)
    theirs, ours = (each.model_dump(include=set(Network.model_fields)) for each in (description, config.network))
    if theirs != ours:
        raise ConfigError(
            f"training.start: {config.training.start} has the network {_text(theirs)}, but [network] is {_text(ours)}; "
            "name another model, or change [network]"
        )
    return folder / description.weights


def _text(network: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in network.items())


def _is_frozen(weights: Path, config: Config, folder: Path) -> bool:
    """Whether a folder contains the model of these weights, frozen by this code.

    Freezing it again would change its version, because node names depend on what the process did before. Everything
    that refers to the version, such as records of trials, would then belong to another model.
    """
    try:
        model = model_folder.read(folder)
        model_folder.check_files(folder, model, "float32")
        model_folder.check_file(folder, model, model.weights)
    except ModelError:
        return False
    header = provenance.header(seed=config.training.seed, inputs=data_paths(config))
    return (
        model.sha256[model.weights] == provenance.sha256(weights)
        and (model.name, model.energy_range) == (config.name, (config.data.energy_low, config.data.energy_high))
        and all(model.header.get(name) == value for name, value in header.items() if not name.startswith("cpu_"))
    )


def measure_showers(reference: Events, candidate: Events) -> Scored:
    """Compute the gates' metrics, without floor, and the physics score that selects the best epoch."""
    report = validate(reference, candidate, floor=False)
    values = {name: result.estimate.value for name, result in report.gates.items() if result.estimate}
    return Scored(physics_score(report), {name: value for name, value in values.items() if np.isfinite(value)})


def score_without_classifier(reference: Events, candidate: Events) -> float:
    """The score for comparing quantizations: the physics score of all packaged gates except the classifier's.

    In MLflow it is `physics/score_without_classifier`, and never `physics/score`.

    It covers the mean shower, its centre and widths, its tails, the sampling fraction and the resolution in bins of Ep,
    the layers, the hits and the spectrum of the cells. A classifier would be retrained for each sample, which alone
    changes its AUC more than quantization does.
    """
    gates = {name: gate for name, gate in load_gates().items() if name != CLASSIFIER_GATE}
    return physics_score(validate(reference, candidate, floor=False, trees=False, gates=gates))


def training_pictures(reference: Events, candidate: Events) -> dict[str, Figure]:
    """Draw a generator in training next to Geant4: mean profiles, and a typical shower of each."""
    shapes = plots.shower_shapes(
        {"generated": validate(reference, candidate, floor=False, trees=False)}, reference_name="Geant4"
    )
    typical = html.typical_showers({"Geant4": reference, "generated": candidate})
    (title, shower), (generated_title, generated) = typical.items()
    showers = pictures.shower_picture(shower, generated, reference_title=title, generated_title=generated_title)
    return {"shower_shapes": shapes, "shower": showers}


def quantize_model(config: Config, model: Path, target: Path | None = None) -> ModelDescription:
    """Quantize a model to int8 on the calibration split, in place or into another folder.

    Raises:
        ModelError: there is no such model, or it is a packaged one and `target` is missing.
    """
    source = model_folder.find(model) if target else model_folder.find_writable(model)
    return quantize(source, read_split(config, "calibration"), config.quantization, target or source)


def validate_model(config: Config, model: Path, precision: str, *, threads: int = 1) -> ValidationReport:
    """Validate one precision of a model, or its network in another runtime, on the test split.

    float32 showers with the same latent numbers are generated for the pixel-wise metrics.
    """
    reference = read_split(config, "test")
    energy = np.repeat(reference.energy, config.validation.draws)
    float32 = generator.load(model, precision="float32", threads=threads).sample(energy, seed=_VALIDATION_SEED)
    candidate = float32
    if precision != "float32":
        candidate = loading.sampler(model, precision, threads=threads).sample(energy, seed=_VALIDATION_SEED)
    return _judge(config, reference, candidate, float32)


def validate_parametric(config: Config) -> ValidationReport:
    """Validate the parametrised simulation on the test split, the baseline for models."""
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


def register_model(
    model: Path,
    precisions: Sequence[str],
    *,
    reference: Sequence[Path] = (),
    gates: str = "default",
    keep_champion: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> "dict[str, Registered]":
    """Validate precisions of a model, register them in MLflow and make those that pass all gates champions.

    A precision whose champion is this very model is left alone, so that this can be repeated.

    Args:
        model: folder of the model.
        precisions: the precisions to register.
        reference: files of Geant4 showers that it was not trained on; those of the package by default.
        gates: packaged gates, or a TOML file.
        keep_champion: also leave precisions alone whose champion is another model.
        progress: called with a line before each step.

    Returns:
        What was registered, by precision; empty if all champions were left alone.

    Raises:
        ModelError: the model lacks a precision.
        ServiceError: MLflow does not answer.
    """
    from calogan.tracking import registry  # noqa: PLC0415 - takes seconds, and no other step needs it
    from calogan.tracking.runs import pipeline_run  # noqa: PLC0415

    description = model_folder.read(model)
    for precision in precisions:
        model_folder.check_files(model, description, precision)
    champions = {precision: registry.champion(description.name, precision) for precision in precisions}
    missing = [
        precision
        for precision, champion in champions.items()
        if champion is None or not (keep_champion or champion[1] == description.version(precision))
    ]
    if not missing:
        return {}
    paths = tuple(reference) or (packaged_sample(),)
    geant4 = open_events(paths)[:PART_SHOWERS]
    reports = _judge_precisions(model, missing, geant4, load_gates(gates), paths, progress)
    progress("registering")
    parameters = {
        "model": description.name,
        "gates": gates,
        "geant4_showers": len(geant4),
    }
    with (
        pipeline_run(f"register {description.name}", parameters, header=provenance.header(inputs=paths)) as run_id,
        tempfile.TemporaryDirectory(prefix="calogan-") as scratch,
    ):
        figures = plots.save_figures(reports, Path(scratch), reference_name="Geant4")
        return {
            precision: registry.log_precision(run_id, model, precision, report, performance={}, figures=figures)
            for precision, report in reports.items()
        }


def _judge_precisions(
    model: Path,
    precisions: Sequence[str],
    geant4: Events,
    gates: Mapping[str, Gate],
    inputs: Sequence[Path],
    progress: Callable[[str], None],
) -> dict[str, ValidationReport]:
    """Validate precisions against the same showers, with the same energies and random numbers."""
    energy = np.repeat(geant4.energy, Validation().draws)
    float32 = None
    if "float32" in model_folder.read(model).network_files:
        float32 = generator.load(model, precision="float32").sample(energy, seed=_VALIDATION_SEED)
    reports = {}
    for precision in precisions:
        progress(f"validating {precision}")
        candidate = float32
        if candidate is None or precision != "float32":
            candidate = generator.load(model, precision=precision).sample(energy, seed=_VALIDATION_SEED)
        reports[precision] = validate(geant4, candidate, float32=float32, floor=False, gates=gates, inputs=inputs)
    return reports


def write_comparison(
    path: Path,
    config: Config,
    model: Path,
    reports: Mapping[str, ValidationReport],
    *,
    speed: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write the report that compares the candidates of a pipeline, with a shower of each.

    Args:
        path: HTML file to write.
        config: the whole configuration.
        model: folder of the model.
        reports: reports by candidate: precisions of the model, and others, which get no picture.
        speed: timing results by candidate, see `html.render`.
    """
    reference = read_split(config, "test")
    middle = np.argsort(reference.energy)[len(reference) // 2]
    one = slice(int(middle), int(middle) + 1)
    shown: dict[str, EventSource] = {"Geant4": reference[one]}
    for precision in [name for name in reports if name in model_folder.read(model).network_files]:
        shown[precision] = generator.load(model, precision=precision).sample(
            reference.energy[one], seed=_VALIDATION_SEED
        )
    title = f"{config.name} against Geant4"
    return html.write_html(path, reports, title=title, pictures=html.typical_showers(shown), speed=speed)
