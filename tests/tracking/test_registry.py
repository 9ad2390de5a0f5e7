import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pytest
from matplotlib.image import imread
from mlflow.entities import Run

import calogan
from calogan import provenance
from calogan.errors import GateError, ModelError, ServiceError
from calogan.events import Events
from calogan.generation import generator, model_folder
from calogan.reporting.pictures import blank
from calogan.tracking import registry
from calogan.tracking.runs import (
    EXPERIMENT,
    comparison_url,
    is_logged,
    log_epoch,
    log_pictures,
    log_trial,
    pipeline_run,
    set_tag,
)
from calogan.validation.gates import CLASSIFIER_GATE, Gate, judge
from calogan.validation.report import ValidationReport
from calogan.validation.validate import validate

PRECISIONS = ("float32", "int8")
# MLflow's own use of deprecated features of its dependencies.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow")

WIDE = {"physics/composite_mse": Gate(1e6), "physics/auc_high_level": Gate(1e6, best=0.5)}
IMPOSSIBLE = WIDE | {"physics/hits_shift": Gate(1e-12)}
# The code of a model registered by version 0.1.0, with one more line, because its warning passes every filter.
CODE_0_1_0 = """
from typing import Any

import mlflow
import numpy as np


class ShowerModel(mlflow.pyfunc.PythonModel):
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        from calogan import bundle, generator

        folder = bundle.find(context.artifacts["model"])
        precision = next(name for name in reversed(bundle.PRECISIONS) if name in bundle.read(folder).network_files)
        self._generator = generator.load(folder, precision=precision)

    def predict(self, context, model_input, params=None):
        energy = np.asarray(model_input, dtype=np.float32).reshape(-1)
        return self._generator.sample(energy, seed=int((params or {}).get("seed", 0))).showers


mlflow.models.set_model(ShowerModel())
"""
PERFORMANCE = {"perf/ms_per_shower": 1.0, "quant/integer_convolutions": 4.0}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server that is used by default."""
    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{(port := free_port())}"
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    # Job runners of features that are not used here would only slow its start.
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow.set_tracking_uri(url)
        with subprocess.Popen(
            [*command, "--workers", "1", *store], env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process:
            try:
                wait_for(url, process)
                yield url
            finally:
                os.killpg(process.pid, 15)
                mlflow.set_tracking_uri(None)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail("the MLflow server does not answer")


@pytest.fixture(scope="module")
def reports(tiny_model: Path, geant4: Events) -> dict[str, ValidationReport]:
    """Reports that pass: the model is held to limits it cannot miss."""
    energy = geant4.energy[:150]
    showers = {name: generator.load(tiny_model, precision=name).sample(energy, seed=1) for name in PRECISIONS}
    return {
        name: validate(geant4[:150], showers[name], float32=showers["float32"], gates=WIDE, floor=False)
        for name in PRECISIONS
    }


@pytest.fixture(scope="module")
def failing(tiny_model: Path, geant4: Events) -> ValidationReport:
    candidate = generator.load(tiny_model, precision="int8").sample(geant4.energy[:100], seed=2)
    return validate(geant4[:100], candidate, gates=IMPOSSIBLE, floor=False)


@pytest.fixture(scope="module")
def parent(server: str) -> str:
    """A finished parent run with two epochs and a trial."""
    with pipeline_run("pipeline", {"network.width": 16}, header=provenance.header(seed=1)) as run_id:
        log_epoch(run_id, {"loss": 2.0}, None, 0)
        log_epoch(run_id, {"loss": 1.0}, 0.5, 1, metrics={"physics/hits_shift": 0.25, "relative_spread": 1.5})
    log_trial(run_id, "kl", {"algorithm": "kl"}, {"physics/score": 0.25})
    return run_id


@pytest.fixture(scope="module")
def registered(
    parent: str, reports: dict[str, ValidationReport], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, registry.Registered]:
    figure = tmp_path_factory.mktemp("figures") / "cell_energy.png"
    figure.write_bytes(b"a picture")
    return {
        name: registry.log_precision(parent, tiny_model, name, reports[name], performance=PERFORMANCE, figures=[figure])
        for name in PRECISIONS
    }


@pytest.fixture(scope="module")
def runs(registered: dict[str, registry.Registered]) -> dict[str, Run]:
    return {name: mlflow.MlflowClient().get_run(registered[name].run_id) for name in PRECISIONS}


def alias(name: str) -> str:
    return str(mlflow.MlflowClient().get_model_version_by_alias("tiny", name).version)


def test_an_epoch_that_is_not_logged_is_recognised(parent: str) -> None:
    assert is_logged(parent, ["loss"], 0)
    assert is_logged(parent, ["loss"], 1)
    assert not is_logged(parent, ["loss"], 2)
    assert not is_logged(parent, ["loss", "another_loss"], 1)


def test_the_parent_run_holds_parameters_origin_and_epochs(parent: str) -> None:
    run = mlflow.MlflowClient().get_run(parent)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "pipeline"
    assert run.data.params == {"network.width": "16"}
    assert run.data.tags["git_commit"] == provenance.git_commit()
    assert run.data.metrics == {
        "train/loss": 1.0,
        "train/physics_score": 0.5,
        "validation/hits_shift": 0.25,
        "validation/relative_spread": 1.5,
    }
    history = mlflow.MlflowClient().get_metric_history(parent, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.0)]


def test_pictures_and_words_can_be_added_while_a_run_is_open(server: str, tmp_path: Path) -> None:
    with pipeline_run("live", {}, header={}) as run_id:
        for step, colour in ((3, "red"), (4, "blue")):
            figure = blank(2, 1)
            figure.patch.set_facecolor(colour)
            log_pictures(run_id, {"shower": figure}, step)
        set_tag(run_id, "training.stopped", "no better score")
        client = mlflow.MlflowClient()
        assert client.get_run(run_id).info.status == "RUNNING"
        assert client.get_run(run_id).data.tags["training.stopped"] == "no better score"
        paths = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
        # MLflow's page of a run reads name and step from the names of the files.
        by_step = {path.split("+step+")[1].split("+")[0]: path for path in paths}
        assert sorted(by_step) == ["3", "4"]
        assert all(Path(path).name.startswith("train~shower+") for path in paths)
        pixels = imread(client.download_artifacts(run_id, by_step["4"], str(tmp_path)))
        np.testing.assert_allclose(pixels[0, 0, :3], [0, 0, 1], atol=0.01)


def test_a_pipeline_that_fails_is_a_failed_run(server: str) -> None:
    with pytest.raises(GateError), pipeline_run("fails", {}, header={}) as run_id:
        raise GateError("a gate")
    assert mlflow.MlflowClient().get_run(run_id).info.status == "FAILED"


def test_trials_and_precisions_are_children(parent: str, runs: dict[str, Run]) -> None:
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    children = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["attributes.start_time"]
    )
    assert [run.info.run_name for run in children] == ["kl", "tiny float32", "tiny int8"]
    assert {run.info.status for run in children} == {"FINISHED"}
    assert children[0].data.params == {"algorithm": "kl"}
    assert children[0].data.metrics == {"physics/score": 0.25}


def test_a_run_with_a_key_is_resumed(server: str) -> None:
    ids = []
    for key, tolerance in (("a", 0.1), ("a", 0.2), ("b", 0.1), ("", 0.1)):
        with pipeline_run("tune", {"tolerance": tolerance}, header={}, key=key) as run_id:
            ids.append(run_id)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    run = mlflow.MlflowClient().get_run(ids[0])
    assert (run.data.params["tolerance"], run.info.status) == ("0.1", "FINISHED")


def test_a_trial_that_could_not_be_made_is_a_failed_run_that_says_why(server: str) -> None:
    with pipeline_run("tune", {}, header={}) as parent:
        pass
    log_trial(parent, "smooth", {"algorithm": "kl"}, {}, failure="no such operation")
    (child,) = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.`mlflow.parentRunId` = '{parent}'",
        output_format="list",
    )
    assert (child.info.status, child.data.tags["failure"]) == ("FAILED", "no such operation")


def test_both_precisions_have_the_same_metrics(runs: dict[str, Run], reports: dict[str, ValidationReport]) -> None:
    float32, int8 = (runs[name].data.metrics for name in PRECISIONS)
    assert set(float32) == set(int8)
    assert {*PERFORMANCE, *reports["int8"].metrics, "physics/score", "physics/composite_mse_error"} <= set(int8)
    assert int8["physics/composite_mse"] == pytest.approx(reports["int8"].metrics["physics/composite_mse"].value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_precision_is_parameter_and_tag(precision: str, runs: dict[str, Run], tiny_model: Path) -> None:
    run = runs[precision]
    assert run.data.params["precision"] == run.data.tags["precision"] == precision
    described = model_folder.read(tiny_model)
    assert run.data.params["version"] == described.version(precision)
    assert run.data.params.get("weight_bits") == (str(described.weight_bits) if precision == "int8" else None)
    assert run.data.tags["cpu_isa"] == provenance.cpu()["isa"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_figures_and_report_have_the_same_names_for_every_precision(
    precision: str, registered: dict[str, registry.Registered], tmp_path: Path
) -> None:
    client, run_id = mlflow.MlflowClient(), registered[precision].run_id
    assert [file.path for file in client.list_artifacts(run_id, "figures")] == ["figures/cell_energy.png"]
    report = Path(client.download_artifacts(run_id, "validation.json", str(tmp_path)))
    assert set(json.loads(report.read_text())["gates"]) == set(WIDE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_passed_is_latest_and_champion(precision: str, registered: dict[str, registry.Registered]) -> None:
    model = registered[precision]
    version = model.uri.rpartition("/")[2]
    assert model.champion
    assert alias(f"latest-{precision}") == alias(f"champion-{precision}") == version


def test_what_failed_is_latest_but_not_champion(
    parent: str, registered: dict[str, registry.Registered], failing: ValidationReport, tiny_model: Path
) -> None:
    model = registry.log_precision(parent, tiny_model, "int8", failing, performance={}, figures=[])
    assert not model.champion
    assert alias("latest-int8") == model.uri.rpartition("/")[2]
    assert alias("champion-int8") == registered["int8"].uri.rpartition("/")[2]
    assert alias("latest-float32") == registered["float32"].uri.rpartition("/")[2]


def test_promotion_names_the_gate_that_failed(server: str, failing: ValidationReport) -> None:
    with pytest.raises(
        GateError, match=r"not promoted to champion-int8: physics/hits_shift is undecided: .*limit 1e-12"
    ):
        registry.promote("tiny", "1", "int8", failing)


def test_a_gate_that_was_not_measured_promotes_nothing(
    registered: dict[str, registry.Registered], geant4: Events
) -> None:
    """All other gates are passed, but one bin of energies is empty."""
    champion = alias("champion-int8")
    low = geant4[geant4.energy < 100]
    unmeasured = validate(low, low, gates=WIDE | {"physics/resolution_shift_300_500gev": Gate(1e6)}, floor=False)
    assert {result.verdict for result in unmeasured.gates.values()} == {"passed", "not measured"}
    with pytest.raises(
        GateError, match=r"resolution_shift_300_500gev was not measured; .* give more of them, or gates"
    ):
        registry.promote("tiny", registered["float32"].uri.rpartition("/")[2], "int8", unmeasured)
    assert alias("champion-int8") == champion


def test_a_classifier_gate_that_was_not_measured_promotes_nothing(
    server: str, reports: dict[str, ValidationReport]
) -> None:
    gates = {**reports["int8"].gates, CLASSIFIER_GATE: judge(WIDE[CLASSIFIER_GATE], None)}
    skipped = dataclasses.replace(reports["int8"], gates=gates)
    with pytest.raises(GateError, match=f"not promoted to champion-int8: {CLASSIFIER_GATE} was not measured"):
        registry.promote("tiny", "1", "int8", skipped)


def test_a_report_without_gates_promotes_nothing(server: str, reports: dict[str, ValidationReport]) -> None:
    with pytest.raises(GateError, match="the report has no gate"):
        registry.promote("tiny", "1", "int8", dataclasses.replace(reports["int8"], gates={}))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["models:/tiny", "models:/tiny@champion-{}", "{uri}"])
def test_a_model_is_fetched_by_name_alias_and_version(
    form: str, precision: str, registered: dict[str, registry.Registered], tiny_model: Path
) -> None:
    folder = registry.fetch(form.format(precision, uri=registered[precision].uri), precision=precision)
    description = model_folder.read(folder)
    assert list(description.network_files) == [precision]
    assert description.version(precision) == model_folder.read(tiny_model).version(precision)
    model_folder.check_files(folder, description, precision)


@pytest.mark.parametrize(
    "uri", ["models:/", "models:/nobody", "models:/tiny@nobody", "models:/tiny/99", "models:/tiny/a/b"]
)
def test_a_model_that_is_not_there_is_an_error(uri: str, registered: dict[str, registry.Registered]) -> None:
    with pytest.raises(ModelError, match=uri):
        registry.fetch(uri, precision="int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("named", PRECISIONS)
def test_a_version_pins_all_precisions_of_its_model(
    named: str, precision: str, registered: dict[str, registry.Registered]
) -> None:
    assert registry.pin(registered[named].uri, precision) == registered[precision].uri
    assert registry.pin(f"models:/tiny@champion-{named}", precision) == registered[precision].uri


def test_a_version_whose_model_lacks_the_precision_says_so(
    server: str, reports: dict[str, ValidationReport], tiny_model: Path, registered: dict[str, registry.Registered]
) -> None:
    """Versions of other models with this name are no substitute."""
    with pipeline_run("int8 only", {}, header={}) as parent:
        alone = registry.log_precision(parent, tiny_model, "int8", reports["int8"], performance={}, figures=[])
    with pytest.raises(ModelError, match=f"{alone.uri}: holds int8, and no float32 was registered with it"):
        registry.pin(alone.uri, "float32")


def test_versions_say_whether_they_passed_their_gates(
    parent: str, registered: dict[str, registry.Registered], failing: ValidationReport, tiny_model: Path
) -> None:
    failed = registry.log_precision(parent, tiny_model, "int8", failing, performance={}, figures=[])
    client = mlflow.MlflowClient()
    tags = [
        client.get_model_version("tiny", model.uri.rpartition("/")[2]).tags for model in (registered["int8"], failed)
    ]
    assert tags[0][registry.GATES] == registry.PASSED
    assert "physics/hits_shift" in tags[1][registry.GATES]


def test_the_champion_is_known_by_its_content(registered: dict[str, registry.Registered], tiny_model: Path) -> None:
    assert registry.champion("nobody", "int8") is None
    champion = registry.champion("tiny", "float32")
    assert champion == (registered["float32"].uri, model_folder.read(tiny_model).version("float32"))


def test_a_server_that_does_not_come_is_an_error(server: str) -> None:
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    try:
        with pytest.raises(ServiceError, match="is it running"):
            registry.wait_for_server(0)
    finally:
        mlflow.set_tracking_uri(server)
    registry.wait_for_server(0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mlflow_predicts_the_showers_of_the_seed(
    precision: str, registered: dict[str, registry.Registered], tiny_model: Path
) -> None:
    energy = np.array([10, 100, 250], dtype=np.float32)
    loaded = mlflow.pyfunc.load_model(registered[precision].uri)
    predicted = loaded.predict(energy, params={"seed": 7})
    expected = generator.load(tiny_model, precision=precision).sample(energy, seed=7)
    np.testing.assert_array_equal(predicted, expected.showers)


def test_a_model_registered_by_0_1_0_is_loaded_and_fetched(server: str, tiny_model: Path, tmp_path: Path) -> None:
    code = tmp_path / "mlflow_model.py"
    code.write_text(CODE_0_1_0, encoding="utf-8")
    model_folder.copy(tiny_model, tmp_path / "model", precisions=("int8",))
    with pipeline_run("old", {}, header={}):
        model_info = mlflow.pyfunc.log_model(
            name="old",
            python_model=str(code),
            artifacts={"model": str(tmp_path / "model")},
            pip_requirements=["calogan==0.1.0"],
            registered_model_name="old",
        )
    energy = np.array([10, 100, 250], dtype=np.float32)
    expected = generator.load(tiny_model, precision="int8").sample(energy, seed=7).showers
    loaded = mlflow.pyfunc.load_model(model_info.model_uri).unwrap_python_model()
    np.testing.assert_array_equal(loaded.predict(None, energy, {"seed": 7}), expected)
    folder = registry.fetch("models:/old/1", precision="int8")
    np.testing.assert_array_equal(calogan.load_model(folder).sample(energy, seed=7).showers, expected)


def test_registered_code_calls_one_function_that_stays(
    registered: dict[str, registry.Registered], tmp_path: Path
) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(registered["int8"].uri, dst_path=str(tmp_path)))
    (code,) = folder.rglob("shower_model.py")
    names = [line.strip() for line in code.read_text(encoding="utf-8").splitlines() if "calogan" in line]
    assert [name.partition("  #")[0] for name in names] == ["from calogan import load_model"]


def test_nothing_in_the_registry_is_pickled(registered: dict[str, registry.Registered], tmp_path: Path) -> None:
    for model in registered.values():
        folder = Path(mlflow.artifacts.download_artifacts(model.uri, dst_path=str(tmp_path / model.run_id)))
        files = [path for path in folder.rglob("*") if path.is_file()]
        names = {path.name for path in files}
        assert {"shower_model.py", "model.json"} <= names
        assert [name for name in names if name.startswith("cells.")]
        assert [path for path in files if path.suffix in {".pkl", ".pickle", ".joblib"}] == []
        assert [path for path in files if path.read_bytes()[:1] == b"\x80"] == []  # how a pickle begins


def test_the_comparison_opens_and_names_both_runs(server: str, registered: dict[str, registry.Registered]) -> None:
    runs = [model.run_id for model in registered.values()]
    url = comparison_url(runs, tracking_uri=server + "/")
    page = httpx.get(url)
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert url.startswith(f"{server}/#/compare-runs?runs=[%22")
    assert all(run in url for run in runs)


def test_a_comparison_of_unknown_runs_is_an_error(server: str) -> None:
    with pytest.raises(ServiceError, match="not found"):
        comparison_url(["0" * 32], tracking_uri=server)


def test_an_unreachable_server_is_reported_within_seconds(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    nowhere = f"http://127.0.0.1:{free_port()}"
    mlflow.set_tracking_uri(nowhere)
    started = time.monotonic()
    try:
        with pytest.raises(ServiceError, match=nowhere):
            registry.fetch("models:/tiny", precision="int8")
        with pytest.raises(ServiceError, match=nowhere), pipeline_run("p", {}, header={}):
            pass
    finally:
        mlflow.set_tracking_uri(server)
    assert time.monotonic() - started < 45
