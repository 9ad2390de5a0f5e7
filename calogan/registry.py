"""MLflow: log what a pipeline found, register its models, promote those that passed their gates, fetch them."""

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from matplotlib import image
from matplotlib.figure import Figure
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from calogan import __version__, bundle, provenance
from calogan.errors import GateError, ModelError, ServiceError
from calogan.validation import ValidationReport, failed_gates, physics_score, write_report

EXPERIMENT = "calogan"
URI_PREFIX = "models:/"
_KEY = "calogan.key"  # tag of a run that can be gone on with
_LONGEST_TAG = 5000
_MODEL = "model"  # name of the artifact that holds the folder of a model
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """A model of one precision in the registry.

    Attributes:
        uri: `models:/NAME/VERSION`.
        run_id: the run that holds its metrics and figures.
        champion: whether it passed its gates and is now the champion of its precision.
    """

    uri: str
    run_id: str
    champion: bool


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
    with _reachable():
        mlflow.set_experiment(EXPERIMENT)
        earlier = _run_of(key) if key else None
        tags = dict(header) | ({_KEY: key} if key else {})
        with mlflow.start_run(run_id=earlier, run_name=name, tags=tags) as run:
            if earlier is None:
                mlflow.log_params(dict(parameters))
            yield run.info.run_id


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
    with _reachable():
        logged = [Metric(name, value, now, step) for name, value in values.items()]
        mlflow.MlflowClient().log_batch(run_id, metrics=logged)


def log_pictures(run_id: str, pictures: Mapping[str, Figure], step: int) -> None:
    """Add pictures of one epoch to a run; MLflow shows those of one name along the steps.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with _reachable():
        client = mlflow.MlflowClient()
        for name, figure in pictures.items():
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png")
            drawn.seek(0)
            client.log_image(run_id, image.imread(drawn), key=f"train/{name}", step=step, synchronous=True)


def set_tag(run_id: str, name: str, value: str) -> None:
    """Say something about a run that is no number.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with _reachable():
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
    with _reachable():
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
    with _reachable():
        mlflow.MlflowClient().log_artifact(run_id, str(path))


def log_precision(
    parent: str,
    folder: Path,
    precision: str,
    report: ValidationReport,
    *,
    performance: Mapping[str, float],
    figures: Sequence[Path],
) -> Registered:
    """Log one precision of a model as a child run, register it, and promote it if its report passed.

    The names of metrics and figures are the same for every precision, so that MLflow compares them; the
    precision is a parameter and a tag.

    Args:
        parent: id of the parent run.
        folder: the model.
        precision: which of its precisions.
        report: its validation against Geant4.
        performance: metrics of the benchmark.
        figures: pictures, logged under their file names.

    Raises:
        GateError: no gate of the report was measured.
        ServiceError: MLflow does not answer.
    """
    description = bundle.read(folder)
    with _reachable(), tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        run = _start_child(parent, description.name, precision)
        with run:
            mlflow.log_params(_parameters(description, precision))
            mlflow.log_metrics(_physics(report) | dict(performance))
            mlflow.log_artifact(str(write_report(Path(scratch) / "validation.json", report)))
            for figure in figures:
                mlflow.log_artifact(str(figure), "figures")
            bundle.copy(folder, Path(scratch) / _MODEL, precisions=(precision,))
            logged = _log_model(description.name, Path(scratch) / _MODEL)
            run_id = run.info.run_id
        client = mlflow.MlflowClient()
        version = _register(client, description.name, logged, {"precision": precision})
        client.set_registered_model_alias(description.name, f"latest-{precision}", version.version)
        uri = f"{URI_PREFIX}{description.name}/{version.version}"
        try:
            promote(description.name, version.version, precision, report)
        except GateError as error:
            _log.warning("%s", error)
            return Registered(uri, run_id, champion=False)
        return Registered(uri, run_id, champion=True)


