"""MLflow: log the results of a pipeline; register, promote and fetch models."""

import logging
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from calogan import __version__
from calogan.errors import GateError, ModelError, ServiceError
from calogan.generation import model_folder
from calogan.tracking.candidates import candidate_run
from calogan.tracking.runs import reachable
from calogan.validation.report import ValidationReport, require_proof

_MODEL = "model"  # name of the artifact with the folder of a model
_PIPELINE = "pipeline"  # tag of a version: the parent run, which its other precisions share
CONTENT = "content"  # tag of a version: `ModelDescription.version`
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
GATES, PASSED = "gates", "passed"  # tag of a version: whether it passed all gates, or why it did not
_LONGEST_TAG = 4000
_RETRY_S = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """A model of one precision in the registry.

    Attributes:
        uri: `models:/NAME/VERSION`.
        run_id: run with its metrics and figures.
        champion: whether it passed its gates and is now the champion of its precision.
    """

    uri: str
    run_id: str
    champion: bool


def log_precision(
    parent: str,
    folder: Path,
    precision: str,
    report: ValidationReport,
    *,
    performance: Mapping[str, float],
    figures: Sequence[Path],
) -> Registered:
    """Log one precision of a model as a child run, register it, and promote it if it passed all gates.

    Args:
        parent: id of the parent run.
        folder: the model.
        precision: the precision to log.
        report: its validation against Geant4.
        performance: metrics of the benchmark.
        figures: pictures, logged under their file names.

    Raises:
        GateError: no gate of the report was measured, so there is no score.
        ServiceError: MLflow does not answer.
    """
    description = model_folder.read(folder)
    with reachable(), tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        run = candidate_run(parent, description, precision, report, performance=performance, figures=figures)
        with run as run_id:
            model_folder.copy(folder, Path(scratch) / _MODEL, precisions=(precision,))
            model_info = _log_model(description.name, Path(scratch) / _MODEL)
        client = mlflow.MlflowClient()
        tags = {"precision": precision, _PIPELINE: parent, CONTENT: description.version(precision)}
        version = _register(client, description.name, model_info, tags)
        client.set_registered_model_alias(description.name, f"latest-{precision}", version.version)
        uri = f"{model_folder.REGISTRY}{description.name}/{version.version}"
        try:
            promote(description.name, version.version, precision, report)
        except GateError as error:
            _log.warning("%s", error)
            client.set_model_version_tag(description.name, version.version, GATES, str(error)[:_LONGEST_TAG])
            return Registered(uri, run_id, champion=False)
        client.set_model_version_tag(description.name, version.version, GATES, PASSED)
        return Registered(uri, run_id, champion=True)


def promote(name: str, version: str, precision: str, report: ValidationReport) -> None:
    """Make a version the champion of its precision, which is served by default.

    A champion must have passed every gate: undecided and unmeasured gates count as failed.

    Raises:
        GateError: the version did not pass every gate of its report; the champion does not change.
    """
    try:
        require_proof(report)
    except GateError as error:
        raise GateError(f"version {version} of {name} is not promoted to champion-{precision}: {error}") from error
    with reachable():
        mlflow.MlflowClient().set_registered_model_alias(name, f"champion-{precision}", version)


def wait_for_server(seconds: float) -> None:
    """Return as soon as MLflow answers.

    Raises:
        ServiceError: it has not answered within these seconds.
    """
    end = time.monotonic() + seconds
    answered = False
    while not answered:
        try:
            with reachable():
                mlflow.MlflowClient().search_registered_models(max_results=1)
        except ServiceError:
            if time.monotonic() >= end:
                raise
            time.sleep(_RETRY_S)
        else:
            answered = True


