"""MLflow: log the results of a pipeline; register, promote and fetch models."""

import logging
import tempfile
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
from calogan.errors import GateError, ModelError
from calogan.generation import model_folder
from calogan.tracking.candidates import candidate_run
from calogan.tracking.runs import reachable
from calogan.validation.report import ValidationReport, require_proof

_MODEL = "model"  # name of the artifact with the folder of a model
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
        version = _register(client, description.name, model_info, {"precision": precision})
        client.set_registered_model_alias(description.name, f"latest-{precision}", version.version)
        uri = f"{model_folder.REGISTRY}{description.name}/{version.version}"
        try:
            promote(description.name, version.version, precision, report)
        except GateError as error:
            _log.warning("%s", error)
            return Registered(uri, run_id, champion=False)
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


def fetch(uri: str, *, precision: str) -> Path:
    """Download a model from the registry without executing any of it.

    Args:
        uri: `models:/NAME` for the champion of the precision, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        precision: the precision to fetch.

    Returns:
        The folder of the model.

    Raises:
        ModelError: there is no such model, alias or version.
        ServiceError: MLflow does not answer.
    """
    path = uri.removeprefix(model_folder.REGISTRY)
    if not path:
        raise ModelError(
            f"{uri}: names no model; give {model_folder.REGISTRY}NAME or {model_folder.REGISTRY}NAME@ALIAS"
        )
    full = uri if "@" in path or "/" in path else f"{uri}@champion-{precision}"
    with reachable():
        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=full))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise ModelError(
                    f"{full}: is not in the registry at {mlflow.get_tracking_uri()} ({error.message})"
                ) from error
            raise
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
