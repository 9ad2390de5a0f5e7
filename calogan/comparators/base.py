"""What the comparators have in common: a network that another runtime computes, and how that runtime is given it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan.generator import BATCH

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


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Close standard output and error to native code and to Python meanwhile; exceptions are raised all the same."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        for target, source in enumerate(kept, start=1):
            os.dup2(source, target)
            os.close(source)
        os.close(nowhere)
