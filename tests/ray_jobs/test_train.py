"""Distributed training on a real Ray cluster: the same training as by one worker, whatever is killed."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ray.train import ControllerError, WorkerGroupError

from calogan.errors import EventsError, TrainingError
from calogan.generation import model_folder
from ray_jobs.driver import cores_each, workers_for
from ray_jobs.train import cause_of

TRAINING = {"shape_epochs": 16, "shape_flow_epochs": 2, "score_every": 8, "batch_size": 49, "warmup_epochs": 0}
EPOCHS = 19


@pytest.mark.parametrize(
    ("nodes", "tasks", "expected"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([4, 4], 2, 4),
        ([4, 4], 3, 2),
        ([5, 3], 2, 3),
        ([16, 1], 2, 8),
        ([0, 8], 3, 2),
        ([2], 3, 1),
        ([], 1, 1),
    ],
)
def test_each_task_gets_the_most_cores_with_which_all_fit(nodes: list[int], tasks: int, expected: int) -> None:
    assert cores_each(nodes, tasks) == expected


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [([], 1), ([0], 1), ([2], 1), ([0, 8], 1), ([4, 4], 2), ([0, 8, 8, 8], 3), ([5, 3], 2), ([16, 1], 1), ([1, 0], 1)],
)
def test_as_many_workers_as_nodes_where_that_uses_more_cores(nodes: list[int], expected: int) -> None:
    assert workers_for(nodes) == expected


def test_a_training_ends_with_the_error_of_this_package() -> None:
    error = EventsError("a.h5: no such file")
    death = RuntimeError("the actor died\nbecause of this and that")
    assert cause_of(ControllerError(error)) is error
    assert cause_of(WorkerGroupError("", {0: death, 1: error})) is error
    cause = cause_of(WorkerGroupError("", {1: death}))
    assert isinstance(cause, TrainingError)
    assert "died more than 3 times, most recently of RuntimeError: the actor died; submit the job again" in str(cause)


def history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "training" / "progress.json"
    return list(json.loads(path.read_text())["history"]) if path.exists() else []


def curve(folder: Path) -> NDArray[np.float64]:
    return np.array([value for epoch in history(folder) for value in epoch["losses"].values()])


def weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    values: dict[str, NDArray[np.float32]] = {}
    with h5py.File(folder / "training" / "generator.weights.h5") as file:
        file.visititems(lambda name, item: values.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    return values


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_workers_train_as_one_and_nothing_that_is_killed_changes_it(
    tmp_path: Path, write_config: Callable[..., Path], start: Callable[..., Any]
) -> None:
    alone, undisturbed, disturbed = (tmp_path / name for name in ("alone", "undisturbed", "disturbed"))
    arguments = ["--config", write_config(tmp_path / "small.toml", training=TRAINING), "--cpus-per-worker", 1]
    shared = [*arguments, "--workers", 2, "--out"]
    for command in ([*arguments, "--out", alone], [*shared, undisturbed]):
        driver = start("train", *command)
        output = driver.end()
        assert driver.process.returncode == 0, output
    # Rounding grows from step to step; another seed differs by more than half.
    np.testing.assert_allclose(curve(undisturbed), curve(alone), rtol=0.02)

    # The driver with all that belongs to it is killed, then a worker of the one that goes on.
    driver = start("train", *shared, disturbed)
    driver.wait_until(lambda: len(history(disturbed)) >= 2)
    driver.kill()
    earlier = history(disturbed)
    assert 2 <= len(earlier) < EPOCHS
    driver = start("train", *shared, disturbed)
    driver.wait_until(lambda: len(history(disturbed)) >= len(earlier) + 2)
    driver.workers("RayTrainWorker")[0].send_signal(signal.SIGKILL)
    at_death = history(disturbed)
    assert len(at_death) < EPOCHS
    output = driver.end()
    assert driver.process.returncode == 0, output

    epochs = history(disturbed)
    assert [epoch["number"] for epoch in epochs] == list(range(EPOCHS))
    assert epochs[: len(earlier)] == earlier
    assert epochs[: len(at_death)] == at_death
    assert [epoch["losses"] for epoch in epochs] == [epoch["losses"] for epoch in history(undisturbed)]
    expected, actual = weights(undisturbed), weights(disturbed)
    assert actual.keys() == expected.keys()
    for name, values in actual.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert model_folder.read(disturbed).name == "small"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_killed_in_an_adversarial_epoch_costs_that_epoch_at_most(
    tmp_path: Path, write_config: Callable[..., Path], start: Callable[..., Any]
) -> None:
    training = {
        "distance_epochs": 1,
        "refinement_epochs": 1,
        "warmup_epochs": 1,
        "adversarial_epochs": 3,
        "energy_score_weight": 7.0,
        "critic_weight": 1.0,
        "batch_size": 4,
        "score_every": 0,
        "inference_mode": True,
    }
    data = {"train": 0.06, "validation": 0.04, "calibration": 0.02, "test": 0.88}
    config = write_config(tmp_path / "gan.toml", data=data, network={"family": "rehm2021"}, training=training)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    arguments = ["--config", config, "--workers", 2, "--cpus-per-worker", 1, "--out"]
    driver = start("train", *arguments, undisturbed)
    output = driver.end()
    assert driver.process.returncode == 0, output
    stages = [epoch["stage"] for epoch in history(undisturbed)]
    assert stages == ["distance", "refinement", "warmup", *3 * ["adversarial"]]
    quarter = history(undisturbed)[4]["seconds"] / 4

    driver = start("train", *arguments, disturbed)
    driver.wait_until(lambda: len(history(disturbed)) == 4)
    worker = driver.workers("RayTrainWorker")[0]
    time.sleep(quarter)
    at_death = history(disturbed)
    worker.send_signal(signal.SIGKILL)
    assert len(at_death) == 4, "the epoch was over before the worker was killed"
    output = driver.end()
    assert driver.process.returncode == 0, output
    assert history(disturbed)[:4] == at_death
    # The rest is trained again by the same steps; sums of bfloat16 products may be rounded differently.
    np.testing.assert_allclose(curve(disturbed), curve(undisturbed), rtol=0.02)
