"""The most multiply-adds that a core can do, to say how well a network uses it."""

import statistics
import time
from typing import Literal

import tensorflow as tf

from calogan.benchmark.cores import one_core

_SIZE = 2048  # of the matrices: 24 MB in bfloat16, so that arithmetic and not memory limits the product
_ROUNDS = 7


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
