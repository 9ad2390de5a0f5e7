"""A model as a TensorFlow SavedModel: operations and constants only, nothing but TensorFlow to load it.

One graph. Its signature `generate`, also the default, draws latent numbers and cell noise inside, from a seed, with
TensorFlow's counter-based generator (Philox); whoever has random numbers feeds them to `from_latent` instead.
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
_EXTRA = "assets.extra"  # where the format keeps what only people and other programs read
_LATENT_STREAM, _NOISE_STREAM = 0, 1  # second half of the key of the random numbers; the seed is the first


def write(source: Source, folder: Path) -> None:
    """Write a SavedModel into a folder that is not there."""
    frozen = freeze(source)
    with tf.Graph().as_default() as graph:
        energy = tf.compat.v1.placeholder(tf.float32, (None,), "energy")
        seed = tf.compat.v1.placeholder(tf.int64, (), "seed")
        shapes: dict[str, tuple[int, tuple[int, ...]]] = {"latent": (_LATENT_STREAM, (source.description.latent_size,))}
        if source.description.cell_noise:
            shapes["noise"] = (_NOISE_STREAM, CLIC.shape)
        fed = {"energy": energy}
        for name, (stream, shape) in shapes.items():
            drawn = _normal(seed, stream, (tf.size(energy), *shape))
            fed[name] = tf.compat.v1.placeholder_with_default(drawn, (None, *shape), name)
        showers = splice(frozen, fed)
        meta = tf.compat.v1.train.export_meta_graph(graph=graph, clear_devices=True)
    meta.meta_info_def.tags.append("serve")
    seeded = {"energy": energy, "seed": seed}
    for name, inputs in {DEFAULT: seeded, GENERATE: seeded, FROM_LATENT: fed}.items():
        _sign(meta.signature_def[name], inputs, {"showers": showers})
    folder.mkdir()
    whole = SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
    (folder / "saved_model.pb").write_bytes(whole.SerializeToString(deterministic=True))
    (folder / _EXTRA).mkdir()
    (folder / _EXTRA / DESCRIPTION).write_text(json.dumps(describe(source), indent=1) + "\n", encoding="utf-8")


def run(folder: Path, inputs: Inputs) -> Floats:
    """Load what was written and compute showers, shape (n, 25, 25, 25), GeV."""
    loaded = tf.saved_model.load(str(folder))
    fed = {name: tf.constant(array) for name, array in inputs.arrays().items()}
    return np.asarray(loaded.signatures[FROM_LATENT](**fed)["showers"])


def _sign(signature: SignatureDef, inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> None:
    signature.method_name = "tensorflow/serving/predict"
    for told, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name, tensor in tensors.items():
            kind, shape = tensor.dtype.as_datatype_enum, tensor.shape.as_proto()
            told[name].CopyFrom(TensorInfo(name=tensor.name, dtype=kind, tensor_shape=shape))


def _normal(seed: tf.Tensor, stream: int, shape: tuple[tf.Tensor | int, ...]) -> tf.Tensor:
    # Row after row is taken from one sequence of counters: row i is the same however many follow.
    key = tf.stack([seed, stream])
    return tf.random.stateless_normal(shape, key, alg="philox")
