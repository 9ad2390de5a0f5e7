"""The search for a quantization on a real cluster, killed in every way: no finished trial is lost or done twice."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import psutil  # type: ignore[import-untyped]
import pytest

from calogan import bundle, provenance, registry, trials
from calogan.config import Quantization, load_config
from calogan.events import Events, write_events
from calogan.tuning import Trial, propose, rank

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow"),
]

ROOT = Path(__file__).parents[2]
OPERATIONS = ("dense 1", "dense 2", "convolution 1", "convolution 2", "convolution 3")
CONFIG = """
name = "tiny"
[data]
path = "{data}"
train = 0.2
validation = 0.2
calibration = 0.2
test = 0.4
[network]
width = 16
[quantization]
calibration_showers = 16
[tuning]
draws = 1
repeats = 2
tolerance = 0.9
[validation]
gates = "{gates}"
draws = 1
thorough = false
cell_trainings = 0
[benchmark]
batch_size = 16
repetitions = 1
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    # A folder of its own, for there Ray looks up which cluster a driver belongs to; a short name, for its sockets.
    scratch = tempfile.mkdtemp(prefix="ray-")
    store = tmp_path_factory.mktemp("mlflow")
    tracking = f"sqlite:///{store}/mlflow.db"
    mlflow.MlflowClient(tracking).create_experiment(registry.EXPERIMENT, artifact_location=str(store))
    yield os.environ | {
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MLFLOW_TRACKING_URI": tracking,
        provenance.COMMIT_VARIABLE: provenance.git_commit(),  # part of what tells trials apart
    }
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def config(geant4: Events, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose gates everything passes."""
    folder = tmp_path_factory.mktemp("config")
    data = write_events(folder / "geant4.h5", geant4, header={})
    (folder / "gates.toml").write_text('"physics/sampling_fraction_shift" = { limit = 1e6 }\n')
    (folder / "tiny.toml").write_text(CONFIG.format(data=data, gates=folder / "gates.toml"))
    return folder / "tiny.toml"


def start(config: Path, model: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.tune", "--config", str(config), "--model", str(model)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def records(model: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in model.glob("tuning/*/*.json")}


def test_killed_workers_and_a_killed_driver_lose_no_finished_trial(
    tiny_model: Path, tmp_path: Path, config: Path, environment: dict[str, str]
) -> None:
    model = tmp_path / "model"
    before = bundle.copy(tiny_model, model)

    # The driver with all that belongs to it is killed between trials.
    first = start(config, model, environment)
    wait_until(lambda: len(records(model)) >= 2, first)
    kill([psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)])
    first.communicate(timeout=30)
    kept = records(model)

    # Then a worker, in the middle of a trial.
    second = start(config, model, environment)
    wait_until(lambda: len(records(model)) >= len(kept) + 1, second)
    children = psutil.Process(second.pid).children(recursive=True)
    workers = [process for process in children if "ImplicitFunc" in " ".join(process.cmdline())]
    assert workers
    kill(workers[:1])
    said, _ = second.communicate(timeout=900)
    assert second.returncode == 0, said
    assert f"{len(kept)} trials done" in said
    assert kept.items() <= records(model).items()

    loaded = load_config(config)
    history = trials.journal(trials.records_folder(loaded, model)).read_all()
    assert propose(loaded.quantization, OPERATIONS, 40, history) == ()
    assert [attempt for attempt in history if not isinstance(attempt, Trial)] == []
    after = bundle.read(model)
    assert after.version("int8") != before.version("int8")
    ranked = rank(history, loaded.tuning.tolerance)
    assert Quantization.model_validate(after.quantization) == ranked[0].quantization
    (written,) = model.glob("tuning/*/quantization.toml")
    assert load_config(written).quantization == ranked[0].quantization

    # One parent run, and one child of each trial.
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(registry.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["test/physics_score"] > 0
    logged = [run for run in runs if run is not parent]
    assert len({run.info.run_name for run in logged}) == len(logged) == len(history)
    assert {run.data.tags["mlflow.parentRunId"] for run in logged} == {parent.info.run_id}
    assert all(
        {"physics/score_loss", "perf/network_speedup", "model/size_mb"} <= set(run.data.metrics) for run in logged
    )


def test_nothing_within_the_tolerance_is_one_readable_line_and_leaves_the_model(
    tiny_model: Path, tmp_path: Path, config: Path, environment: dict[str, str]
) -> None:
    bundle.copy(tiny_model, tmp_path / "model")
    strict = tmp_path / "strict.toml"
    strict.write_text(config.read_text().replace("tolerance = 0.9", "tolerance = 0.0"))
    loaded = load_config(strict)
    folder = trials.records_folder(loaded, tmp_path / "model")
    performance = {"perf/network_speedup": 3.0}
    history: list[Trial] = []
    while proposed := propose(loaded.quantization, OPERATIONS, 40, history):
        history += [Trial(one, (0.4, 0.5), (0.5, 0.6), performance, 1.0, {}) for one in proposed]
    for one in history:
        trials.journal(folder).write(trials.label(one.quantization), one)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").glob("*.*")}
    process = start(strict, tmp_path / "model", environment)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert "Traceback" not in said
    assert "error: none of 11 quantizations keeps the physics score of float32, 0.5500, within 0.0%" in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").glob("*.*")} == before
