"""The workers of a training: rows, steps and agreement; with real processes where necessary."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calogan.errors import TrainingError
from calogan.training.workers import ALONE, Gradients, Workers


@given(st.integers(1, 300), st.integers(1, 12))
def test_every_row_has_one_worker_and_all_have_about_as_many(n: int, size: int) -> None:
    n = max(n, size)
    parts = [list(range(n))[Workers(rank, size).rows(n)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_with_fewer_rows_than_workers_is_refused() -> None:
    with pytest.raises(
        TrainingError, match="a batch of 2 cannot be shared by 3 workers; use fewer, or raise batch_size"
    ):
        Workers(0, 3).rows(2)


def test_only_the_first_is_the_chief() -> None:
    assert ALONE.chief
    assert [Workers(rank, 3).chief for rank in range(3)] == [True, False, False]


class Line:
    """A straight line fitted by Adam with clipped gradients: the parts of a real step."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.Adam(0.1)
        self.optimizer.build(self.model.trainable_variables)

    def differentiate(self, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(x)[:, 0] - y))
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def in_one(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        loss, gradients = self.differentiate(x, y)
        clipped, _ = tf.clip_by_global_norm(gradients, 0.5)
        self.optimizer.apply_gradients(zip(clipped, self.model.trainable_variables, strict=True))
        return loss

    def step(self, workers: Workers, *, compiled: bool) -> Any:
        variables = self.model.trainable_variables
        return workers.step(self.differentiate, self.optimizer, variables, clip_norm=0.5, compiled=compiled)

    def values(self) -> list[NDArray[np.float32]]:
        return [variable.numpy() for variable in [*self.model.variables, *self.optimizer.variables]]


X = tf.constant(np.random.default_rng(1).standard_normal((7, 3)), tf.float32)
Y = tf.reduce_sum(X, axis=1)


@pytest.mark.parametrize("compiled", [True, False])
def test_alone_a_step_is_the_one_graph_it_would_be_without_workers(compiled: bool) -> None:
    plain, line = Line(), Line()
    expected: Any = tf.function(plain.in_one, jit_compile=compiled)
    step = line.step(ALONE, compiled=compiled)
    for _ in range(3):
        assert float(step(X, Y)) == float(expected(X, Y))
    for before, after in zip(plain.values(), line.values(), strict=True):
        np.testing.assert_array_equal(before, after)
    graphs = [[op.type for op in f.get_concrete_function(X, Y).graph.get_operations()] for f in (expected, step)]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("compiled", [True, False])
def test_with_a_strategy_the_halves_make_the_same_step(compiled: bool) -> None:
    plain, line = Line(), Line()
    one = Workers(0, 1, tf.distribute.OneDeviceStrategy("/cpu:0"))
    step = line.step(one, compiled=compiled)
    for _ in range(3):
        assert float(step(X, Y)) == pytest.approx(float(plain.in_one(X, Y)), rel=1e-5)
    for before, after in zip(plain.values(), line.values(), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-6)


def test_alone_nothing_has_to_be_agreed_on() -> None:
    line = Line()
    before = line.values()
    ALONE.mirror([line.model, line.optimizer])
    for old, new in zip(before, line.values(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert ALONE.share(0.123456789012345) == 0.123456789012345
    assert np.isnan(ALONE.share(np.nan))
    ALONE.agree(3, "epochs")


# What each of several processes does: a few epochs of every stage on its rows, from weights that only the chief has.
SCRIPT = """
import json, sys
import keras, numpy as np
from calogan.training import workers
me = workers.meet() if int(sys.argv[1]) > 1 else workers.ALONE
from keras import layers, ops
from calogan.config import Network, Training
from calogan.errors import TrainingError
from calogan.events import packaged_sample, read_events
from calogan.networks.families import build_generator
from calogan.networks.stages import ADVERSARIAL, FLOW, SHAPE, SHAPE_FLOW, WARMUP
from calogan.training.adversarial import AdversarialStage
from calogan.training.likelihood import shape_flow_stage, ShapeStage, flow_stage
from calogan.training.run import start_run

keras.utils.set_random_seed(1 if me.chief else 2)
model, numbers = build_generator(Network(width=8)), Training(batch_size=25)
showers = keras.Input((25, 25, 25))
x = layers.Dense(4, "relu")(layers.Flatten()(layers.AveragePooling2D(5)(showers)))
answers = [layers.Dense(1, activation="sigmoid")(x), layers.Dense(1)(x), ops.sum(showers, axis=(1, 2, 3))[:, None]]
discriminator = keras.Model(showers, answers)
events = read_events(packaged_sample())[:50]
run = start_run(model, events, numbers, me)
run.networks["discriminator"] = discriminator
stages = [
    flow_stage(FLOW, run),
    ShapeStage(SHAPE, run),
    shape_flow_stage(SHAPE_FLOW, run),
    AdversarialStage(WARMUP, run),
    AdversarialStage(ADVERSARIAL, run),
]
curve = []
for number, stage in enumerate(stages):
    for epoch in range(2):
        me.mirror([model, *run.networks.values(), *(part for stage in stages for part in stage.state.values())])
        curve.append(stage.run_epoch(epoch, np.random.default_rng([number, epoch])))
dropout = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5)])
me.mirror([dropout])
try:
    me.agree(3 + me.rank, "epochs")
except TrainingError as error:
    refused = str(error)
else:
    refused = ""
outcome = {"refused": refused, "rank": me.rank, "curve": curve, "shared": me.share(0.1 + me.rank)}
outcome["sums"] = [float(ops.sum(ops.abs(variable))) for variable in model.variables]
outcome["seed"] = [ops.convert_to_numpy(variable).tolist() for variable in dropout.variables]
print("OUTCOME" + json.dumps(outcome))
"""


def in_processes(size: int, folder: Path) -> list[dict[str, Any]]:
    script = folder / "work.py"
    script.write_text(SCRIPT)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
    cluster = {"worker": [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]}
    for listener in listeners:
        listener.close()
    processes = []
    for rank in range(size):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
        limits = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment = os.environ | limits | ({"TF_CONFIG": config} if size > 1 else {})
        command = [sys.executable, str(script), str(size)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outcomes = []
    for process in processes:
        output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors[-3000:]
        outcomes.append(json.loads(output.partition("OUTCOME")[2]))
    return outcomes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    (alone,) = in_processes(1, tmp_path)
    first, second = in_processes(2, tmp_path)
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["curve"] == second["curve"]
    assert first["sums"] == second["sums"]
    assert first["shared"] == second["shared"] == 0.1
    assert first["refused"] == ""
    assert second["refused"].startswith("worker 1 finds 4 epochs, the first worker 3; put it on storage")
    (one,), (other,) = first["seed"], second["seed"]
    assert other == [one[0] + 1, one[1]]
    flattened = [
        np.array([value for epoch in outcome["curve"] for value in epoch.values()]) for outcome in (alone, first)
    ]
    np.testing.assert_allclose(flattened[1], flattened[0], rtol=1e-3)
    np.testing.assert_allclose(first["sums"], alone["sums"], rtol=1e-3, atol=1e-4)
