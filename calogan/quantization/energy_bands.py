"""An integer network with separate ranges of activations for bands of the primary energy.

The published networks multiply their latent numbers by Ep, so that activations at 500 GeV are 250 times those at 2 GeV. An
integer tensor has one scale: with ranges for all energies together, only the highest bits of a low-energy shower would
remain. So the network is calibrated in every band, and has an input, `band`, that selects the ranges. Weights are the same
in all bands. At low energies biases nearly cancel, and rounding leaves too much energy: the output of each band is scaled so
that its energy is that of the float32 network.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.framework.tensor_pb2 import TensorProto

from calogan.errors import QuantizationError

BAND = "band"  # the input of the merged network
_CONSTANTS = ("Const", "HostConst")
_BIAS = 2  # number of the input
_RUN = 64  # showers at a time


def within(energy_range: tuple[float, float], boundaries: Sequence[float]) -> tuple[float, ...]:
    """The boundaries between bands that lie in the range of a model, GeV."""
    low, high = energy_range
    return tuple(energy for energy in boundaries if low < energy < high)


def spread(low: float, high: float, n: int) -> NDArray[np.float32]:
    """Energies to calibrate a band with, shape (n,), GeV."""
    return np.geomspace(low, high, n).astype(np.float32)


def run(graph: tf.compat.v1.GraphDef, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of a quantized network, shape (n, ...), for inputs of shape (n, k)."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph, name="")
        parts = (features[start : start + _RUN] for start in range(0, len(features), _RUN))
        return np.concatenate([session.run("out_outputs:0", {"features:0": part}) for part in parts])


def scale(graph: tf.compat.v1.GraphDef, factor: float) -> tf.compat.v1.GraphDef:
    """A quantized network whose outputs are multiplied by a factor."""
    scaled = tf.compat.v1.GraphDef.FromString(graph.SerializeToString())
    last = next(node for node in scaled.node if node.name == "out_outputs")
    constant = scaled.node.add(op="Const", name="factor")
    constant.attr["dtype"].type = tf.float32.as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(factor)))
    product = scaled.node.add(op="Mul", name="scaled", input=[last.input[0], constant.name])
    product.attr["T"].type = tf.float32.as_datatype_enum
    last.input[0] = product.name
    return scaled


def merge(graphs: Sequence[tf.compat.v1.GraphDef]) -> tf.compat.v1.GraphDef:
    """Merge networks that differ in their constants only into one with the input `band`, the number of the network.

    Without that input it computes like the last network.

    Args:
        graphs: the same network quantized for each band, from the lowest energies to the highest.

    Raises:
        QuantizationError: they differ in more than constants.
    """
    constants = [{node.name: node for node in graph.node if node.op in _CONSTANTS} for graph in graphs]
    nodes = [[node for node in graph.node if node.op not in _CONSTANTS] for graph in graphs]
    names = [{node.name: number for number, node in enumerate(each)} for each in nodes]
    merged = tf.compat.v1.GraphDef(versions=graphs[0].versions)
    _add_band(merged, len(graphs))
    added: dict[tuple[tuple[str, ...], bool], str] = {}  # the constant that stands for some of the graphs' constants
    for same in itertools.zip_longest(*nodes):
        outlines = [_outline(node, own) for node, own in zip(same, names, strict=True)]
        if outlines.count(outlines[0]) < len(graphs):
            raise QuantizationError(
                "Intel Neural Compressor made networks of different structure for two bands of energy"
            )
        node = merged.node.add()
        node.CopyFrom(same[0])
        for number, name in enumerate(node.input):
            if name not in constants[0]:
                continue
            key = tuple(each.input[number] for each in same)
            # TensorFlow keeps the scaled form of a constant bias, although its scale changes with the band.
            varies = number == _BIAS and "WithBias" in node.op
            if (key, varies) not in added:
                tensors = [own[name].attr["value"].tensor for own, name in zip(constants, key, strict=True)]
                added[key, varies] = _add_constant(merged, f"c{len(added)}", tensors, constants[0][name], varies=varies)
            node.input[number] = added[key, varies]
    return merged


def _outline(node: tf.compat.v1.NodeDef | None, names: Mapping[str, int]) -> tuple[object, ...]:
    """What must be the same in all bands: the operation and which nodes it reads, constants apart."""
    if node is None:
        return ()
    return node.op, *(names.get(name.partition(":")[0]) for name in node.input)


def _add_band(graph: tf.compat.v1.GraphDef, count: int) -> None:
    for name, value in (("default", count - 1), ("axis", 0)):
        constant = graph.node.add(op="Const", name=f"{BAND}/{name}")
        constant.attr["dtype"].type = tf.int32.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(value)))
    band = graph.node.add(op="PlaceholderWithDefault", name=BAND, input=[f"{BAND}/default"])
    band.attr["dtype"].type = tf.int32.as_datatype_enum
    band.attr["shape"].shape.SetInParent()


def _add_constant(
    graph: tf.compat.v1.GraphDef,
    name: str,
    tensors: Sequence[TensorProto],
    first: tf.compat.v1.NodeDef,
    *,
    varies: bool,
) -> str:
    """Add a constant, or where it is not the same in all bands, the choice of one; returns its name."""
    constant = graph.node.add()
    constant.CopyFrom(first)
    constant.name = name
    if not varies and all(tensor == tensors[0] for tensor in tensors):
        return name
    dtype = tf.as_dtype(tensors[0].dtype)
    values = np.stack([tf.make_ndarray(tensor) for tensor in tensors])
    constant.op = "Const"
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values, dtype))
    gather = graph.node.add(op="GatherV2", name=f"{name}/{BAND}", input=[name, BAND, f"{BAND}/axis"])
    for attribute, kind in (("Tparams", dtype), ("Tindices", tf.int32), ("Taxis", tf.int32)):
        gather.attr[attribute].type = kind.as_datatype_enum
    return str(gather.name)
