"""One call of Intel Neural Compressor: a float32 network and a configuration -> a graph that is as configured."""

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from calogan import provenance
from calogan.config import Quantization
from calogan.errors import QuantizationError
from calogan.quantization.operations import ARITHMETIC, count_weight_bits

_BATCH = 16
_NARROW_BITS = 7
_KINDS = ((layers.Dense, "dense"), (layers.Conv2D | layers.Conv2DTranspose | layers.Conv3D, "convolution"))
# What the compressor calls a precision, and the type of TensorFlow that the operation then has.
_KEPT = {"float32": ("fp32", tf.float32), "bfloat16": ("bf16", tf.bfloat16)}


def name_operations(network: keras.Model) -> dict[str, keras.Layer]:
    """The operations of a lowered network that can be quantized, by name.

    A name is the kind of the layer and its number among that kind in the order of the layers, such as `dense 1` or
    `convolution 4`: the same for every training of a family, unlike the names Keras gives.
    """
    operations: dict[str, keras.Layer] = {}
    for kinds, name in _KINDS:
        of_kind = [layer for layer in network.layers if isinstance(layer, kinds)]
        operations |= {f"{name} {number}": layer for number, layer in enumerate(of_kind, start=1)}
    return operations


def compress(network: keras.Model, features: NDArray[np.float32], config: Quantization) -> tf.compat.v1.GraphDef:
    """Quantize a lowered network to int8; on a processor without integer instructions with weights of 7 bits.

    Args:
        network: from `rewrites.lower`; its layers are renamed.
        features: what it is calibrated with, shape (n, k).
        config: the configuration to try.

    Raises:
        QuantizationError: the configuration names an operation that is not there, the compressor failed or gave
            nothing back, or what it gave back is not what was asked for.
    """
    # The compressor calibrates by reading back what TensorFlow prints to file descriptor 2. It takes that
    # descriptor from sys.stderr when it is imported, where a notebook or a test has put something else.
    with contextlib.redirect_stderr(sys.__stderr__), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # imported by version 3.10
        from neural_compressor import tensorflow as compressor  # noqa: PLC0415 - takes seconds

    scopes = _name_scopes(network, config)
    loader = _CalibrationLoader(features)
    narrow = not provenance.has_integer_instructions(provenance.cpu()["isa"])
    reduced = _weights_of_7_bits() if narrow else contextlib.nullcontext()
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch, _no_warnings_of_deprecation(), reduced:
        # It makes this folder, by default in the working directory, which may be read-only.
        compressor.utils.TFConfig.global_config["workspace_path"] = str(Path(scratch) / "workspace")
        saved = str(Path(scratch) / "float32")
        network.export(saved, verbose=False)
        nodes = _find_nodes(compressor.utils.Model(saved).graph_def, scopes)
        try:
            settings = _settings(compressor, config, nodes)
            compressed = compressor.quantize_model(saved, settings, loader, calib_iteration=len(loader))
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, tf.errors.OpError) as error:
            raise QuantizationError(f"Intel Neural Compressor failed on this network: {error}") from error
        if compressed is None:
            raise QuantizationError("Intel Neural Compressor gave no model back for this configuration")
        _check(compressed.graph_def, config, nodes)
        if narrow and count_weight_bits(compressed.graph_def) > _NARROW_BITS:
            raise QuantizationError(
                "Intel Neural Compressor gave 8-bit weights, whose sums saturate on a processor without AVX512_VNNI or "
                "AVX_VNNI; quantize on one that has it"
            )
        definition = hand_on_integers(compressed.graph_def)
        return _with_names(definition, compressed.input_tensor_names[0], compressed.output_tensor_names[0])


@contextlib.contextmanager
def _weights_of_7_bits() -> Iterator[None]:
    """Let the compressor spread weights over 7 bits with their sign instead of 8.

    Without AVX512_VNNI or AVX_VNNI, oneDNN adds the products of two activations and weights in 16 bits, which saturate
    unless weights are at most 64. The compressor has the number of bits as an argument, but no setting for it.
    """
    from neural_compressor.tensorflow.quantization.utils.quantize_graph_common import (  # noqa: PLC0415 - takes seconds
        QuantizeGraphHelper as Helper,
    )

    original = Helper.generate_quantized_weight_node

    def reduced(operation: str, weights: Any, per_channel: bool, _: float, *others: Any) -> Any:
        return original(operation, weights, per_channel, 6.0, *others)  # bits beside the sign

    Helper.generate_quantized_weight_node = staticmethod(reduced)
    try:
        yield
    finally:
        Helper.generate_quantized_weight_node = staticmethod(original)


