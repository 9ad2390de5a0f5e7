"""Train a generator as a job, by one worker or by several that share every batch.

ray job submit --working-dir . -- python -m ray_jobs.train --config tiny --workers 2 --out /shared/calogan/my-model
"""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

import click
import ray
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.tensorflow import TensorflowTrainer

from calogan import provenance, steps
from calogan.cli.program import run
from calogan.config import Config, load_config
from calogan.errors import CaloganError, TrainingError
from calogan.events import Events
from calogan.tracking.runs import is_logged, log_epoch, log_pictures, pipeline_run, set_tag, training_key
from calogan.training.loop import Epoch, TrainingResult
from calogan.training.workers import meet
from ray_jobs.driver import cores_each, flat, get, join, node_cores, say, say_epoch, threads, workers_for

FAILURES = 3  # deaths of workers that a job survives

workers_option = click.option(
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes that share every batch; 0 for the fewest that use all cores of the cluster, at most one on a node.",
)


def train(
    config: Config, folder: Path, *, workers: int = 1, cpus_per_worker: int = 0, run_id: str = ""
) -> TrainingResult:
    """Train on the cluster and freeze the model; an interrupted training resumes after its last complete epoch.

    Args:
        config: the whole configuration.
        folder: folder of the model, shared by all nodes.
        workers: number of workers that share every batch; 0 for the number from `driver.workers_for`.
        cpus_per_worker: cores of each worker; 0 for as many as fit on the nodes at once.
        run_id: MLflow run of the epochs; empty for none.

    Raises:
        CaloganError: a worker raised it.
        TrainingError: workers died more than `FAILURES` times.
    """
    workers = workers or workers_for(node_cores())
    cpus = cpus_per_worker or cores_each(node_cores(), workers)
    files = steps.data_paths(config)
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    where = f"{cpus} cores" if workers == 1 else f"{workers} workers with {cpus} cores each"
    say("train", f"{config.network.family} on {files[0].name}{more}, {where}")
    if workers > 1:
        _train_together(config, folder, workers=workers, cpus=cpus, run_id=run_id)
    trained: TrainingResult = get(
        _finish.options(num_cpus=cpus, runtime_env={"env_vars": threads(cpus)}).remote(config, folder, run_id)
    )
    if trained.stop_reason:
        say("train", f"stopped early: {trained.stop_reason}")
        if run_id:
            set_tag(run_id, "training.stopped", trained.stop_reason)
    return trained


@ray.remote(max_retries=FAILURES)  # type: ignore[untyped-decorator]
def _finish(config: Config, folder: Path, run_id: str) -> TrainingResult:
    """Train unless the training is finished, and freeze; a restarted worker resumes from the last checkpoint."""
    trained = steps.train_model(config, folder, **_reports(run_id))
    for epoch in trained.history if run_id else ():
        if not is_logged(run_id, epoch.losses, epoch.number):
            _log(run_id, epoch)
    return trained


def _train_together(config: Config, folder: Path, *, workers: int, cpus: int, run_id: str) -> None:
    def work() -> None:
        steps.train_model(config, folder, workers=meet(), **_reports(run_id))

    trainer = TensorflowTrainer(
        work,
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder / "training"),
            failure_config=FailureConfig(max_failures=FAILURES),
            callbacks=[_Verdicts()],
            # Without the second variable, every line would be printed twice.
            worker_runtime_env={"env_vars": threads(cpus) | {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}},
            logging_config=LoggingConfig("CRITICAL"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise cause_of(error) from error


def cause_of(error: TrainingFailedError) -> CaloganError:
    """The error of this package that ended a training, or one that describes the last death of a worker."""
    inner = [error.controller_failure] if isinstance(error, ControllerError) else error.worker_failures.values()
    for cause in inner:
        if isinstance(cause, CaloganError):
            return cause
    last = "; ".join(f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}" for cause in inner)
    return TrainingError(
        f"workers died more than {FAILURES} times, most recently of {last}; submit the job again to resume after the "
        "last complete epoch"
    )


class _Verdicts(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Ends training when a worker raised an error of this package: another attempt would only raise it again."""

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        for error in worker_exceptions.values():
            if isinstance(error, CaloganError):
                raise error


def _reports(run_id: str) -> dict[str, Any]:
    return {"on_epoch": functools.partial(_show, run_id), "on_showers": functools.partial(_draw, run_id)}


def _show(run_id: str, epoch: Epoch) -> None:
    say_epoch(epoch)
    if run_id:
        _log(run_id, epoch)


def _log(run_id: str, epoch: Epoch) -> None:
    log_epoch(run_id, epoch.losses, epoch.score, epoch.number, metrics=epoch.metrics)


def _draw(run_id: str, epoch: Epoch, reference: Events, generated: Events) -> None:
    if run_id:
        log_pictures(run_id, steps.training_pictures(reference, generated), epoch.number)


def _open_run(name: str, config: Config, folder: Path) -> contextlib.AbstractContextManager[str]:
    """Open the MLflow run of the training in this folder, the old one if it resumes; none without a server."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        return contextlib.nullcontext("")
    parameters = flat(config) | {"model": str(folder)}
    return pipeline_run(name, parameters, header=provenance.header(), key=training_key(folder / "training"))


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@workers_option
@click.option(
    "--cpus-per-worker", type=click.IntRange(1), help="Cores of each worker; by default as many as the nodes have."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the model, shared by all nodes.")
def main(config_name: str, workers: int, cpus_per_worker: int | None, out: Path) -> None:
    """Train a generator on a Ray cluster; submit an interrupted job again to resume it."""
    config, folder = load_config(config_name), out.resolve()
    join()
    with _open_run(f"train {config_name}", config, folder) as run_id:
        trained = train(config, folder, workers=workers, cpus_per_worker=cpus_per_worker or 0, run_id=run_id)
    say("done", f"{folder}, physics score {trained.best.score:.3f}")


if __name__ == "__main__":
    run(main)
