"""MLflow runs: open them and log parameters, epochs, trials, pictures and files to them."""

import contextlib
import io
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from matplotlib import image
from matplotlib.figure import Figure
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from calogan import provenance
from calogan.atomic_files import write_text
from calogan.errors import ServiceError

EXPERIMENT = "calogan"


_KEY = "calogan.key"  # tag of a run that can be resumed


_LONGEST_TAG = 5000


@contextlib.contextmanager
def pipeline_run(
    name: str, parameters: Mapping[str, Any], *, header: Mapping[str, str], key: str = ""
) -> Iterator[str]:
    """Open the parent run of a pipeline; yields its id.

    Args:
        name: name of the run.
        parameters: parameters of the run.
        header: provenance, logged as tags.
        key: identity of the run; the latest run with the same key is resumed, if there is one.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        mlflow.set_experiment(EXPERIMENT)
        earlier = _run_of(key) if key else None
        tags = dict(header) | ({_KEY: key} if key else {})
        with mlflow.start_run(run_id=earlier, run_name=name, tags=tags) as run:
            if earlier is None:
                mlflow.log_params(dict(parameters))
            yield run.info.run_id


def training_key(folder: Path) -> str:
    """Return the key of a training's run, stored with its checkpoints, so that both resume together.

    Args:
        folder: folder of the training; created if missing.
    """
    path = folder / "mlflow_key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


def log_epoch(
    run_id: str,
    losses: Mapping[str, float],
    score: float | None,
    step: int,
    *,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Log one epoch of training to the parent run: `train/<loss>`, and for a scored epoch `validation/<metric>`."""
    values = {f"train/{name}": value for name, value in losses.items()}
    values |= {f"validation/{name.removeprefix('physics/')}": value for name, value in (metrics or {}).items()}
    if score is not None:
        values["train/physics_score"] = score
    now = int(1000 * time.time())
    with reachable():
        points = [Metric(name, value, now, step) for name, value in values.items()]
        mlflow.MlflowClient().log_batch(run_id, metrics=points)


def is_logged(run_id: str, losses: Iterable[str], step: int) -> bool:
    """Whether the losses of an epoch are in the run; a job that is killed may have recorded an epoch without logging it.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        histories = [mlflow.MlflowClient().get_metric_history(run_id, f"train/{name}") for name in losses]
    return all(step in {point.step for point in history} for history in histories)


def log_pictures(run_id: str, pictures: Mapping[str, Figure], step: int) -> None:
    """Log pictures of one epoch to a run; MLflow shows pictures of the same name as a series of steps.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        client = mlflow.MlflowClient()
        for name, figure in pictures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            buffer.seek(0)
            client.log_image(run_id, image.imread(buffer), key=f"train/{name}", step=step, synchronous=True)


def set_tag(run_id: str, name: str, value: str) -> None:
    """Set a tag of a run.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        mlflow.MlflowClient().set_tag(run_id, name, value)


def log_trial(
    run_id: str, name: str, parameters: Mapping[str, Any], metrics: Mapping[str, float], *, failure: str = ""
) -> None:
    """Log a trial as a child of the run; called on a worker, which has no active run.

    Args:
        run_id: the parent run.
        name: the trial in one line.
        parameters: the trial field by field.
        metrics: its results; those that `log_precision` logs too have the same names.
        failure: reason of the failure; the run is then marked as failed.
    """
    with reachable():
        mlflow.set_experiment(EXPERIMENT)
        tags = {"mlflow.parentRunId": run_id, "precision": "int8"} | provenance.header()
        if failure:
            tags["failure"] = failure[:_LONGEST_TAG]
        with mlflow.start_run(run_name=name, parent_run_id=run_id, nested=True, tags=tags):
            mlflow.log_params(dict(parameters))
            mlflow.log_metrics(dict(metrics))
            if failure:
                mlflow.end_run("FAILED")


def log_file(run_id: str, path: Path) -> None:
    """Log a file, such as a report, to a run.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        mlflow.MlflowClient().log_artifact(run_id, str(path))


def comparison_url(run_ids: list[str], *, tracking_uri: str) -> str:
    """URL of MLflow's comparison of runs.

    Raises:
        ServiceError: MLflow does not answer, or a run does not exist.
    """
    with reachable():
        experiment = mlflow.MlflowClient(tracking_uri).get_run(run_ids[0]).info.experiment_id
    runs = "[" + ",".join(f'"{run}"' for run in run_ids) + "]"
    query = f'runs={runs}&experiments=["{experiment}"]'.replace('"', "%22")
    return f"{tracking_uri.rstrip('/')}/#/compare-runs?{query}"


def _run_of(key: str) -> str | None:
    """Id of the latest run with a key."""
    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.`{_KEY}` = '{key}'", max_results=1, output_format="list"
    )
    return runs[0].info.run_id if runs else None


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Translate MLflow's exceptions into `ServiceError`."""
    # Give up on an unreachable server within seconds instead of MLflow's default of minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        yield
    except MlflowException as error:
        raise ServiceError(
            f"MLflow at {mlflow.get_tracking_uri()} failed ({error.message}); "
            "is it running, and is MLFLOW_TRACKING_URI its address?"
        ) from error