@contextlib.contextmanager
def _no_warnings_of_deprecation() -> Iterator[None]:
    """Let TensorFlow not say that what the compressor calls is deprecated."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _name_scopes(network: keras.Model, config: Quantization) -> dict[str, str]:
    """Rename the layers of operations, so that their nodes can be identified; names of operations -> names of layers."""
    operations = name_operations(network)
    unknown = sorted({*config.keep_float32, *config.keep_bfloat16} - set(operations))
    if unknown:
        raise QuantizationError(
            f"this network has no operation {', '.join(map(repr, unknown))}; it has {', '.join(operations)}"
        )
    for name, layer in operations.items():
        layer.name = f"{name.replace(' ', '_')}_of_{len(operations)}"
    return {name: layer.name for name, layer in operations.items()}


def _find_nodes(definition: tf.compat.v1.GraphDef, scopes: Mapping[str, str]) -> dict[str, str]:
    """Find the node of each operation: the one in the scope of its layer, to whose name Keras may add a number."""
    arithmetic = [node.name for node in definition.node if node.op in ARITHMETIC]
    nodes: dict[str, str] = {}
    for name, scope in scopes.items():
        node = next((node for node in arithmetic if f"{scope}_" in node.replace("/", "_")), None)
        if node is None:
            raise QuantizationError(
                f"{name} is not among the operations of the exported network ({', '.join(arithmetic) or 'it has none'}); "
                "this version of TensorFlow or Keras names them in another way than calogan expects"
            )
        nodes[name] = node
    return nodes


def _settings(compressor: Any, config: Quantization, nodes: Mapping[str, str]) -> Any:
    settings = compressor.StaticQuantConfig(
        weight_granularity=config.granularity, act_algorithm=config.algorithm, weight_algorithm="minmax"
    )
    for precision, (dtype, _) in _KEPT.items():
        for name in getattr(config, f"keep_{precision}"):
            settings.set_local(nodes[name], compressor.StaticQuantConfig(weight_dtype=dtype, act_dtype=dtype))
    return settings if config.smooth is None else [compressor.SmoothQuantConfig(alpha=config.smooth), settings]


def _check(definition: tf.compat.v1.GraphDef, config: Quantization, nodes: Mapping[str, str]) -> None:
    """Make sure that what was to be kept was kept, and smoothed what was to be smoothed."""
    by_name = {node.name: node for node in definition.node}
    for precision, (_, dtype) in _KEPT.items():
        for name in getattr(config, f"keep_{precision}"):
            node = by_name.get(nodes[name])
            if node is None or node.attr["T"].type != dtype.as_datatype_enum:
                actual = "int8" if node is None else tf.as_dtype(node.attr["T"].type).name
                raise QuantizationError(
                    f"{name} was to be kept in {precision}, but Intel Neural Compressor made it {actual}; "
                    "it computes bfloat16 only on processors that do (AVX512_BF16)"
                )
    if config.smooth is not None and not any("scale_mul" in name for name in by_name):
        raise QuantizationError("SmoothQuant was asked for, but Intel Neural Compressor scaled no activation")


def hand_on_integers(definition: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Reshape 8-bit numbers as they stand, where the compressor turns them into float32 and back for it.

    It does not know then that they came out of a ReLU, and makes 7 bits of them. What is left over stays in the graph.
    """
    result = tf.compat.v1.GraphDef.FromString(definition.SerializeToString())
    nodes = {node.name: node for node in result.node}
    for quantize in [node for node in result.node if node.op == "QuantizeV2"]:
        reshape = nodes[_bare(quantize.input[0])]
        dequantize = nodes[_bare(reshape.input[0])] if reshape.op == "Reshape" else reshape
        users = [node for node in result.node if quantize.name in map(_bare, node.input)]
        if dequantize.op != "Dequantize" or not all(node.op.startswith("QuantizedConv2D") for node in users):
            continue
        source, low, high = dequantize.input
        for node in result.node:
            if node.op == "Shape" and _bare(node.input[0]) == dequantize.name:  # from which the new shape is made
                node.input[0] = source
                node.attr["T"].CopyFrom(dequantize.attr["T"])
        whole = result.node.add(op="Reshape", name=f"{quantize.name}/whole", input=[source, reshape.input[1]])
        whole.attr["T"].CopyFrom(dequantize.attr["T"])
        whole.attr["Tshape"].CopyFrom(reshape.attr["Tshape"])
        handed = {quantize.name: whole.name, f"{quantize.name}:1": low, f"{quantize.name}:2": high}
        for node in users:
            node.input[:] = [handed.get(name, name) for name in node.input]
            node.attr["Tinput"].CopyFrom(dequantize.attr["T"])
    return result


def _bare(name: str) -> str:
    """Name of the node that an input, "name", "name:output" or "^name", comes from."""
    return name.lstrip("^").partition(":")[0]


class _CalibrationLoader:
    """Batches as the compressor takes them: (input, label), with a batch size."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._features = features
        self.batch_size = min(_BATCH, len(features))

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        for start in range(0, len(self._features) - self.batch_size + 1, self.batch_size):
            yield self._features[start : start + self.batch_size], 0

    def __len__(self) -> int:
        return len(self._features) // self.batch_size


def _with_names(definition: tf.compat.v1.GraphDef, features: str, outputs: str) -> tf.compat.v1.GraphDef:
    """Give input and output of a compressed graph the names of every network of this package, and the rest short ones.

    The names it comes with are a tenth of the file.
    """
    source, sink = (f"{name.partition(':')[0]}:0" for name in (features, outputs))
    with tf.Graph().as_default() as graph:
        placeholder = tf.compat.v1.placeholder(tf.float32, (None, None), "features")
        (result,) = tf.import_graph_def(
            definition, input_map={source: placeholder}, return_elements=[sink], name="int8"
        )
        tf.identity(result, name="out_outputs")
        renamed = graph.as_graph_def()
    small = tf.compat.v1.graph_util.extract_sub_graph(renamed, ["out_outputs"])
    kept = {"features", "out_outputs"}
    short = {node.name: node.name if node.name in kept else f"n{i}" for i, node in enumerate(small.node)}
    for node in small.node:
        node.name = short[node.name]
        for i, name in enumerate(node.input):
            node.input[i] = name.replace(_bare(name), short[_bare(name)], 1)
    return small
