"""One call of Intel Neural Compressor: float32 network and configuration -> quantized graph, checked against both."""

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
# The compressor's name of a precision, and the TensorFlow type of an operation in it.
_FLOAT_TYPES = {"float32": ("fp32", tf.float32), "bfloat16": ("bf16", tf.bfloat16)}


def name_operations(network: keras.Model) -> dict[str, keras.Layer]:
    """The operations of a lowered network that can be quantized, by name.

    A name is the kind of the layer and its number among the layers of this kind, such as `dense 1` or `convolution 4`.
    Unlike the names that Keras assigns, it is the same for every training of a family.
    """
    operations: dict[str, keras.Layer] = {}
    for kinds, name in _KINDS:
        of_kind = [layer for layer in network.layers if isinstance(layer, kinds)]
        operations |= {f"{name} {number}": layer for number, layer in enumerate(of_kind, start=1)}
    return operations


def compress(network: keras.Model, features: NDArray[np.float32], config: Quantization) -> tf.compat.v1.GraphDef:
    """Quantize a lowered network to int8 with one calibration, see `compress_each`."""
    return compress_each(network, [features], config)[0]


def compress_each(
    network: keras.Model, calibrations: Sequence[NDArray[np.float32]], config: Quantization
) -> list[tf.compat.v1.GraphDef]:
    """Quantize a lowered network to int8; on a processor without integer instructions, weights have 7 bits.

    Args:
        network: network from `rewrites.lower`; its layers are renamed.
        calibrations: inputs for each calibration, shape (n, k).
        config: the configuration to try.

    Returns:
        A quantized network for each calibration.

    Raises:
        QuantizationError: the configuration names an unknown operation, the compressor failed or returned nothing, or
            its result does not match the configuration.
    """
    # The compressor calibrates by reading back what TensorFlow prints to file descriptor 2. It takes that descriptor
    # from sys.stderr on import, which a notebook or a test may have replaced.
    with contextlib.redirect_stderr(sys.__stderr__), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # imported by version 3.10
        from neural_compressor import tensorflow as compressor  # noqa: PLC0415 - takes seconds

    scopes = _name_scopes(network, config)
    narrow = not provenance.has_integer_instructions(provenance.cpu()["isa"])
    reduced = _weights_of_7_bits() if narrow else contextlib.nullcontext()
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch, _no_warnings_of_deprecation(), reduced:
        path = str(Path(scratch) / "float32")
        network.export(path, verbose=False)
        exported = compressor.utils.Model(path)
        nodes = _find_nodes(exported.graph_def, scopes)
        results = []
        for features in calibrations:
            # The compressor creates this folder, by default in the working directory, which may be read-only, and forgets
            # the setting with every network.
            compressor.utils.TFConfig.global_config["workspace_path"] = str(Path(scratch) / "workspace")
            results.append(_calibrate(compressor, exported, features, config, nodes, narrow=narrow))
        return results


def _calibrate(
    compressor: Any,
    exported: Any,
    features: NDArray[np.float32],
    config: Quantization,
    nodes: Mapping[str, str],
    *,
    narrow: bool,
) -> tf.compat.v1.GraphDef:
    """Quantize an exported network with one calibration."""
    loader = _CalibrationLoader(features)
    model = compressor.utils.Model(exported.graph_def)  # not from the export: freezing takes as long as a calibration
    model.input_tensor_names, model.output_tensor_names = exported.input_tensor_names, exported.output_tensor_names
    try:
        settings = _settings(compressor, config, nodes)
        compressed = compressor.quantize_model(model, settings, loader, calib_iteration=len(loader))
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, tf.errors.OpError) as error:
        raise QuantizationError(f"Intel Neural Compressor failed on this network: {error}") from error
    if compressed is None:
        raise QuantizationError("Intel Neural Compressor returned no model for this configuration")
    _check(compressed.graph_def, config, nodes)
    if narrow and count_weight_bits(compressed.graph_def) > _NARROW_BITS:
        raise QuantizationError(
            "Intel Neural Compressor returned 8-bit weights, whose sums saturate on a processor without "
            "AVX512_VNNI or AVX_VNNI; quantize on a processor that has one of them"
        )
    definition = hand_on_integers(compressed.graph_def)
    return _with_names(definition, compressed.input_tensor_names[0], compressed.output_tensor_names[0])


@contextlib.contextmanager
def _weights_of_7_bits() -> Iterator[None]:
    """Make the compressor use 7-bit signed weights instead of 8-bit ones.

    Without AVX512_VNNI or AVX_VNNI, oneDNN adds two products of activation and weight in 16 bits, which saturate unless
    weights are at most 64. The compressor has an internal argument for the number of bits, but no setting.
    """
    from neural_compressor.tensorflow.quantization.utils.quantize_graph_common import (  # noqa: PLC0415 - takes seconds
        QuantizeGraphHelper as Helper,
    )

    original = Helper.generate_quantized_weight_node

    def reduced(operation: str, weights: Any, per_channel: bool, _: float, *others: Any) -> Any:
        return original(operation, weights, per_channel, 6.0, *others)  # bits without the sign

    Helper.generate_quantized_weight_node = staticmethod(reduced)
    try:
        yield
    finally:
        Helper.generate_quantized_weight_node = staticmethod(original)


