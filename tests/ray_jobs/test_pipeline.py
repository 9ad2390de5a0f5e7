"""The jobs as they are used: submitted to a real Ray cluster, with a real MLflow server beside it."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import psutil
import pytest

from calogan import provenance
from calogan.config import Quantization, as_toml, load_config
from calogan.events import packaged_sample, read_events, write_events
from calogan.generation import model_folder
from calogan.search import quantization_trials
from calogan.search.quantization_proposals import rank
from calogan.tracking.runs import EXPERIMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MARK = "CALOGAN_TEST_CLUSTER"
CANDIDATES = ("float32", "int8", "tflite-int8")
COMMIT = "0123456789ab"  # a job runs in a copy of the files, without their history


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of two cores and an MLflow server, on this machine."""

    dashboard: str
    mlflow: str
    environment: dict[str, str]
    folder: Path
    config: Path

    def submit(self, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a job to its end."""
        job = ["python", "-m", f"ray_jobs.{module}", *map(str, arguments)]
        command = [
            str(BIN / "ray"),
            "job",
            "submit",
            "--address",
            self.dashboard,
            "--working-dir",
            str(ROOT),
            "--",
            *job,
        ]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask MLflow."""
        answer = httpx.post(f"{self.mlflow}/api/2.0/mlflow/{path}", json=body).raise_for_status().json()
        assert isinstance(answer, dict)
        return answer

    def runs(self) -> list[dict[str, Any]]:
        """All runs of MLflow, the newest first."""
        experiment = httpx.get(
            f"{self.mlflow}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "calogan"}
        ).json()["experiment"]["experiment_id"]
        return list(self.post("runs/search", {"experiment_ids": [experiment]})["runs"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(answers: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if answers():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail("a server does not answer")


@pytest.fixture(scope="module")
def cluster(write_config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    ports = {name: free_port() for name in ("mlflow", "dashboard", "agent", "gcs")}
    mlflow, dashboard = (f"http://127.0.0.1:{ports[name]}" for name in ("mlflow", "dashboard"))
    environment = os.environ | {
        MARK: str(folder),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": mlflow,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        provenance.COMMIT_VARIABLE: COMMIT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": (token := secrets.token_hex(32)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    # A folder of its own, for there Ray looks up which cluster a job belongs to; a short name, for its sockets.
    scratch = tempfile.mkdtemp(prefix="ray-")
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    commands = {
        "mlflow": ["mlflow", "server", "--host", "127.0.0.1", "--port", str(ports["mlflow"]), "--workers", "1", *store],
        "ray": [
            *("ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(ports["gcs"])),
            *("--include-dashboard", "true", "--dashboard-port", str(ports["dashboard"])),
            *("--dashboard-agent-listen-port", str(ports["agent"]), "--num-cpus", "2"),
            *("--temp-dir", scratch),
        ],
    }
    servers = []
    try:
        for name, (program, *arguments) in commands.items():
            with (folder / f"{name}.log").open("w") as log:
                command = [str(BIN / program), *arguments]
                servers.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
        wait_for(lambda: httpx.get(f"{mlflow}/health").is_success)
        headers = {"Authorization": f"Bearer {token}"}
        wait_for(lambda: httpx.get(f"{dashboard}/api/jobs/", headers=headers).is_success)
        # It is the agent that starts jobs.
        agent = f"http://127.0.0.1:{ports['agent']}/api/local_raylet_healthz"
        wait_for(lambda: httpx.get(agent, headers=headers).is_success)
        config = write_config(folder / "small.toml", validation={"candidates": list(CANDIDATES)})
        yield Cluster(dashboard, mlflow, environment, folder, config)
    finally:
        stop_marked(str(folder))
        for server in servers:
            server.wait(timeout=10)
        shutil.rmtree(scratch, ignore_errors=True)


def stop_marked(mark: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        targets = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark and process.pid != os.getpid():
                    process.send_signal(number)
                    targets.append(process)
            except psutil.Error:
                continue
        psutil.wait_procs(targets, timeout=8)


def errors(result: subprocess.CompletedProcess[str]) -> set[str]:
    """Lines in which a job tells its error; Ray shows the last lines of a failed job once more."""
    assert "Traceback" not in result.stdout + result.stderr, result.stdout + result.stderr
    return {line for line in (result.stdout + result.stderr).splitlines() if line.startswith("error: ")}


@pytest.fixture(scope="module")
def storage(cluster: Cluster) -> Path:
    """Folder of a pipeline that has run."""
    storage = cluster.folder / "storage"
    result = cluster.submit("pipeline", "--config", cluster.config, "--storage", storage, "--beside", "lean")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    for step in ("train", "quantize", "validate", "benchmark", "register", "report", "done"):
        assert f"  {step}" in result.stdout
    return storage


@pytest.fixture
def model(storage: Path, tmp_path: Path) -> Path:
    """A copy of its model, to be written to."""
    model_folder.copy(storage / "small", tmp_path / "model")
    return tmp_path / "model"


def test_the_pipeline_writes_a_summary(storage: Path) -> None:
    summary = json.loads((storage / "small" / "summary.json").read_text())
    assert list(summary["precisions"]) == list(CANDIDATES)
    float32, int8, runtime = summary["precisions"].values()
    assert set(float32["physics"]) == set(int8["physics"]) == set(runtime["physics"])
    assert set(float32["performance"]) == set(int8["performance"]) == set(runtime["performance"])
    assert "uri" not in runtime  # it is no version of the model
    assert list(summary["beside"]) == ["lean"]
    assert list(summary["beside"]["lean"]) == ["float32", "int8"]
    assert set(summary["beside"]["lean"]["int8"]["performance"]) == set(int8["performance"])
    assert int8["performance"]["quant/integer_convolutions"] > 0
    assert int8["gates"] == {"physics/sampling_fraction_shift": "passed"}
    assert float32["champion"]
    assert int8["champion"]
    assert summary["best_epoch"]["stage"] == "shape"
    assert summary["header"]["git_commit"] == COMMIT
    page = (storage / "small" / "report.html").read_text()
    assert all(name in page for name in ("parametrised", *CANDIDATES, "lean float32", "lean int8"))


def test_the_pipeline_logs_a_parent_and_a_run_of_each_precision(cluster: Cluster, storage: Path) -> None:
    summary = json.loads((storage / "small" / "summary.json").read_text())
    runs = {run["info"]["run_id"]: run for run in cluster.runs()}
    models = (summary["precisions"], *summary["beside"].values())
    (own, beside) = ({name: runs[entry["run_id"]] for name, entry in model.items()} for model in models)
    children = own | {f"lean {name}": run for name, run in beside.items()}
    names = {name: {metric["key"] for metric in run["data"]["metrics"]} for name, run in children.items()}
    assert names["float32"] == names["int8"] == names["tflite-int8"]
    assert names["lean float32"] == names["lean int8"] <= names["float32"]
    tags = {name: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for name, run in children.items()}
    assert {name: values["precision"] for name, values in tags.items()} == {
        name: name.removeprefix("lean ") for name in children
    }
    (parent,) = {values["mlflow.parentRunId"] for values in tags.values()}
    files = httpx.get(f"{cluster.mlflow}/api/2.0/mlflow/artifacts/list", params={"run_id": parent}).json()["files"]
    assert "report.html" in {file["path"] for file in files}
    metrics = {metric["key"] for metric in runs[parent]["data"]["metrics"]}
    assert {"train/physics_score", "validation/sampling_fraction_shift"} <= metrics
    files = httpx.get(
        f"{cluster.mlflow}/api/2.0/mlflow/artifacts/list", params={"run_id": parent, "path": "images"}
    ).json()["files"]
    pictures = {Path(file["path"]).name.split("+")[0] for file in files}
    assert pictures == {"train~shower_shapes", "train~shower"}
    assert {run["info"]["status"] for run in (runs[parent], *children.values())} == {"FINISHED"}


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow")
def test_a_pipeline_that_is_killed_resumes_in_its_run_trains_on_two_workers_and_tunes(
    tmp_path: Path, write_config: Callable[..., Path], start: Callable[..., Any]
) -> None:
    changed: dict[str, dict[str, object]] = {
        "training": {"shape_epochs": 6, "shape_flow_epochs": 2},
        "quantization": {"calibration_showers": 16, "tune": True},
        "validation": {"thorough": False},
        "benchmark": {"repetitions": 1},
    }
    config = write_config(tmp_path / "small.toml", **changed)
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking)
    experiment = client.create_experiment(EXPERIMENT, artifact_location=str(tmp_path / "artifacts"))
    variables = {"MLFLOW_TRACKING_URI": tracking, provenance.COMMIT_VARIABLE: provenance.git_commit()}
    arguments = ("--config", config, "--storage", tmp_path / "storage", "--workers", 2)
    model = tmp_path / "storage" / "small"
    progress = model / "training" / "progress.json"

    def epochs() -> int:
        return len(json.loads(progress.read_text())["history"]) if progress.exists() else 0

    first = start("pipeline", *arguments, **variables)
    first.wait_until(lambda: epochs() >= 3)
    first.kill()
    assert epochs() < 9
    second = start("pipeline", *arguments, **variables)
    output = second.end()
    assert second.process.returncode == 0, output
    assert "2 workers with 1 cores each" in output

    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    histories = [
        client.get_metric_history(parent.info.run_id, f"train/{loss}_loss") for loss in ("flow", "cell", "prior")
    ]
    assert {point.step for history in histories for point in history} == set(range(9))
    trials = quantization_trials.records(quantization_trials.records_folder(load_config(config), model)).read_all()
    names = [run.info.run_name for run in runs if run is not parent]
    assert len(names) == len(trials) + 2  # and one of each precision
    assert parent.data.metrics["test/physics_score"] > 0
    best = rank(trials, 0.9)[0].quantization
    assert Quantization.model_validate(model_folder.read(model).quantization) == best
    assert json.loads((model / "summary.json").read_text())["precisions"]["int8"]["champion"]


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow")
def test_the_published_network_goes_the_whole_way_beside_tflite(tmp_path: Path, start: Callable[..., Any]) -> None:
    """The packaged configuration, with one epoch from the packaged weights, few showers and quick comparisons."""
    packaged = load_config("rehm2021")
    showers = write_events(tmp_path / "g4.h5", read_events(packaged_sample())[:200], header={})
    data = packaged.data.model_copy(
        update={"path": str(showers), "train": 0.1, "validation": 0.35, "calibration": 0.1, "test": 0.45}
    )
    no_epochs = {name: 0 for name in type(packaged.training).model_fields if name.endswith("_epochs")}
    config = tmp_path / "short.toml"
    sections = as_toml(
        data=data,
        network=packaged.network,
        training=packaged.training.model_copy(
            update=no_epochs | {"start": "rehm2021", "distance_epochs": 1, "score_every": 1}
        ),
        quantization=packaged.quantization.model_copy(update={"calibration_showers": 16}),
        validation=packaged.validation.model_copy(update={"draws": 1, "thorough": False, "cell_trainings": 0}),
        benchmark=packaged.benchmark.model_copy(update={"repetitions": 1}),
    )
    config.write_text(f'name = "short"\n{sections}', encoding="utf-8")
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking)
    experiment = client.create_experiment(EXPERIMENT, artifact_location=str(tmp_path / "artifacts"))
    driver = start(
        "pipeline", "--config", config, "--storage", tmp_path / "storage", "--workers", 1, MLFLOW_TRACKING_URI=tracking
    )
    output = driver.end()
    assert driver.process.returncode == 0, output

    names = ["float32", "bfloat16", "int8", "tflite-float16", "tflite-int8"]
    summary = json.loads((tmp_path / "storage" / "short" / "summary.json").read_text())
    assert list(summary["precisions"]) == names
    assert summary["best_epoch"]["stage"] == "distance"
    assert summary["precisions"]["int8"]["performance"]["quant/integer_convolutions"] == 57
    runs = {run.info.run_id: run for run in client.search_runs([experiment])}
    children = {name: runs[entry["run_id"]] for name, entry in summary["precisions"].items()}
    assert len({frozenset(run.data.metrics) for run in children.values()}) == 1
    assert {run.data.tags["precision"] for run in children.values()} == set(names)
    float32, int8, runtime = (children[name].data.metrics for name in ("float32", "int8", "tflite-int8"))
    assert int8["model/size_mb"] < float32["model/size_mb"] / 2
    assert runtime["model/size_mb"] < float32["model/size_mb"] / 2
    assert int8["perf/showers_per_s"] > float32["perf/showers_per_s"]
    versions = client.search_model_versions("name = 'short'")
    assert {version.tags["precision"] for version in versions} == {"float32", "bfloat16", "int8"}


def test_too_many_models_beside_are_one_readable_line(cluster: Cluster, tiny_model: Path) -> None:
    beside = [word for model in ("lean", "rehm2021", tiny_model) for word in ("--beside", model)]
    result = cluster.submit("pipeline", "--config", cluster.config, "--storage", cluster.folder / "none", *beside)
    assert result.returncode != 0
    (line,) = errors(result)
    assert "10 candidates with the parametrised simulation and the models beside" in line
    assert not (cluster.folder / "none").exists()


def test_a_missing_configuration_is_one_readable_line(cluster: Cluster) -> None:
    result = cluster.submit("pipeline", "--config", "no-such-config", "--storage", cluster.folder / "none")
    assert result.returncode != 0
    (line,) = errors(result)
    assert line.startswith("error: no configuration 'no-such-config'")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_on_a_worker_is_one_readable_line(workers: int, cluster: Cluster, tmp_path: Path) -> None:
    history = tmp_path / "damaged" / "training" / "progress.json"
    history.parent.mkdir(parents=True)
    history.write_text("{}")
    out = ("--workers", workers, "--out", tmp_path / "damaged")
    result = cluster.submit("train", "--config", cluster.config, *out)
    assert result.returncode != 0
    (line,) = errors(result)
    assert line.startswith(f"error: {history}: is not the history of a training of this version")


def test_train_writes_a_model_and_logs_it(cluster: Cluster, tmp_path: Path) -> None:
    out = ("--workers", 2, "--out", tmp_path / "trained")
    result = cluster.submit("train", "--config", cluster.config, *out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert model_folder.read(tmp_path / "trained").name == "small"
    assert "physics score" in result.stdout
    run = cluster.runs()[0]
    assert (run["info"]["run_name"].startswith("train "), run["info"]["status"]) == (True, "FINISHED")
    metrics = {metric["key"] for metric in run["data"]["metrics"]}
    assert {"train/flow_loss", "train/cell_loss", "train/physics_score"} <= metrics


def test_validate_writes_a_report_and_tells_by_its_exit(cluster: Cluster, tmp_path: Path) -> None:
    sample = read_events(packaged_sample())[:150]
    path = write_events(tmp_path / "g4.h5", sample, header={})
    arguments = ["--reference", path, "--candidate", path, "--json", tmp_path / "v.json", "--gates"]
    result = cluster.submit("validate", *arguments, "demo")
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((tmp_path / "v.json").read_text())["physics_score"] > 0.99
    result = cluster.submit("validate", *arguments, tmp_path / "none.toml")
    assert result.returncode != 0
    (line,) = errors(result)
    assert "none.toml: cannot be read" in line


def test_tune_keeps_the_fastest_trial_that_keeps_the_physics(cluster: Cluster, model: Path) -> None:
    before, precisions = len(cluster.runs()), set(model_folder.read(model).network_files)
    result = cluster.submit("tune", "--config", cluster.config, "--model", model)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "within 90.0% of float32's score" in result.stdout
    runs = cluster.runs()[:-before]
    trials = [run for run in runs if not run["info"]["run_name"].startswith("tune")]
    assert len(trials) == len(runs) - 1 == len(list(model.glob("tuning/*/*.json"))) >= 11
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    speeds = [
        metric["value"]
        for run in trials
        for metric in run["data"]["metrics"]
        if metric["key"] == "perf/network_speedup"
    ]
    (parent,) = [run for run in runs if run not in trials]
    best = {metric["key"]: metric["value"] for metric in parent["data"]["metrics"]}
    assert best["perf/network_speedup"] >= 0.95 * max(speeds)
    model_folder.check_files(model, model_folder.read(model), "int8")
    assert set(model_folder.read(model).network_files) == precisions
