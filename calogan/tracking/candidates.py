"""MLflow: one run for each precision of a model, and for each other runtime of its network, under a common parent.

The names of parameters, metrics and figures are the same in all of these runs, so that MLflow lays them side by side;
which of them a run is, is the parameter and the tag `precision`.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from calogan import provenance
from calogan.generation.model_folder import ModelDescription
from calogan.tracking.runs import EXPERIMENT, reachable
from calogan.validation import spreads
from calogan.validation.report import ValidationReport, physics_score, write_report


@contextlib.contextmanager
def candidate_run(
    parent: str,
    description: ModelDescription,
    precision: str,
    report: ValidationReport,
    *,
    performance: Mapping[str, float],
    figures: Sequence[Path] = (),
) -> Iterator[str]:
    """Log a candidate and keep its run open for further artifacts; yields the id of the run.

    Args:
        parent: id of the parent run.
        description: the model.
        precision: a precision of the model, or another runtime of its network.
        report: validation of the candidate against Geant4.
        performance: metrics of the benchmark, among them the size of the network and the showers per second.
        figures: pictures, logged under their file names.

    Raises:
        GateError: no gate of the report was measured, so there is no score.
        ServiceError: MLflow does not answer.
    """
    tags = {"precision": precision, "mlflow.parentRunId": parent} | provenance.header()
    name = f"{description.name} {precision}"
    with reachable(), tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=name, nested=True, parent_run_id=parent, tags=tags) as run:
            mlflow.log_params(_parameters(description, precision))
            mlflow.log_metrics(_physics(report) | dict(performance))
            mlflow.log_artifact(str(write_report(Path(scratch) / "validation.json", report)))
            if table := spreads.as_columns(report.metrics):
                mlflow.log_table(table, "spreads.json")
            for figure in figures:
                mlflow.log_artifact(str(figure), "figures")
            yield run.info.run_id


def _parameters(description: ModelDescription, precision: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"precision": precision, "model": description.name, "family": description.family}
    if precision not in description.network_files:  # converted from the weights, and not a part of the model
        return fields
    fields["version"] = description.version(precision)
    if precision == "int8" and description.weight_bits:
        fields["weight_bits"] = description.weight_bits
    return fields | {f"quantization.{name}": value for name, value in description.quantization.items()}


def _physics(report: ValidationReport) -> dict[str, float]:
    finite = {name: estimate.value for name, estimate in report.metrics.items() if np.isfinite(estimate.value)}
    errors = {
        f"{name}_error": estimate.error for name, estimate in report.metrics.items() if np.isfinite(estimate.error)
    }
    return finite | errors | {"physics/score": physics_score(report)}
