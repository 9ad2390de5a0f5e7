"""A model as one ONNX file with one flat input and one flat output, as C++ inference code expects.

    input  shape (batch, 1 + latent_size [+ 15,625]): Ep in GeV, the latent numbers, the cell noise
    cells  shape (batch, 15,625), GeV: cell (x, y, z) is number (25 x + y) 25 + z

The random numbers are independent and standard normal; the cell noise is in the order of the cells. The batch is
fixed, so that no shape is computed at run time. Needs onnx and onnxruntime.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from onnx import helper

from calogan import __version__
from calogan.errors import ModelError
from calogan.exporting.base import Floats, Inputs, Source, describe, freeze, splice
from calogan.exporting.graphs import FLOAT, Builder
from calogan.exporting.integer import INTEGER
from calogan.geometry import CELLS, CLIC

PRECISIONS = ("float32", "int8")


def write(source: Source, path: Path, *, batch: int) -> None:
    """Write an ONNX file that computes `batch` showers per call.

    Raises:
        ModelError: ONNX Runtime has no arithmetic for the precision, or an operation cannot be exported.
    """
    if source.precision not in PRECISIONS:
        raise ModelError(
            f"{source.precision} cannot be exported as ONNX, only {' and '.join(PRECISIONS)}; "
            "export it as a SavedModel, or another precision"
        )
    description = source.description
    if description.bands(source.precision):
        raise ModelError(
            f"{source.name} has ranges of activations for each of {len(description.energy_bands) + 1} bands of energy, which "
            "cannot be exported as ONNX; export it as a SavedModel, or float32"
        )
    ends = np.cumsum([1, description.latent_size, CELLS if description.cell_noise else 0])
    frozen = freeze(source)
    with tf.Graph().as_default():
        rows = tf.compat.v1.placeholder(tf.float32, (batch, ends[-1]), "input")
        inputs = {"energy": rows[:, 0], "latent": rows[:, 1 : ends[1]]}
        if description.cell_noise:
            inputs["noise"] = tf.reshape(rows[:, ends[1] :], (batch, *CLIC.shape))
        cells = tf.reshape(splice(frozen, inputs), (batch, CELLS))
        model = Builder(rows, "input", {**FLOAT, **INTEGER}).model(cells, "cells")
    model.producer_name, model.producer_version, model.doc_string = "calogan", __version__, __doc__ or ""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in describe(source).items()}
    helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def run(path: Path, inputs: Inputs, *, optimised: bool = False) -> Floats:
    """Compute showers with ONNX Runtime, shape (n, 25, 25, 25), GeV; n is a multiple of the batch."""
    session = start(path, optimised=optimised)
    (source,) = session.get_inputs()
    rows = np.concatenate([array.reshape(len(array), -1) for array in inputs.arrays().values()], axis=1)
    calls = [session.run(None, {source.name: part})[0] for part in np.split(rows, len(rows) // source.shape[0])]
    return np.concatenate(calls).reshape(-1, *CLIC.shape)


def start(path: Path, *, optimised: bool) -> onnxruntime.InferenceSession:
    """Load a file into ONNX Runtime on one thread, with graph optimisation on, or off as in Geant4's example."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