def champion(name: str, precision: str) -> tuple[str, str] | None:
    """Return the champion of a precision as `models:/NAME/VERSION` and its `ModelDescription.version`, if there is one.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with reachable():
        try:
            version = mlflow.MlflowClient().get_model_version_by_alias(name, f"champion-{precision}")
        except MlflowException as error:
            if error.error_code in _MISSING:
                return None
            raise
    return f"{model_folder.REGISTRY}{name}/{version.version}", version.tags.get(CONTENT, "")


def version_tags(uri: str) -> dict[str, str]:
    """Return the tags of a version, such as `GATES`.

    Args:
        uri: `models:/NAME/VERSION`.

    Raises:
        ServiceError: MLflow does not answer.
    """
    name, _, number = uri.removeprefix(model_folder.REGISTRY).partition("/")
    with reachable():
        return dict(mlflow.MlflowClient().get_model_version(name, number).tags)


def pin(uri: str, precision: str) -> str:
    """Return the URI of the one version that a name stands for, in a precision.

    A version holds one precision. Those of the same model have the same parent run, so that each of them
    names all of them: `models:/NAME/3` in float32 is the float32 version that was registered with version 3.

    Args:
        uri: `models:/NAME` for the champion of the precision, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        precision: the precision.

    Raises:
        ModelError: there is no such model, alias or version, or none of this precision.
        ServiceError: MLflow does not answer.
    """
    path = uri.removeprefix(model_folder.REGISTRY)
    name, _, number = path.partition("/")
    name, _, alias = name.partition("@")
    if not name:
        raise ModelError(
            f"{uri}: names no model; give {model_folder.REGISTRY}NAME or {model_folder.REGISTRY}NAME@ALIAS"
        )
    if not number and not alias:
        alias = f"champion-{precision}"
    client = mlflow.MlflowClient()
    with reachable():
        try:
            version = (
                client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
            )
            if version.tags.get("precision", precision) != precision:
                version = _sibling(client, version, precision)
        except MlflowException as error:
            if error.error_code in _MISSING:
                place = f"{model_folder.REGISTRY}{name}" + (f"@{alias}" if alias else f"/{number}")
                raise ModelError(
                    f"{place}: is not in the registry at {mlflow.get_tracking_uri()} ({error.message})"
                ) from error
            raise
    return f"{model_folder.REGISTRY}{name}/{version.version}"


def _sibling(client: mlflow.MlflowClient, version: Any, precision: str) -> Any:
    """The version with another precision of the same model: the nearest, if it was registered again."""
    parent = version.tags.get(_PIPELINE)
    versions = client.search_model_versions(f"name = '{version.name}' AND tags.`{_PIPELINE}` = '{parent}'")
    fitting = [other for other in versions if other.tags.get("precision") == precision]
    if not parent or not fitting:
        raise ModelError(
            f"{model_folder.REGISTRY}{version.name}/{version.version}: holds {version.tags['precision']}, and no "
            f"{precision} was registered with it; name a version of that precision, or register the model again"
        )
    return min(fitting, key=lambda other: abs(int(other.version) - int(version.version)))


def fetch(uri: str, *, precision: str) -> Path:
    """Download a model from the registry without executing any of it.

    Args:
        uri: see `pin`.
        precision: the precision to fetch.

    Returns:
        The folder of the model.

    Raises:
        ModelError: there is no such model, alias or version.
        ServiceError: MLflow does not answer.
    """
    full = pin(uri, precision)
    with reachable():
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=full))
    descriptions = sorted(folder.glob(f"**/{model_folder.DESCRIPTION}"))
    if not descriptions:
        raise ModelError(f"{full}: is not a model of this package (it holds no {model_folder.DESCRIPTION})")
    return descriptions[0].parent


def _register(client: mlflow.MlflowClient, name: str, model_info: Any, tags: dict[str, str]) -> Any:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(name, source=model_info.model_uri, tags=tags, model_id=model_info.model_id)


def _log_model(name: str, folder: Path) -> Any:
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1,))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 25, 25, 25))]),
        params=ParamSchema([ParamSpec("seed", "long", 0)]),
    )
    with warnings.catch_warnings():
        # MLflow warns that it cannot infer a signature from type hints or an example, but the signature is given here.
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("shower_model.py")),
            artifacts={_MODEL: str(folder)},
            signature=signature,
            pip_requirements=[f"calogan=={__version__}"],
        )
