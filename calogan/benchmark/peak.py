"""The most multiply-adds that a core can do, and the bytes it can move, to say how well a network uses it."""

import statistics
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from calogan.benchmark.cores import elapsed_ms, one_core
from calogan.generation.graphs import session_config

_SIZE = 2048  # of the matrices: 24 MB in bfloat16, so that arithmetic and not memory limits the product
_IMAGES, _SIDE, _CHANNELS, _KERNEL = 32, 16, 256, 3  # of the int8 convolution, 4.8e9 multiply-adds
_STREAMED = 128 * 2**20  # bytes, more than any cache of a core holds
_ROUNDS = 7


def peak(precision: Literal["float32", "bfloat16", "int8"]) -> float:
    """Multiply-adds per second of one core in a large product or, for int8, convolution; the median of rounds.

    The runtime is that of the models: TensorFlow with oneDNN.
    """
    return _convolution() if precision == "int8" else _product(precision)


def bandwidth() -> float:
    """Bytes per second that one core reads and writes when it copies memory, the median of rounds."""
    source, target = (np.ones(_STREAMED // 8) for _ in range(2))
    with one_core():
        seconds = _median_s(lambda: np.copyto(target, source))
    return 2 * _STREAMED / seconds


def _product(precision: str) -> float:
    with one_core():
        one, other = (tf.cast(tf.random.normal((_SIZE, _SIZE), seed=seed), precision) for seed in (1, 2))
        product = tf.function(tf.matmul)
        return _SIZE**3 / _median_s(lambda: product(one, other).numpy())


def _convolution() -> float:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 128, (_IMAGES, _SIDE, _SIDE, _CHANNELS), np.uint8)
    weights = rng.integers(-127, 128, (_KERNEL, _KERNEL, _CHANNELS, _CHANNELS), np.int8)
    with tf.Graph().as_default() as graph:
        one = np.ones(_CHANNELS, np.float32)
        result = tf.raw_ops.QuantizedConv2DWithBiasAndRequantize(
            # A placeholder, so that the graph optimizer does not compute it beforehand.
            input=tf.bitcast(tf.compat.v1.placeholder_with_default(images, images.shape), tf.quint8),
            filter=tf.bitcast(weights, tf.qint8),
            bias=np.zeros(_CHANNELS, np.float32),
            min_input=0.0,
            max_input=1.0,
            min_filter=-one,
            max_filter=one,
            min_freezed_output=-100.0,
            max_freezed_output=100.0,
            strides=[1, 1, 1, 1],
            padding="SAME",
            out_type=tf.qint8,
        )
        session = tf.compat.v1.Session(graph=graph, config=session_config(1, graph))
        run = session.make_callable(result.output.op)
    with one_core():
        seconds = _median_s(run)
    return _IMAGES * _SIDE**2 * _KERNEL**2 * _CHANNELS**2 / seconds


def _median_s(call: Callable[[], Any]) -> float:
    """Seconds of a call, the median of rounds after one that warms up."""
    return statistics.median([elapsed_ms(call) / 1000 for _ in range(_ROUNDS + 1)][1:])
