from pathlib import Path

import pytest
from mlflow import MlflowClient

from calogan.errors import GateError
from calogan.events import Events
from calogan.generation.model_folder import ModelDescription
from calogan.tracking.candidates import candidate_run
from calogan.tracking.runs import pipeline_run
from calogan.validation.gates import Gate
from calogan.validation.report import ValidationReport
from calogan.validation.validate import validate

# MLflow's own use of deprecated features of its dependencies.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow")
PERFORMANCE = {"model/size_mb": 2.5, "perf/showers_per_s": 100.0}
DESCRIPTION = ModelDescription(
    name="some",
    family="lean",
    latent_size=1,
    cell_noise=False,
    energy_range=(2.0, 500.0),
    network_files={"int8": "network.int8.pb"},
    weight_bits=8,
    quantization={"calibration_showers": 3},
    header={},
    sha256={"prepare.pb": "0" * 64, "network.int8.pb": "1" * 64},
)


def report(geant4: Events, gates: dict[str, Gate]) -> ValidationReport:
    return validate(geant4[:60], geant4[60:120], gates=gates, floor=False)


def test_a_runtime_has_the_metrics_of_a_precision_but_no_version(
    mlflow_client: MlflowClient, geant4: Events, tmp_path: Path
) -> None:
    judged = report(geant4, {"physics/hits_shift": Gate(1e6)})
    figure = tmp_path / "shapes.png"
    figure.write_bytes(b"a picture")
    runs = {}
    with pipeline_run("compare", {}, header={}) as parent:
        for name in ("int8", "tflite-int8"):
            with candidate_run(parent, DESCRIPTION, name, judged, performance=PERFORMANCE, figures=[figure]) as run_id:
                assert mlflow_client.get_run(run_id).info.status == "RUNNING"
            runs[name] = mlflow_client.get_run(run_id)
    own, runtime = runs.values()
    assert own.data.metrics == runtime.data.metrics
    assert own.data.metrics["model/size_mb"] == 2.5
    assert own.data.metrics["physics/hits_shift"] == pytest.approx(judged.metrics["physics/hits_shift"].value)
    shared = {"model": "some", "family": "lean"}
    version = {"version": DESCRIPTION.version("int8"), "weight_bits": "8", "quantization.calibration_showers": "3"}
    assert own.data.params == shared | version | {"precision": "int8"}
    assert runtime.data.params == shared | {"precision": "tflite-int8"}
    for name, run in runs.items():
        assert (run.info.run_name, run.info.status) == (f"some {name}", "FINISHED")
        assert (run.data.tags["precision"], run.data.tags["mlflow.parentRunId"]) == (name, parent)
        files = {
            file.path for where in ("", "figures") for file in mlflow_client.list_artifacts(run.info.run_id, where)
        }
        assert files == {"validation.json", "spreads.json", "figures", "figures/shapes.png"}


def test_a_report_without_a_score_is_not_logged(mlflow_client: MlflowClient, geant4: Events) -> None:
    judged = report(geant4, {"physics/pixelwise_mean": Gate(1.0)})
    with pipeline_run("compare", {}, header={}) as parent:
        run = candidate_run(parent, DESCRIPTION, "int8", judged, performance={})
        with pytest.raises(GateError, match="no gate of this report was measured"), run:
            pass
