"""A model as a TensorFlow SavedModel: operations and constants only, so TensorFlow alone can load it.

The file has one graph. Its signature `generate`, also the default, draws latent numbers and cell noise from a seed, with
TensorFlow's counter-based generator (Philox). The signature `from_latent` takes random numbers from the caller.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from calogan.exporting.base import DESCRIPTION, Floats, Inputs, Source, describe, freeze, splice
from calogan.geometry import CLIC

DEFAULT, GENERATE, FROM_LATENT = "serving_default", "generate", "from_latent"
_EXTRA = "assets.extra"  # the folder of the format for files that TensorFlow itself does not read
_LATENT_STREAM, _NOISE_STREAM = 0, 1  # second half of the key of the random numbers; the first half is the seed


def write(source: Source, folder: Path) -> None:
    """Write a SavedModel into a new folder."""
    frozen = freeze(source)
    with tf.Graph().as_default() as graph:
        energy = tf.compat.v1.placeholder(tf.float32, (None,), "energy")
        seed = tf.compat.v1.placeholder(tf.int64, (), "seed")
        shapes: dict[str, tuple[int, tuple[int, ...]]] = {"latent": (_LATENT_STREAM, (source.description.latent_size,))}
        if source.description.cell_noise:
            shapes["noise"] = (_NOISE_STREAM, CLIC.shape)
        tensors = {"energy": energy}
        for name, (stream, shape) in shapes.items():
            numbers = _normal(seed, stream, (tf.size(energy), *shape))
            tensors[name] = tf.compat.v1.placeholder_with_default(numbers, (None, *shape), name)
        showers = splice(frozen, tensors)
        meta = tf.compat.v1.train.export_meta_graph(graph=graph, clear_devices=True)
    meta.meta_info_def.tags.append("serve")
    from_seed = {"energy": energy, "seed": seed}
    for name, inputs in {DEFAULT: from_seed, GENERATE: from_seed, FROM_LATENT: tensors}.items():
        _sign(meta.signature_def[name], inputs, {"showers": showers})
    folder.mkdir()
    whole = SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
    (folder / "saved_model.pb").write_bytes(whole.SerializeToString(deterministic=True))
    (folder / _EXTRA).mkdir()
    (folder / _EXTRA / DESCRIPTION).write_text(json.dumps(describe(source), indent=1) + "\n", encoding="utf-8")


def run(folder: Path, inputs: Inputs) -> Floats:
    """Load a SavedModel and compute showers, shape (n, 25, 25, 25), GeV."""
    model = tf.saved_model.load(str(folder))
    tensors = {name: tf.constant(array) for name, array in inputs.arrays().items()}
    return np.asarray(model.signatures[FROM_LATENT](**tensors)["showers"])


def _sign(signature: SignatureDef, inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> None:
    signature.method_name = "tensorflow/serving/predict"
    for side, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name, tensor in tensors.items():
            kind, shape = tensor.dtype.as_datatype_enum, tensor.shape.as_proto()
            side[name].CopyFrom(TensorInfo(name=tensor.name, dtype=kind, tensor_shape=shape))


def _normal(seed: tf.Tensor, stream: int, shape: tuple[tf.Tensor | int, ...]) -> tf.Tensor:
    # Rows take consecutive counters of one sequence, so row i does not depend on the number of rows.
    key = tf.stack([seed, stream])
    return tf.random.stateless_normal(shape, key, alg="philox")
