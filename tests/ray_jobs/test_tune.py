"""The search for a quantization on a real cluster, killed in every way: no finished trial is lost or done twice."""

import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner

from calogan import provenance
from calogan.config import Quantization, load_config
from calogan.errors import ModelError
from calogan.events import Events, write_events
from calogan.generation import model_folder
from calogan.packaged import data_file
from calogan.search import quantization_trials
from calogan.search.quantization_proposals import Trial, propose, rank
from calogan.tracking.runs import EXPERIMENT
from ray_jobs.tune import main

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow"),
]

OPERATIONS = ("dense 1", "dense 2", "convolution 1", "convolution 2", "convolution 3")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of the drivers."""
    store = tmp_path_factory.mktemp("mlflow")
    tracking = f"sqlite:///{store}/mlflow.db"
    mlflow.MlflowClient(tracking).create_experiment(EXPERIMENT, artifact_location=str(store))
    # The commit is part of the identity of a trial.
    return {"MLFLOW_TRACKING_URI": tracking, provenance.COMMIT_VARIABLE: provenance.git_commit()}


@pytest.fixture(scope="module")
def config(write_config: Callable[..., Path], geant4: Events, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    data = write_events(folder / "geant4.h5", geant4, header={})
    return write_config(
        folder / "tiny.toml",
        data={"path": str(data), "train": 0.2, "validation": 0.2, "calibration": 0.2, "test": 0.4},
        network={"width": 16},
        quantization={"calibration_showers": 16},
        validation={"thorough": False},
        benchmark={"repetitions": 1},
    )


def records(model: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in model.glob("tuning/*/*.json")}


@pytest.mark.slow
def test_killed_workers_and_a_killed_driver_lose_no_finished_trial(
    tiny_model: Path, tmp_path: Path, config: Path, variables: dict[str, str], start: Callable[..., Any]
) -> None:
    model = tmp_path / "model"
    before = model_folder.copy(tiny_model, model)

    # The driver with all that belongs to it is killed between trials.
    arguments = ("--config", config, "--model", model)
    first = start("tune", *arguments, **variables)
    first.wait_until(lambda: len(records(model)) >= 2, every=0.05)
    first.kill()
    earlier = records(model)

    # Then a worker, in the middle of a trial.
    second = start("tune", *arguments, **variables)
    second.wait_until(lambda: len(records(model)) >= len(earlier) + 1, every=0.05)
    workers = second.workers("ImplicitFunc")
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    output = second.end()
    assert second.process.returncode == 0, output
    assert f"{len(earlier)} trials done" in output
    assert earlier.items() <= records(model).items()

    loaded = load_config(config)
    history = quantization_trials.records(quantization_trials.records_folder(loaded, model)).read_all()
    assert propose(loaded.quantization, OPERATIONS, 40, history) == ()
    assert [attempt for attempt in history if not isinstance(attempt, Trial)] == []
    after = model_folder.read(model)
    assert after.version("int8") != before.version("int8")
    ranked = rank(history, loaded.tuning.tolerance)
    assert Quantization.model_validate(after.quantization) == ranked[0].quantization
    (written,) = model.glob("tuning/*/quantization.toml")
    assert load_config(written).quantization == ranked[0].quantization

    # One parent run, and one child of each trial.
    client = mlflow.MlflowClient(variables["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["test/physics_score"] > 0
    trials = [run for run in runs if run is not parent]
    assert len({run.info.run_name for run in trials}) == len(trials) == len(history)
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert all(
        {"physics/score_without_classifier_loss", "perf/network_speedup", "model/size_mb"} <= set(run.data.metrics)
        for run in trials
    )


@pytest.mark.slow
def test_nothing_within_the_tolerance_is_one_readable_line_and_leaves_the_model(
    tiny_model: Path, tmp_path: Path, config: Path, variables: dict[str, str], start: Callable[..., Any]
) -> None:
    model_folder.copy(tiny_model, tmp_path / "model")
    strict = tmp_path / "strict.toml"
    strict.write_text(config.read_text().replace("tolerance = 0.9", "tolerance = 0.0"))
    loaded = load_config(strict)
    folder = quantization_trials.records_folder(loaded, tmp_path / "model")
    performance = {"perf/network_speedup": 3.0}
    history: list[Trial] = []
    while proposed := propose(loaded.quantization, OPERATIONS, 40, history):
        history += [Trial(one, (0.4, 0.5), (0.5, 0.6), performance, 1.0, {}) for one in proposed]
    for one in history:
        quantization_trials.records(folder).write(quantization_trials.label(one.quantization), one)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").glob("*.*")}
    driver = start("tune", "--config", strict, "--model", tmp_path / "model", **variables)
    output = driver.end()
    assert driver.process.returncode == 3, output
    assert "Traceback" not in output
    assert (
        "error: none of 11 quantizations keeps the score of float32 without the classifier, 0.5500, within 0.0%"
        in output
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").glob("*.*")} == before


def test_a_second_job_on_a_model_ends_with_one_line_before_any_work(
    tiny_model: Path, tmp_path: Path, config: Path, variables: dict[str, str], start: Callable[..., Any]
) -> None:
    model = tmp_path / "model"
    model_folder.copy(tiny_model, model)
    before = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    client = mlflow.MlflowClient(variables["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = len(client.search_runs([experiment.experiment_id]))
    with quantization_trials.sole_tuning(model):
        second = start("tune", "--config", config, "--model", model, **variables)
        said = second.end()
    assert second.process.returncode == ModelError.exit_code, said
    (line,) = [line for line in " ".join(said.split()).split("error: ") if "searches here already" in line]
    assert line.startswith(f"{model / 'tuning'}: process {os.getpid()} on {platform.node()} searches here already")
    assert "Traceback" not in said
    assert {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()} == before
    assert records(model) == {}
    assert len(client.search_runs([experiment.experiment_id])) == runs


@pytest.mark.parametrize("model", ["lean", str(data_file("models", "lean"))])
def test_a_packaged_model_is_refused_before_any_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.tune.join", lambda: pytest.fail("went to the cluster"))
    before = {path: path.stat().st_mtime_ns for path in data_file("models", "lean").rglob("*")}
    result = CliRunner().invoke(main, ["--config", "tiny", "--model", model])
    assert isinstance(result.exception, ModelError)
    assert "lean is a packaged model, which cannot be modified; make your own with" in str(result.exception)
    assert {path: path.stat().st_mtime_ns for path in data_file("models", "lean").rglob("*")} == before
