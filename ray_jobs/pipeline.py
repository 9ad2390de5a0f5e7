"""The whole pipeline in one job: train, quantize, validate, benchmark, register; an interrupted job resumes.

ray job submit --working-dir . -- python -m ray_jobs.pipeline --config tiny --storage /shared/calogan
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import ray

from calogan import provenance, steps
from calogan.atomic_files import write_json
from calogan.benchmark.comparison import measure_speed, summarise
from calogan.benchmark.precisions import BenchmarkReport
from calogan.benchmark.profiling import network_profiles
from calogan.cli.program import run
from calogan.config import Benchmark, Config, load_config
from calogan.errors import RequestError
from calogan.generation import model_folder
from calogan.reporting import html, pictures, plots
from calogan.search import quantization_trials
from calogan.tracking import registry
from calogan.tracking.candidates import candidate_run
from calogan.tracking.runs import log_file, pipeline_run, training_key
from calogan.validation.report import ValidationReport
from ray_jobs.driver import flat, get, join, say
from ray_jobs.train import train, workers_option
from ray_jobs.tune import search

# Of the models beside: as many showers as in the test split, and few rounds, because the published networks take long.
BESIDE = ("float32", "int8")
_BESIDE_ROUND = Benchmark(batch_size=64, repetitions=1)
_BESIDE_SHOWERS = 256


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def quantize(config: Config, folder: Path) -> None:
    """Add int8 to the model."""
    steps.quantize_model(config, folder)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def validate(config: Config, folder: Path, precision: str) -> ValidationReport:
    """Validate one candidate on the test split."""
    return steps.validate_model(config, folder, precision)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def validate_parametric(config: Config) -> ValidationReport:
    """Validate the parametrised simulation for comparison."""
    return steps.validate_parametric(config)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def measure(config: Config, folder: Path) -> BenchmarkReport:
    """Time the candidates while no other task of this job runs."""
    return measure_speed(folder, candidates(config), config.benchmark)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def measure_beside(model: Path) -> BenchmarkReport:
    """Time a model beside, while no other task of this job runs."""
    return measure_speed(model, BESIDE, _BESIDE_ROUND, round_showers=_BESIDE_SHOWERS)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def profile(folder: Path) -> dict[str, dict[str, float]]:
    """Profile the networks by operation."""
    return network_profiles(folder)


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@click.option("--storage", type=click.Path(path_type=Path), default=Path("storage"), help="Folder all nodes share.")
@click.option(
    "--beside", multiple=True, help="Another model to compare on the same showers, in float32 and int8; repeatable."
)
@workers_option
def main(config_name: str, storage: Path, beside: tuple[str, ...], workers: int) -> None:
    """Run the pipeline on a Ray cluster; MLFLOW_TRACKING_URI names the MLflow server."""
    config = load_config(config_name)
    others = find_beside(beside, config)
    names = candidates(config)
    join()
    folder = (storage / config.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    key = training_key(folder / "training")
    with pipeline_run(f"pipeline {config_name}", flat(config), header=provenance.header(), key=key) as run_id:
        trained = train(config, folder, workers=workers, run_id=run_id)
        say("quantize", "Intel Neural Compressor, on the calibration split")
        if config.quantization.tune:
            with quantization_trials.sole_tuning(folder):
                search(config, folder, parallel=None, run_id=run_id)
        quantized = None if config.quantization.tune else quantize.options(num_cpus=1).remote(config, folder)
        # What does not need the model is validated beside its quantization, which leaves other cores idle.
        parametrised = validate_parametric.options(num_cpus=1).remote(config)
        less = validation_beside(config)
        tasks_beside = {
            (model, name): validate.options(num_cpus=1).remote(less, path, name)
            for model, path in others.items()
            for name in BESIDE
        }
        if quantized is not None:
            get(quantized)
        say("validate", f"{', '.join([*names, *others])} against Geant4, on the test split")
        tasks = {name: validate.options(num_cpus=1).remote(config, folder, name) for name in names}
        reports: dict[str, ValidationReport] = {name: ray.get(task) for name, task in tasks.items()}
        reports_beside = {key: ray.get(task) for key, task in tasks_beside.items()}
        shown = {"parametrised": ray.get(parametrised), **reports}
        shown |= {f"{model} {name}": report for (model, name), report in reports_beside.items()}
        say("benchmark", f"{', '.join([*names, *others])}, interleaved on one core")
        timed = ray.get(measure.options(num_cpus=1).remote(config, folder))
        timed_beside = {
            model: ray.get(measure_beside.options(num_cpus=1).remote(path)) for model, path in others.items()
        }
        profiles = ray.get(profile.options(num_cpus=1).remote(folder))
        say("register", "models, metrics and figures to MLflow")
        (folder / "figures").mkdir(exist_ok=True)
        figures = plots.save_figures(reports, folder / "figures", reference_name="Geant4")
        page = steps.write_comparison(folder / "report.html", config, folder, shown, speed=_speeds(timed, timed_beside))
        log_file(run_id, page)
        chart = folder / "figures" / "operation_times.png"
        pictures.save(pictures.operation_times(profiles), chart)
        log_file(run_id, chart)
        logged = {name: _log(run_id, folder, name, reports[name], timed, figures) for name in names}
        beside_summaries = {}
        for model, path in others.items():
            own = {name: reports_beside[model, name] for name in BESIDE}
            beside_summaries[model] = summarise(own, timed_beside[model])
            description = model_folder.read(path)
            for name, report in own.items():
                performance = timed_beside[model].metrics(name)
                with candidate_run(run_id, description, name, report, performance=performance) as child:
                    beside_summaries[model][name]["run_id"] = child
    precisions = summarise(reports, timed)
    summary = {
        "model": config.name,
        "best_epoch": dataclasses.asdict(trained.best),
        "precisions": {name: {**precisions[name], **logged[name]} for name in names},
        "beside": beside_summaries,
        "header": dict(timed.header),
    }
    write_json(folder / "summary.json", summary)
    say("report", str(folder / "report.html"))
    say("done", str(folder / "summary.json"))


def candidates(config: Config) -> tuple[str, ...]:
    """The candidates of a configuration, float32 first."""
    return tuple(dict.fromkeys(("float32", *config.validation.candidates)))


def find_beside(models: Sequence[str], config: Config) -> dict[str, Path]:
    """Folders of the models beside, by the name they were given by.

    Raises:
        ModelError: there is no such model, or a file of it is missing or altered.
        RequestError: there are too many candidates for one report.
    """
    folders = {Path(model).name: model_folder.find(model).resolve() for model in models}
    for folder in folders.values():
        for name in BESIDE:
            model_folder.check_files(folder, model_folder.read(folder), name)
    number = 1 + len(candidates(config)) + len(BESIDE) * len(folders)
    if number > html.MOST_CANDIDATES:
        raise RequestError(
            f"{number} candidates with the parametrised simulation and the models beside; a report compares "
            f"{html.MOST_CANDIDATES} at most: give fewer --beside, or fewer validation.candidates"
        )
    return folders


def validation_beside(config: Config) -> Config:
    """The configuration for a model beside: the same gates, one shower for each Geant4 shower, no whole distributions."""
    less = {"draws": 1, "thorough": False, "cell_trainings": 0}
    return config.model_copy(update={"validation": config.validation.model_copy(update=less)})


def _speeds(timed: BenchmarkReport, beside: Mapping[str, BenchmarkReport]) -> dict[str, dict[str, float]]:
    """Timing results for the report."""
    others = ((f"{model} {name}", speeds) for model, each in beside.items() for name, speeds in each.speeds().items())
    return timed.speeds() | dict(others)


def _log(
    run_id: str, folder: Path, name: str, report: ValidationReport, timed: BenchmarkReport, figures: list[Path]
) -> dict[str, Any]:
    """Log a candidate to MLflow, and register it if it is a precision of the model; returns its run."""
    description, performance = model_folder.read(folder), timed.metrics(name)
    if name in description.network_files:
        registered = registry.log_precision(run_id, folder, name, report, performance=performance, figures=figures)
        return dataclasses.asdict(registered)
    with candidate_run(run_id, description, name, report, performance=performance, figures=figures) as child:
        return {"run_id": child}


if __name__ == "__main__":
    run(main)
