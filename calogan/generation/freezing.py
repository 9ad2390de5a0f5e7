"""Freeze a trained generator into graphs that need no Python: operations and constants only."""

import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

from calogan import provenance
from calogan.config import Config, Network
from calogan.errors import ConfigError, ModelError
from calogan.generation import cell_tables, model_folder
from calogan.generation.graphs import write_graph
from calogan.generation.model_folder import ModelDescription
from calogan.networks import rewrites
from calogan.networks.base import GeneratorNetwork
from calogan.networks.families import build_generator


def freeze(weights: Path, config: Config, folder: Path, *, inputs: tuple[Path, ...] = ()) -> ModelDescription:
    """Write a trained generator as a model folder with its float32 network.

    Args:
        weights: file of the generator's weights.
        config: configuration of the training; contains the energy range of the model.
        folder: output folder; created if missing. A model in it is replaced.
        inputs: files the model was made from, for the provenance.
    """
    model = build_generator(config.network)
    model.load_weights(weights)
    files = model_folder.store(folder, _contents(model) | {model_folder.WEIGHTS: weights.read_bytes()})
    return model_folder.write(
        folder,
        ModelDescription(
            name=config.name,
            family=config.network.family,
            latent_size=model.latent_size,
            cell_noise=model.cell_noise,
            energy_range=(config.data.energy_low, config.data.energy_high),
            quantization={},
            header=provenance.header(seed=config.training.seed, inputs=inputs),
            **config.network.model_dump(exclude={"family"}),
            **files,
        ),
    )


def _contents(model: GeneratorNetwork) -> dict[str, bytes]:
    """Contents of the files of a trained generator, in the form that `model_folder.store` expects."""
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        prepare, float32, cells = (Path(scratch) / name for name in ("prepare.pb", "float32.pb", "cells.npz"))
        write_graph(prepare, _prepare, model, energy=(), latent=(model.latent_size,))
        write_network(float32, rewrites.lower(model.network, integer=False))
        networks = {
            "float32": float32.read_bytes(),
            "bfloat16": compute_in_bfloat16(float32.read_bytes()),
            "float16": halve_weights(float32.read_bytes()),
        }
        contents = {model_folder.NETWORKS[precision]: network for precision, network in networks.items()}
        if tables := model.tables():
            cell_tables.write(cells, cell_tables.CellTables(**tables))
            contents[model_folder.CELLS] = cells.read_bytes()
        return contents | {model_folder.PREPARE: prepare.read_bytes()}


def load_generator_network(folder: Path, model: ModelDescription) -> GeneratorNetwork:
    """Load the trained generator of a model as a Keras model, for tasks that a frozen graph cannot do.

    Raises:
        ModelError: the weights are missing or altered, or belong to another version or an unknown family.
    """
    model_folder.check_file(folder, model, model.weights)
    network = Network(family=model.family, width=model.width, depth=model.depth, kernel=model.kernel)
    try:
        generator = build_generator(network)
    except ConfigError as error:
        raise ModelError(f"{folder}: {error}; make the model again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras only warns about variables it did not load
            generator.load_weights(folder / model.weights)
    except (ValueError, UserWarning) as error:
        raise ModelError(
            f"{folder / model.weights}: does not fit the network of this version of calogan; make the model again"
        ) from error
    return generator


def compute_in_bfloat16(graph: bytes) -> bytes:
    """Rewrite a frozen network to bfloat16 with TensorFlow's mixed-precision pass for oneDNN.

    The pass runs here instead of in the session, so that it affects only the network: the parts around it stay
    float32, and bfloat16, like int8, cannot shift the layers' energies.
    """
    with tf.Graph().as_default() as whole:
        (outputs,) = tf.import_graph_def(
            tf.compat.v1.GraphDef.FromString(graph), name="", return_elements=["out_outputs:0"]
        )
        whole.add_to_collection("train_op", outputs.op)  # the rewriter keeps this operation
        meta = tf.compat.v1.train.export_meta_graph(graph=whole)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1
    config.graph_options.rewrite_options.min_graph_nodes = -1
    rewritten = tf_optimizer.OptimizeGraph(config, meta)
    return bytes(rewritten.SerializeToString(deterministic=True))


def halve_weights(graph: bytes) -> bytes:
    """Store the weights of a frozen graph as float16; arithmetic stays float32, as in TFLite's float16 models."""
    source, halved = (tf.compat.v1.GraphDef.FromString(graph) for _ in range(2))
    del halved.node[:]
    for node in source.node:
        tensor = node.attr["value"].tensor
        values = tf.make_ndarray(tensor) if node.op == "Const" and tensor.dtype == tf.float32.as_datatype_enum else None
        if values is None or values.ndim == 0:
            halved.node.add().CopyFrom(node)
            continue
        stored = halved.node.add(op="Const", name=f"{node.name}/float16")
        stored.attr["dtype"].type = tf.float16.as_datatype_enum
        stored.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values.astype(np.float16)))
        read = halved.node.add(op="Cast", name=node.name, input=[stored.name])
        read.attr["SrcT"].type, read.attr["DstT"].type = tf.float16.as_datatype_enum, tf.float32.as_datatype_enum
    return bytes(halved.SerializeToString(deterministic=True))


def _prepare(model: GeneratorNetwork, energy: tf.Tensor, latent: tf.Tensor) -> dict[str, tf.Tensor]:
    features, context = model.prepare(energy, latent)
    return {"features": features, "context": context}


def _network(network: keras.Model, features: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"outputs": network(features, training=False)}


def write_network(path: Path, network: keras.Model) -> None:
    """Freeze the part of a model that is quantized; input and output are nodes `features` and `out_outputs`."""
    write_graph(path, _network, network, features=network.input_shape[1:])
