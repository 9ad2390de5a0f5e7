import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.benchmark.profiling import network_profiles, operation_times
from calogan.generation import model_folder
from calogan.generation.graphs import read_graph
from calogan.reporting import pictures


def product(size: int) -> tf.compat.v1.GraphDef:
    """A graph of one matrix product and one cosine."""
    with tf.Graph().as_default() as graph:
        features = tf.compat.v1.placeholder(tf.float32, (None, size), "features")
        weights = tf.constant(np.eye(size, dtype=np.float32))
        tf.identity(tf.cos(tf.matmul(features, weights)), name="out_outputs")
    return graph.as_graph_def()


@pytest.fixture(scope="module")
def features() -> NDArray[np.float32]:
    return np.ones((256, 1024), np.float32)


def test_the_operations_that_are_run_are_named_longest_first(features: NDArray[np.float32]) -> None:
    times = operation_times(product(1024), {"features": features})
    assert [kind for kind in times if kind.endswith("MatMul")]
    assert "Cos" in times
    assert list(times.values()) == sorted(times.values(), reverse=True)
    assert next(iter(times)).endswith("MatMul")


def test_times_are_per_shower_and_below_the_total(features: NDArray[np.float32]) -> None:
    started = time.perf_counter()
    times = operation_times(product(1024), {"features": features}, rounds=3)
    elapsed = 1000 * (time.perf_counter() - started)
    # 2 * 1024^2 operations a shower: no core does that in a microsecond, nor needs ten milliseconds.
    assert 1e-3 < sum(times.values()) < 10
    assert 3 * len(features) * sum(times.values()) < elapsed


def test_an_int8_network_shows_where_its_time_goes(tiny_model: Path) -> None:
    inputs = {"features": np.zeros((16, 37), np.float32)}
    files = model_folder.read(tiny_model).network_files
    float32, int8 = (operation_times(read_graph(tiny_model / files[p]), inputs) for p in ("float32", "int8"))
    assert not any("Quantize" in kind for kind in float32)
    assert any(kind.startswith("_MklQuantizedConv2D") for kind in int8)
    assert not any(kind in {"Conv2D", "_MklNativeConv2D", "_MklNativeFusedConv2D"} for kind in int8)


def test_three_dimensional_convolutions_are_timed_as_they_generate() -> None:
    """TensorFlow computes something else when it fuses them; generation leaves them as they are."""
    with tf.Graph().as_default() as graph:
        features = tf.compat.v1.placeholder(tf.float32, (None, 4, 4, 4, 8), "features")
        weights = tf.constant(np.random.default_rng(1).standard_normal((3, 3, 3, 8, 8)).astype(np.float32))
        convolved = tf.nn.bias_add(tf.nn.conv3d(features, weights, (1, 1, 1, 1, 1), "SAME"), tf.ones(8))
        tf.identity(tf.nn.relu(convolved), name="out_outputs")
    times = operation_times(graph.as_graph_def(), {"features": np.ones((16, 4, 4, 4, 8), np.float32)})
    assert [kind for kind in times if kind.endswith("Conv3D")]
    assert not [kind for kind in times if "Fused" in kind]


def test_a_model_is_profiled_as_trained_rewritten_and_quantized(tiny_model: Path) -> None:
    profiles = network_profiles(tiny_model)
    assert list(profiles) == ["float32, as trained", "float32", "int8"]
    assert all(sum(times.values()) > 0 for times in profiles.values())
    figure = pictures.operation_times(profiles)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == list(profiles)
    ends = [max(bar.get_x() + bar.get_width() for bars in panel.containers for bar in [bars[row]]) for row in range(3)]
    np.testing.assert_allclose(ends, [sum(times.values()) for times in profiles.values()], rtol=1e-6)
