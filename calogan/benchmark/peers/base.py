"""What the comparators have in common: a network that another runtime computes, and how that runtime is given it."""

from pathlib import Path
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan.generation.generator import BATCH

Floats: TypeAlias = NDArray[np.float32]


def export(network: keras.Model, folder: Path) -> Path:
    """Write a network as a SavedModel whose only signature, `serve`, takes batches of fixed size.

    Runtimes plan their memory and choose their kernels by the shape, so it is not left open.
    """
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(
        "serve",
        lambda features: {"outputs": network(features, training=False)},
        input_signature=[tf.TensorSpec((BATCH, *network.input_shape[1:]), tf.float32, name="features")],
    )
    archive.write_out(folder, verbose=False)
    return folder


def batches(features: Floats) -> list[Floats]:
    """Divide features, shape (n, k), into whole batches; the last one is filled up from the start.

    The lowest and the highest value of a batch do not change by rows that are there twice.
    """
    rows = -(-len(features) // BATCH) * BATCH
    return np.split(np.resize(features, (rows, *features.shape[1:])), rows // BATCH)
