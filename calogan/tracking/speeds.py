"""MLflow: the benchmark of a machine, a run with a child for each contender, under the same names of metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow

from calogan import provenance
from calogan.tracking.runs import EXPERIMENT, pipeline_run, reachable


def log_speed(
    model: str,
    metrics: Mapping[str, Mapping[str, float]],
    table: Mapping[str, Sequence[str]],
    *,
    header: Mapping[str, str],
    files: Sequence[Path] = (),
    figures: Sequence[Path] = (),
) -> str:
    """Log a benchmark; returns the id of the parent run.

    Args:
        model: registered name of the model.
        metrics: numbers of each contender, by its name and by that of the metric.
        table: columns of equal length by title, shown by MLflow as `speed.json`.
        header: provenance and machine.
        files: such as the whole result.
        figures: pictures.

    Raises:
        ServiceError: MLflow does not answer.
    """
    parameters = {"model": model, "contenders": ", ".join(metrics)}
    with pipeline_run(f"benchmark {model}", parameters, header=header) as parent, reachable():
        mlflow.log_table(dict(table), "speed.json")
        for path in files:
            mlflow.log_artifact(str(path))
        for figure in figures:
            mlflow.log_artifact(str(figure), "figures")
        for name, values in metrics.items():
            tags = {"contender": name, "mlflow.parentRunId": parent} | provenance.header()
            mlflow.set_experiment(EXPERIMENT)
            with mlflow.start_run(run_name=name, nested=True, parent_run_id=parent, tags=tags):
                mlflow.log_param("contender", name)
                mlflow.log_metrics(dict(values))
        return parent
