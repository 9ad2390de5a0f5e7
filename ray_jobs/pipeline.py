"""The whole pipeline in one job: train, quantize, validate, benchmark, register; an interrupted job resumes.

ray job submit --working-dir . -- python -m ray_jobs.pipeline --config tiny --storage /shared/calogan
"""

import dataclasses
from pathlib import Path
from typing import Any

import click
import ray

from calogan import provenance, steps
from calogan.atomic_files import write_json
from calogan.benchmark.precisions import BenchmarkReport, benchmark
from calogan.benchmark.profiling import network_profiles
from calogan.cli.program import run
from calogan.config import Config, load_config
from calogan.reporting import pictures, plots
from calogan.search import quantization_trials
from calogan.tracking import registry
from calogan.tracking.runs import log_file, pipeline_run, training_key
from calogan.training.loop import TrainingResult
from calogan.validation.report import ValidationReport
from ray_jobs.driver import flat, get, join, say
from ray_jobs.train import train, workers_option
from ray_jobs.tune import search

COMPARED = ("float32", "int8")


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def quantize(config: Config, folder: Path) -> None:
    """Add int8 to the model."""
    steps.quantize_model(config, folder)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def validate(config: Config, folder: Path, precision: str) -> ValidationReport:
    """Validate one precision on the test split."""
    return steps.validate_model(config, folder, precision)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def validate_parametric(config: Config) -> ValidationReport:
    """Validate the parametrised simulation for comparison."""
    return steps.validate_parametric(config)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def measure(config: Config, folder: Path) -> BenchmarkReport:
    """Time the precisions while no other task of this job runs."""
    return benchmark(folder, COMPARED, config.benchmark)


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def profile(folder: Path) -> dict[str, dict[str, float]]:
    """Profile the networks by operation."""
    return network_profiles(folder)


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@click.option("--storage", type=click.Path(path_type=Path), default=Path("storage"), help="Folder all nodes share.")
@workers_option
def main(config_name: str, storage: Path, workers: int) -> None:
    """Run the pipeline on a Ray cluster; MLFLOW_TRACKING_URI names the MLflow server."""
    config = load_config(config_name)
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
        else:
            get(quantize.options(num_cpus=1).remote(config, folder))
        say("validate", f"{' and '.join(COMPARED)} against Geant4, on the test split")
        parametrised = validate_parametric.options(num_cpus=1).remote(config)
        results = ray.get([validate.options(num_cpus=1).remote(config, folder, name) for name in COMPARED])
        reports = dict(zip(COMPARED, results, strict=True))
        shown = {"parametrised": ray.get(parametrised), **reports}
        say("benchmark", f"{' and '.join(COMPARED)}, interleaved on one core")
        timed = ray.get(measure.options(num_cpus=1).remote(config, folder))
        profiles = ray.get(profile.options(num_cpus=1).remote(folder))
        say("register", "models, metrics and figures to MLflow")
        (folder / "figures").mkdir(exist_ok=True)
        figures = plots.save_figures(reports, folder / "figures", reference_name="Geant4")
        page = steps.write_comparison(folder / "report.html", config, folder, shown, speed=_speed(timed))
        log_file(run_id, page)
        chart = folder / "figures" / "operation_times.png"
        pictures.save(pictures.operation_times(profiles), chart)
        log_file(run_id, chart)
        registered = {
            name: registry.log_precision(
                run_id, folder, name, reports[name], performance=timed.metrics(name), figures=figures
            )
            for name in COMPARED
        }
    write_json(folder / "summary.json", _summary(trained, reports, timed, registered))
    say("report", str(folder / "report.html"))
    say("done", str(folder / "summary.json"))


def _speed(timed: BenchmarkReport) -> dict[str, dict[str, float]]:
    """Timing results for the report."""
    return {
        name: {
            "core-ms per shower": timing.ms_per_shower,
            "ratio to float32": timing.speedup,
            "network, MB": timing.size_mb,
        }
        for name, timing in timed.timings.items()
    }


def _summary(
    trained: TrainingResult,
    reports: dict[str, ValidationReport],
    timed: BenchmarkReport,
    registered: dict[str, registry.Registered],
) -> dict[str, Any]:
    return {
        "best_epoch": dataclasses.asdict(trained.best),
        "precisions": {
            name: {
                "physics": {metric: dataclasses.asdict(estimate) for metric, estimate in report.metrics.items()},
                "gates": {gate: result.verdict for gate, result in report.gates.items()},
                "performance": timed.metrics(name),
                **dataclasses.asdict(registered[name]),
            }
            for name, report in reports.items()
        },
        "header": dict(timed.header),
    }


if __name__ == "__main__":
    run(main)
