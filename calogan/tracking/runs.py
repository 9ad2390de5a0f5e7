"""MLflow runs: open them and log parameters, epochs, trials, pictures and files to them."""

import contextlib
import io
import os
import secrets
import time
from collections.abc import Iterator, Mapping
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


_KEY = "calogan.key"  # tag of a run that can be gone on with


_LONGEST_TAG = 5000


@contextlib.contextmanager
def pipeline_run(
    name: str, parameters: Mapping[str, Any], *, header: Mapping[str, str], key: str = ""
) -> Iterator[str]:
    """Open the parent run of a pipeline; yields its id.

    Args:
        name: name of the run.
        parameters: logged with it.
        header: provenance, as tags.
        key: what the run is about; the latest run with the same key is gone on with, if there is one.

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
    """Return the key of the run that a training is logged to, kept with its checkpoints: it resumes with them.

    Args:
        folder: of the training, made if it is missing.
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
    """Add one epoch of training to the parent run: `train/<loss>`, and of a scored one `validation/<metric>`."""
    values = {f"train/{name}": value for name, value in losses.items()}
    values |= {f"validation/{name.removeprefix('physics/')}": value for name, value in (metrics or {}).items()}
    if score is not None:
        values["train/physics_score"] = score
    now = int(1000 * time.time())
    with reachable():
        points = [Metric(name, value, now, step) for name, value in values.items()]
        mlflow.MlflowClient().log_batch(run_id, metrics=points)


def log_pictures(run_id: str, pictures: Mapping[str, Figure], step: int) -> None:
    """Add pictures of one epoch to a run; MLflow shows those of one name along the steps.

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
    """Say something about a run that is no number.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        mlflow.MlflowClient().set_tag(run_id, name, value)


def log_trial(
    run_id: str, name: str, parameters: Mapping[str, Any], metrics: Mapping[str, float], *, failure: str = ""
) -> None:
    """Add a trial as a child of the run; called on a worker, which has no active run.

    Args:
        run_id: the parent.
        name: what was tried, in a line.
        parameters: the same field by field.
        metrics: what was measured, under the names that `log_precision` uses where they are the same.
        failure: why it could not be made; its run is then marked as failed.
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
    """Add a file, such as the page of a comparison, to a run.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        mlflow.MlflowClient().log_artifact(run_id, str(path))


def comparison_url(run_ids: list[str], *, tracking_uri: str) -> str:
    """Address of the page of MLflow that lays runs side by side.

    Raises:
        ServiceError: MLflow does not answer, or does not have the runs.
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
    """Turn what MLflow raises into a `ServiceError`; inside, a server that is down is noticed within seconds."""
    # A server that is not there shall be noticed within seconds, not after MLflow's default of minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        yield
    except MlflowException as error:
        raise ServiceError(
            f"MLflow at {mlflow.get_tracking_uri()} does not do what was asked ({error.message}); "
            "is it running, and is MLFLOW_TRACKING_URI its address?"
        ) from error
