"""The arithmetic of networks, and their speed at equal arithmetic: three- against two-dimensional convolutions."""

import bisect
import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from calogan.benchmark.cores import elapsed_ms, one_core
from calogan.generation import freezing
from calogan.generation.graphs import read_graph, session_config
from calogan.geometry import CLIC
from calogan.networks import conv3d, rehm2021, rewrites

_MULTIPLE = 4  # of channels
_FACTORS = [number / 32 for number in range(1, 33)]  # half a step of 64 channels
MAKERS: Mapping[str, Callable[[], keras.Model]] = {
    "conv3d": conv3d.generator_network,
    "rehm2021": rehm2021.generator_network,
    "rehm2021, narrow": lambda: narrowed(rehm2021.generator_network(), multiply_adds(conv3d.generator_network())),
}
NETWORKS = tuple(MAKERS)


def multiply_adds(network: keras.Model) -> int:
    """Multiplications, each with an addition, of the convolutions and matrix products of a network, per shower."""
    return sum(map(_of_layer, network.layers))


def _of_layer(layer: keras.Layer) -> int:
    match layer:
        case layers.Dense():
            return int(np.prod(layer.kernel.shape))
        case layers.Conv2DTranspose():  # every input meets every tap, but for those cut off at the edge
            return int(np.prod(layer.kernel.shape) * np.prod(layer.input.shape[1:-1]))
        case layers.Conv2D() | layers.Conv3D():
            return int(np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:-1]))
    return 0


def narrowed(network: keras.Model, target: int) -> keras.Model:
    """The same layers with fewer channels, so that the arithmetic is as close to the target as multiples of 4 allow.

    Args:
        network: functional model of two-dimensional convolutions; those that output the layers of the calorimeter keep
            their channels.
        target: multiply-adds per shower.
    """
    above = bisect.bisect_left(_FACTORS, target, key=lambda factor: multiply_adds(_scaled(network, factor)))
    nearest = (_scaled(network, factor) for factor in _FACTORS[max(0, above - 1) : above + 1])
    return min(nearest, key=lambda each: abs(multiply_adds(each) - target))


def _scaled(network: keras.Model, factor: float) -> keras.Model:
    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose) and config["filters"] != CLIC.layers:
            config["filters"] = max(_MULTIPLE, _MULTIPLE * round(factor * config["filters"] / _MULTIPLE))
        return type(layer).from_config(config)

    return keras.models.clone_model(network, clone_function=clone)


def time_families(batch: int, *, rounds: int, onednn: bool = True) -> dict[str, float]:
    """Time the networks of `NETWORKS` in float32 on one core, interleaved; returns ms per shower by name.

    The weights are random, which does not affect speed.

    Args:
        batch: showers of a call.
        rounds: number of rounds; one more warms up.
        onednn: whether TensorFlow computes with oneDNN or with Eigen, its own library; a process has one of them, so
            the measurement has its own.
    """
    context = multiprocessing.get_context("spawn")
    with (
        mock.patch.dict(os.environ, TF_ENABLE_ONEDNN_OPTS="1" if onednn else "0"),
        concurrent.futures.ProcessPoolExecutor(1, context) as pool,
    ):
        return pool.submit(_time_families, batch, rounds).result()


def _time_families(batch: int, rounds: int) -> dict[str, float]:
    return time_networks({name: make() for name, make in MAKERS.items()}, batch, rounds=rounds)


def time_networks(networks: Mapping[str, keras.Model], batch: int, *, rounds: int) -> dict[str, float]:
    """Time networks as they are frozen, in float32 on one core, interleaved; returns the median ms per shower by name."""
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        runs = {}
        for number, (name, network) in enumerate(networks.items()):
            path = Path(scratch) / f"{number}.pb"
            freezing.write_network(path, rewrites.lower(network, integer=False))
            features = np.random.default_rng(1).standard_normal((batch, *network.input_shape[1:])).astype(np.float32)
            runs[name] = _runner(path, features)
        with one_core():
            times = [{name: elapsed_ms(run) / batch for name, run in runs.items()} for _ in range(rounds + 1)]
    return {name: statistics.median(each[name] for each in times[1:]) for name in networks}


def _runner(path: Path, features: np.ndarray) -> Callable[[], object]:
    with tf.Graph().as_default() as graph:
        source, outputs = tf.import_graph_def(
            read_graph(path), return_elements=["features:0", "out_outputs:0"], name=""
        )
        session = tf.compat.v1.Session(graph=graph, config=session_config(1, graph))
        return partial(session.make_callable(outputs.op, feed_list=[source]), features)