def promote(name: str, version: str, precision: str, report: ValidationReport) -> None:
    """Make a version the champion of its precision, the one that is served.

    Raises:
        GateError: its report did not pass; the champion stays what it was.
    """
    failed = failed_gates(report)  # those left undecided count: a champion is proved, not merely not refuted
    if failed or all(result.verdict == "not measured" for result in report.gates.values()):
        listed = "; ".join(f"{gate}: {result.explanation}" for gate, result in failed.items()) or "no gate was measured"
        raise GateError(f"version {version} of {name} is not promoted to champion-{precision}: {listed}")
    with _reachable():
        mlflow.MlflowClient().set_registered_model_alias(name, f"champion-{precision}", version)


def fetch(uri: str, *, precision: str) -> Path:
    """Download a model of the registry; nothing of it is executed.

    Args:
        uri: `models:/NAME` for the champion of the precision, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        precision: which precision is wanted.

    Returns:
        the folder of the model.

    Raises:
        ModelError: there is no such model, alias or version.
        ServiceError: MLflow does not answer.
    """
    path = uri.removeprefix(URI_PREFIX)
    if not path:
        raise ModelError(f"{uri}: names no model; give models:/NAME or models:/NAME@ALIAS")
    full = uri if "@" in path or "/" in path else f"{uri}@champion-{precision}"
    with _reachable():
        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=full))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise ModelError(
                    f"{full}: is not in the registry at {mlflow.get_tracking_uri()} ({error.message})"
                ) from error
            raise
    found = sorted(folder.glob(f"**/{bundle.DESCRIPTION}"))
    if not found:
        raise ModelError(f"{full}: is not a model of this package (it holds no {bundle.DESCRIPTION})")
    return found[0].parent


def comparison_url(run_ids: list[str], *, tracking_uri: str) -> str:
    """Address of the page of MLflow that lays runs side by side.

    Raises:
        ServiceError: MLflow does not answer, or does not have the runs.
    """
    with _reachable():
        experiment = mlflow.MlflowClient(tracking_uri).get_run(run_ids[0]).info.experiment_id
    runs = "[" + ",".join(f'"{run}"' for run in run_ids) + "]"
    query = f'runs={runs}&experiments=["{experiment}"]'.replace('"', "%22")
    return f"{tracking_uri.rstrip('/')}/#/compare-runs?{query}"


def _run_of(key: str) -> str | None:
    """Id of the latest run with a key."""
    found = mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.`{_KEY}` = '{key}'", max_results=1, output_format="list"
    )
    return found[0].info.run_id if found else None


def _start_child(parent: str, name: str, precision: str) -> Any:
    tags = {"precision": precision, "mlflow.parentRunId": parent} | provenance.header()
    mlflow.set_experiment(EXPERIMENT)
    return mlflow.start_run(run_name=f"{name} {precision}", nested=True, parent_run_id=parent, tags=tags)


def _parameters(description: bundle.Bundle, precision: str) -> dict[str, Any]:
    fields = {"precision": precision, "family": description.family, "version": description.version(precision)}
    return fields | {f"quantization.{name}": value for name, value in description.quantization.items()}


def _physics(report: ValidationReport) -> dict[str, float]:
    finite = {name: found.value for name, found in report.metrics.items() if np.isfinite(found.value)}
    errors = {f"{name}_error": found.error for name, found in report.metrics.items() if np.isfinite(found.error)}
    return finite | errors | {"physics/score": physics_score(report)}


def _register(client: mlflow.MlflowClient, name: str, logged: Any, tags: dict[str, str]) -> Any:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(name, source=logged.model_uri, tags=tags, model_id=logged.model_id)


def _log_model(name: str, folder: Path) -> Any:
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1,))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 25, 25, 25))]),
        params=ParamSchema([ParamSpec("seed", "long", 0)]),
    )
    with warnings.catch_warnings():
        # It asks for type hints or an example to guess the signature from, which is given; its own do not please it.
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(resources.files("calogan") / "mlflow_model.py"),
            artifacts={_MODEL: str(folder)},
            signature=signature,
            pip_requirements=[f"calogan=={__version__}"],
        )


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
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
