"""The search for a generator on a real cluster: killed in the middle of a training, it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from calogan.config import load_config
from calogan.events import Events, write_events
from calogan.generation import model_folder
from calogan.search import generator_trials
from calogan.tracking.runs import EXPERIMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow"),
]

CONFIG = """
name = "tiny"
[data]
path = "{data}"
train = 0.4
validation = 0.2
calibration = 0.2
test = 0.2
[network]
width = 16
[training]
flow_epochs = 1
shape_epochs = 3
shape_flow_epochs = 1
warmup_epochs = 0
adversarial_epochs = 0
[quantization]
calibration_showers = 16
[search]
trials = 3
draws = 1
repeats = 2
[[search.choices]]
name = "network.depth"
values = [1, 2]
[[search.choices]]
name = "network.width"
values = [8, 16]
[validation]
draws = 1
thorough = false
cell_trainings = 0
[benchmark]
batch_size = 16
repetitions = 1
"""


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a store of MLflow, which drivers started later use."""
    address = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.MlflowClient(address).create_experiment(EXPERIMENT, artifact_location=str(tmp_path / "artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def test_a_killed_search_resumes_and_shows_the_pareto_front(
    geant4: Events, tmp_path: Path, tracking: str, start: Callable[..., Any]
) -> None:
    data = write_events(tmp_path / "geant4.h5", geant4, header={})
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.format(data=data))

    def records() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/candidates/*.json")}

    def folders() -> set[str]:
        return {path.parent.name for path in tmp_path.glob("out/*/candidates/*/choices.json")}

    first = start("search", "--config", config, "--out", tmp_path / "out", "--parallel", 1)
    first.wait_until(lambda: bool(records()) and len(folders()) == 2)
    first.kill()
    earlier, interrupted = records(), folders()
    second = start("search", "--config", config, "--out", tmp_path / "out", "--parallel", 1)
    output = second.end()
    assert second.process.returncode == 0, output
    assert f"{len(earlier)} candidates done, {3 - len(earlier)} to do" in output
    assert earlier.items() <= records().items()
    assert len(records()) == 3
    assert interrupted <= {name.removesuffix(".json") for name in records()}

    (folder,) = (tmp_path / "out").iterdir()
    front = json.loads((folder / "front.json").read_text())["front"]
    for number, shown in enumerate(front, start=1):
        network = load_config(folder / f"front_{number}.toml").network
        assert network.depth == shown["choices"]["network.depth"]
        assert model_folder.read(Path(shown["model"])).width == network.width
        assert shown["model"] == str(generator_trials.model_folder(folder, shown["choices"]))
        assert 0 < shown["test"]["auc"] <= 1

    client = mlflow.MlflowClient(tracking)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert "pareto.png" in [file.path for file in client.list_artifacts(parent.info.run_id)]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len({run.info.run_name for run in children}) == len(children) == 3
    assert all({"physics/score", "perf/ms_per_shower", "model/size_mb"} <= set(run.data.metrics) for run in children)


def test_a_choice_that_cannot_be_made_ends_the_job_before_it_begins(
    geant4: Events, tmp_path: Path, start: Callable[..., Any]
) -> None:
    data = write_events(tmp_path / "geant4.h5", geant4, header={})
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.format(data=data).replace("network.depth", "network.dpeth"))
    driver = start("search", "--config", config, "--out", tmp_path / "out")
    output = driver.end()
    assert driver.process.returncode == 2, output
    assert "error: search.choices: 'network.dpeth' is not a setting" in output
    assert not (tmp_path / "out").exists()
