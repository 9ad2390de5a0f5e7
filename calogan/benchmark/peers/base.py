"""Common parts of the comparators: export of a network to another runtime, and batches for it."""

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

    The size is fixed because runtimes plan their memory and choose their kernels by the shape.
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
    """Divide features, shape (n, k), into full batches; the last one is filled up with rows from the start.

    Repeated rows do not change the range of the features over all batches.
    """
    rows = -(-len(features) // BATCH) * BATCH
    return np.split(np.resize(features, (rows, *features.shape[1:])), rows // BATCH)
