"""The arithmetic of a network, and the most that a core can do: their ratio says how well the core is used."""

import statistics
import time
from typing import Literal

import keras
import tensorflow as tf
from keras import layers

from calogan.benchmark.cores import one_core

_SIZE = 2048  # of the matrices: 24 MB in bfloat16, so that arithmetic and not memory limits the product
_ROUNDS = 7


def multiply_adds(network: keras.Model) -> int:
    """Multiplications, each with an addition, of a forward pass for one input.

    Counts dense layers and convolutions. The result of a training step of n inputs is 3 n times that: a forward pass, and a
    backward pass to the inputs and to the weights.
    """
    return sum(_of_layer(layer) for layer in network.layers)


def peak(precision: Literal["float32", "bfloat16"]) -> float:
    """Multiply-adds per second of one core in the product of two large matrices, the median of rounds."""
    with one_core():
        one, other = (tf.cast(tf.random.normal((_SIZE, _SIZE), seed=seed), precision) for seed in (1, 2))
        product = tf.function(tf.matmul)
        product(one, other).numpy()
        seconds = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            product(one, other).numpy()
            seconds.append(time.perf_counter() - started)
    return _SIZE**3 / statistics.median(seconds)


def _of_layer(layer: keras.Layer) -> int:
    if isinstance(layer, layers.Dense):
        return int(layer.kernel.shape.num_elements())
    if not isinstance(layer, layers.Conv2D | layers.Conv3D | layers.Conv2DTranspose):
        return 0
    # Each weight of a transposed convolution is used at every position of its input, of the others at every position of
    # their output.
    positions = (layer.input if isinstance(layer, layers.Conv2DTranspose) else layer.output).shape[1:-1]
    count = int(layer.kernel.shape.num_elements())
    for size in positions:
        count *= size
    return count
