import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from calogan.benchmark import comparison
from calogan.benchmark.comparison import Comparison
from calogan.config import Benchmark, Validation
from calogan.errors import ModelError
from calogan.events import Events
from calogan.generation import generator, model_folder
from calogan.generation.generator import BATCH

NAMES = ("int8", "tflite-float16", "tflite-int8")
QUICK = Validation(gates="demo", draws=2, thorough=False, cell_trainings=0)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def compared(tiny_model: Path, geant4: Events, lines: list[str]) -> Comparison:
    return comparison.compare_precisions(
        tiny_model, NAMES, geant4[:60], validation=QUICK, rounds=1, progress=lines.append
    )


def test_float32_is_the_first_and_all_have_the_same_showers_to_compare(compared: Comparison, geant4: Events) -> None:
    assert list(compared.reports) == list(compared.timed.timings) == ["float32", *NAMES]
    for report in compared.reports.values():
        assert (report.showers["reference"], report.showers["candidate"]) == (60, 120)
        assert report.metrics.keys() == compared.reports["float32"].metrics.keys()
    assert [bool(report.floor) for report in compared.reports.values()] == [True, False, False, False]


def test_only_float32_does_not_differ_from_float32(compared: Comparison) -> None:
    differences = [report.metrics["physics/pixelwise_relative"].value for report in compared.reports.values()]
    assert differences[0] == 0
    assert 0 < differences[2] < min(differences[1], differences[3])


def test_every_step_is_said(compared: Comparison, lines: list[str]) -> None:
    assert lines[:4] == ["loading float32", "loading int8", "loading tflite-float16", "loading tflite-int8"]
    assert "generating 120 showers in tflite-int8" in lines
    assert lines[-1] == "timing"


def test_the_summary_is_json_and_has_the_same_names_for_all(compared: Comparison) -> None:
    summary = json.loads(json.dumps(compared.summary()))
    assert summary["model"] == "tiny"
    assert list(summary["precisions"]) == ["float32", *NAMES]
    entries = summary["precisions"].values()
    assert (
        len({tuple(entry["performance"]) for entry in entries})
        == len({tuple(entry["physics"]) for entry in entries})
        == 1
    )
    sizes = {name: entry["performance"]["model/size_mb"] for name, entry in summary["precisions"].items()}
    assert sizes["tflite-int8"] < sizes["tflite-float16"] < sizes["float32"]
    assert all(entry["performance"]["perf/showers_per_s"] > 0 for entry in entries)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow")
def test_all_are_runs_under_one_in_mlflow(compared: Comparison, mlflow_client: MlflowClient, tiny_model: Path) -> None:
    children = comparison.log_comparison(compared, tiny_model)
    assert list(children) == ["float32", *NAMES]
    runs = {name: mlflow_client.get_run(run_id) for name, run_id in children.items()}
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    assert mlflow_client.get_run(parent).data.params["candidates"] == "float32, int8, tflite-float16, tflite-int8"
    assert len({frozenset(run.data.metrics) for run in runs.values()}) == 1
    for name, run in runs.items():
        timing = compared.timed.timings[name]
        assert run.data.metrics["model/size_mb"] == timing.size_mb
        assert run.data.metrics["perf/showers_per_s"] == pytest.approx(timing.showers_per_s)


def test_speed_without_another_runtime_is_measured_at_the_batch_of_the_configuration(tiny_model: Path) -> None:
    config = Benchmark(batch_size=16, repetitions=1)
    own = comparison.measure_speed(tiny_model, ["int8"], config, round_showers=16)
    with_others = comparison.measure_speed(tiny_model, ["tflite-int8"], config, round_showers=16)
    assert (list(own.timings), own.batch_size) == (["float32", "int8"], 16)
    assert (list(with_others.timings), with_others.batch_size) == (["float32", "tflite-int8"], BATCH)


def test_a_precision_that_is_not_there_is_an_error_before_anything_is_generated(
    tiny_model: Path, geant4: Events, tmp_path: Path
) -> None:
    model_folder.copy(tiny_model, tmp_path / "m", precisions=("float32",))
    said: list[str] = []
    for name, message in (("int4", "no precision 'int4'; there are float32, .*, tflite-int8"), ("int8", "has no int8")):
        with pytest.raises(ModelError, match=message):
            comparison.compare_precisions(
                tmp_path / "m", [name], geant4[:60], validation=QUICK, rounds=1, progress=said.append
            )
    assert not any("generating" in line for line in said)


def test_the_showers_are_those_of_the_generator(compared: Comparison, tiny_model: Path, geant4: Events) -> None:
    energy = np.repeat(geant4.energy[:60], QUICK.draws)
    showers = generator.load(tiny_model, precision="int8").sample(energy, seed=20_000).showers
    mean = (showers.sum(axis=(0, 1, 3)) @ np.arange(25)) / showers.sum(dtype=np.float64)
    assert compared.reports["int8"].metrics["physics/y_mean"].value == pytest.approx(mean, rel=0.01)
