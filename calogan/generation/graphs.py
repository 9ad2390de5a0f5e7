"""Frozen TensorFlow graphs: write, read and join them."""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from calogan.errors import ModelError
from calogan.generation.model_folder import ModelDescription


def prepare_graph(folder: Path, model: ModelDescription) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Import the graph before the network into the current graph.

    Returns:
        placeholders of energies and latent numbers; features; context.
    """
    energy = tf.compat.v1.placeholder(tf.float32, (None,), "energy")
    latent = tf.compat.v1.placeholder(tf.float32, (None, model.latent_size), "latent")
    features, context = splice(folder / model.prepare, ("features", "context"), energy=energy, latent=latent)
    return [energy, latent], features, context


def undequantized(outputs: tf.Tensor) -> tf.Tensor:
    """The int8 integers behind the outputs of a network, or the outputs themselves if it computes in floating point.

    The tail, which reads every output anyway, multiplies by the step: this moves a quarter of the bytes.
    """
    source = outputs.op
    while source.type in {"Identity", "Reshape"}:
        source = source.inputs[0].op
    if source.type != "Dequantize" or source.inputs[0].dtype != tf.qint8 or source.get_attr("mode") != b"SCALED":
        return outputs
    return tf.bitcast(source.inputs[0], tf.int8)


def session_config(threads: int, graph: tf.Graph) -> tf.compat.v1.ConfigProto:
    """TensorFlow's settings for a graph that runs one operation at a time, to generate with it or to time it.

    Args:
        threads: number of threads of one operation.
        graph: graph to run: TensorFlow 2.21 computes wrong results when it fuses three-dimensional convolutions for
            oneDNN, so the fusion is disabled for these.
    """
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    if any(operation.type == "Conv3D" for operation in graph.get_operations()):
        config.graph_options.rewrite_options.remapping = RewriterConfig.OFF
    return config


def splice(path: Path, returned: tuple[str, ...], /, **inputs: tf.Tensor) -> list[tf.Tensor]:
    """Import a frozen graph of a model into the current one; returns the tensors with the given names.

    Raises:
        ModelError: the file is not a frozen graph.
    """
    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
        names = [f"out_{name}:0" for name in returned]
        return list(tf.import_graph_def(definition, input_map=inputs, return_elements=names, name=path.name))
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: is not a graph of this package ({error}); make the model again") from error


_Part = Callable[..., dict[str, tf.Tensor]]


def write_graph(path: Path, function: _Part, model: keras.Model, **shapes: tuple[int, ...]) -> None:
    """Freeze function(model, **inputs) -> {name: output}; the nodes of inputs and outputs have these names."""
    specs = {name: tf.TensorSpec((None, *shape), tf.float32, name=name) for name, shape in shapes.items()}

    @tf.function(input_signature=list(specs.values()))  # type: ignore[untyped-decorator]
    def traced(*tensors: tf.Tensor) -> list[tf.Tensor]:
        outputs = function(model, **dict(zip(specs, tensors, strict=True)))
        return [tf.identity(tensor, name=f"out_{name}") for name, tensor in outputs.items()]

    frozen = convert_variables_to_constants_v2(traced.get_concrete_function(), lower_control_flow=True)
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString(deterministic=True))


def read_graph(path: Path) -> tf.compat.v1.GraphDef:
    """Read a frozen GraphDef."""
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    return definition
