"""Search for the fastest quantization that keeps the physics, with parallel trials; an interrupted job resumes.

ray job submit --working-dir . -- python -m ray_jobs.tune --config tiny --model /shared/calogan/calogan-lean
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import mlflow
import ray
from ray import tune

from calogan import steps
from calogan.cli.program import run
from calogan.config import Config, Quantization, as_toml, load_config
from calogan.errors import QuantizationError
from calogan.generation import model_folder
from calogan.provenance import header
from calogan.quantization import quantize
from calogan.quantization.operations import slow_integer_note
from calogan.search import quantization_proposals, quantization_trials
from calogan.search.quantization_proposals import Trial
from calogan.search.records import Failure
from calogan.tracking.runs import log_file, log_trial, pipeline_run
from calogan.validation.report import ValidationReport, physics_score
from ray_jobs.attempts import run_all
from ray_jobs.driver import join, say


def trial(
    space: dict[str, int], *, proposed: Sequence[Quantization], config: Config, model: Path, folder: Path, run_id: str
) -> dict[str, float]:
    """Try one configuration unless it has a record: a worker may die between writing the record and reporting it."""
    quantization, records = proposed[space["number"]], quantization_trials.records(folder)
    say("trial", quantization_proposals.describe(quantization))
    attempt = records.read(quantization_trials.label(quantization))
    if attempt is None:
        attempt = quantization_trials.attempt(config, model, quantization)
        failure = attempt.reason if isinstance(attempt, Failure) else ""
        metrics = {} if isinstance(attempt, Failure) else attempt.metrics()
        parameters = {f"quantization.{name}": value for name, value in quantization.model_dump(mode="json").items()}
        log_trial(
            run_id,
            quantization_proposals.describe(quantization),
            {"precision": "int8", **parameters},
            metrics,
            failure=failure,
        )
        records.write(quantization_trials.label(quantization), attempt)
    say("trial", quantization_proposals.summary(attempt))
    return {"seconds": 0.0 if isinstance(attempt, Failure) else attempt.seconds}


def fit(proposed: Sequence[Quantization], parallel: int | None, **common: Any) -> None:
    """Run trials on all cores of the cluster; each gets a record.

    Raises:
        QuantizationError: a trial ended without a record.
    """
    started = time.monotonic()
    arguments = {"proposed": proposed, **common}
    numbers = {"number": tune.grid_search(list(range(len(proposed))))}
    results = run_all(
        trial, common["folder"], parallel=parallel, error=QuantizationError, arguments=arguments, space=numbers
    )
    wall, work = time.monotonic() - started, sum(result["seconds"] for result in results)
    say("tune", f"{len(results)} trials in {wall:.0f} s, {60 * len(results) / wall:.1f} a minute; {work:.0f} s of work")


@ray.remote(num_cpus=1, max_retries=3)  # type: ignore[untyped-decorator]
def adopt(config: Config, model: Path, ranked: Sequence[Trial]) -> tuple[Trial, ValidationReport]:
    """Validate the best trials on a worker."""
    say("judge", f"up to {config.tuning.attempts} of {len(ranked)} trials on the test split")
    return quantization_trials.adopt(config, model, ranked)


def search(config: Config, model: Path, *, parallel: int | None, run_id: str) -> Path:
    """Search for the fastest quantization that keeps the physics, log its trials, and adopt it into the model.

    Args:
        config: the whole configuration.
        model: folder of a trained model, shared by all nodes.
        parallel: largest number of trials at a time; the number of cores if None.
        run_id: the active MLflow run, the parent of the trials.

    Returns:
        The configuration file that repeats the adopted quantization.

    Raises:
        QuantizationError: no quantization succeeded, or a trial ended without a record.
        GateError: no quantization keeps the physics; the model is unchanged.
    """
    operations = quantize.operation_names(model)
    showers = len(steps.read_split(config, "calibration"))
    folder = quantization_trials.records_folder(config, model)
    records = quantization_trials.records(folder)
    while proposed := quantization_proposals.propose(config.quantization, operations, showers, records.read_all()):
        say("tune", f"{len(records.read_all())} trials done, {len(proposed)} to do")
        fit(proposed, parallel, config=config, model=model, folder=folder, run_id=run_id)
    history = records.read_all()
    ranked = quantization_proposals.rank(history, config.tuning.tolerance)
    say("tune", f"{len(ranked)} of {len(history)} trials are within {config.tuning.tolerance:.1%} of float32's score")
    best, report = ray.get(adopt.remote(config, model, ranked))
    mlflow.log_metrics(best.metrics() | {"test/physics_score": physics_score(report)})
    repeats = folder / "quantization.toml"
    repeats.write_text(as_toml(quantization=best.quantization), encoding="utf-8")
    log_file(run_id, repeats)
    say("tune", quantization_proposals.summary(best))
    if note := slow_integer_note(best.header["cpu_isa"], best.speedup):
        say("tune", note)
    return repeats


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Folder of a trained model, shared by all nodes."
)
@click.option("--parallel", type=click.IntRange(1), help="Trials at a time; by default one for each core.")
def main(config_name: str, model: Path, parallel: int | None) -> None:
    """Tune the quantization of a model; its int8 network is replaced by the fastest that passes the gates."""
    config = load_config(config_name)
    model = model_folder.find_writable(model).resolve()
    with quantization_trials.sole_tuning(model):
        key = quantization_trials.records_folder(config, model).name
        join()
        parameters = {"model": str(model), "operations": ", ".join(quantize.operation_names(model))}
        with pipeline_run(f"tune {config_name}", parameters, header=header(), key=key) as run_id:
            repeats = search(config, model, parallel=parallel, run_id=run_id)
    say("done", f"{model}; to repeat it: {repeats}")


if __name__ == "__main__":
    run(main)