@contextlib.contextmanager
def _no_warnings_of_deprecation() -> Iterator[None]:
    """Suppress TensorFlow's warnings about deprecated functions that the compressor calls."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _name_scopes(network: keras.Model, config: Quantization) -> dict[str, str]:
    """Rename the layers of operations, so that their nodes can be identified; returns layer names by operation."""
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
    """Find the node of each operation in the scope of its layer; Keras may append a number to the scope's name."""
    arithmetic = [node.name for node in definition.node if node.op in ARITHMETIC]
    nodes: dict[str, str] = {}
    for name, scope in scopes.items():
        node = next((node for node in arithmetic if f"{scope}_" in node.replace("/", "_")), None)
        if node is None:
            raise QuantizationError(
                f"{name} is not among the operations of the exported network ({', '.join(arithmetic) or 'it has none'}); "
                "this version of TensorFlow or Keras names them differently than calogan expects"
            )
        nodes[name] = node
    return nodes


def _settings(compressor: Any, config: Quantization, nodes: Mapping[str, str]) -> Any:
    settings = compressor.StaticQuantConfig(
        weight_granularity=config.granularity, act_algorithm=config.algorithm, weight_algorithm="minmax"
    )
    for precision, (dtype, _) in _FLOAT_TYPES.items():
        for name in getattr(config, f"keep_{precision}"):
            settings.set_local(nodes[name], compressor.StaticQuantConfig(weight_dtype=dtype, act_dtype=dtype))
    return settings if config.smooth is None else [compressor.SmoothQuantConfig(alpha=config.smooth), settings]


def _check(definition: tf.compat.v1.GraphDef, config: Quantization, nodes: Mapping[str, str]) -> None:
    """Check that the compressor kept the precisions and did the smoothing of the configuration."""
    by_name = {node.name: node for node in definition.node}
    for precision, (_, dtype) in _FLOAT_TYPES.items():
        for name in getattr(config, f"keep_{precision}"):
            node = by_name.get(nodes[name])
            if node is None or node.attr["T"].type != dtype.as_datatype_enum:
                actual = "int8" if node is None else tf.as_dtype(node.attr["T"].type).name
                raise QuantizationError(
                    f"{name} should stay in {precision}, but Intel Neural Compressor made it {actual}; "
                    "it uses bfloat16 only on processors that support it (AVX512_BF16)"
                )
    if config.smooth is not None and not any("scale_mul" in name for name in by_name):
        raise QuantizationError("SmoothQuant was requested, but Intel Neural Compressor scaled no activation")


def hand_on_integers(definition: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Reshape 8-bit numbers directly, where the compressor converts them to float32 and back.

    After the conversion it no longer knows that a ReLU came before, and uses only 7 bits. Unused nodes remain.
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
            if node.op == "Shape" and _bare(node.input[0]) == dequantize.name:  # the source of the new shape
                node.input[0] = source
                node.attr["T"].CopyFrom(dequantize.attr["T"])
        whole = result.node.add(op="Reshape", name=f"{quantize.name}/whole", input=[source, reshape.input[1]])
        whole.attr["T"].CopyFrom(dequantize.attr["T"])
        whole.attr["Tshape"].CopyFrom(reshape.attr["Tshape"])
        replacements = {quantize.name: whole.name, f"{quantize.name}:1": low, f"{quantize.name}:2": high}
        for node in users:
            node.input[:] = [replacements.get(name, name) for name in node.input]
            node.attr["Tinput"].CopyFrom(dequantize.attr["T"])
    return result


def _bare(name: str) -> str:
    """Name of the node behind an input: "name", "name:output" or "^name"."""
    return name.lstrip("^").partition(":")[0]


class _CalibrationLoader:
    """Batches in the form the compressor expects: (input, label), with a batch size."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._features = features
        self.batch_size = min(_BATCH, len(features))

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        for start in range(0, len(self._features) - self.batch_size + 1, self.batch_size):
            yield self._features[start : start + self.batch_size], 0

    def __len__(self) -> int:
        return len(self._features) // self.batch_size


def _with_names(definition: tf.compat.v1.GraphDef, features: str, outputs: str) -> tf.compat.v1.GraphDef:
    """Give input and output of a compressed graph this package's standard names, and all other nodes short ones.

    The original names take a tenth of the file.
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
    ends = {"features", "out_outputs"}
    short = {node.name: node.name if node.name in ends else f"n{i}" for i, node in enumerate(small.node)}
    for node in small.node:
        node.name = short[node.name]
        for i, name in enumerate(node.input):
            node.input[i] = name.replace(_bare(name), short[_bare(name)], 1)
    return small
