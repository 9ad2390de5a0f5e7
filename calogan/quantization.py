"""One quantization trial: an Intel Neural Compressor configuration -> an int8 network that really is int8."""

import collections
import contextlib
import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan import bundle, generator, lowering, rewrites
from calogan.bundle import Bundle
from calogan.config import Quantization
from calogan.errors import QuantizationError
from calogan.events import Events
from calogan.networks.base import GeneratorNetwork

_BATCH = 16
# What stock TensorFlow computes in int8, and the float32 operations that would stand there otherwise.
_INTEGER_CONVOLUTIONS = ("QuantizedConv2D", "_FusedQuantizedConv2D", "_QuantizedConv2D")
_INTEGER_PRODUCTS = ("QuantizedMatMul", "_QuantizedMatMul", "_QuantizedFusedMatMul")
_FLOAT_ARITHMETIC = ("Conv2D", "_FusedConv2D", "Conv2DBackpropInput", "MatMul", "_FusedMatMul")


@dataclass(frozen=True)
class OperationCount:
    """How many operations of a frozen network compute in which arithmetic.

    Attributes:
        integer_convolutions: convolutions in int8 fused with bias, activation and requantization.
        integer_products: matrix products in int8.
        float_arithmetic: convolutions and matrix products left in float32.
    """

    integer_convolutions: int
    integer_products: int
    float_arithmetic: int


def quantize(folder: Path, calibration: Events, config: Quantization, target: Path) -> Bundle:
    """Quantize the network of a model to int8, after training.

    Args:
        folder: the model; it must hold its weights.
        calibration: showers of the calibration split; their energies are what the ranges of activations are
            found with, and no shower of another split is seen.
        config: the configuration to try.
        target: where the model with its int8 network is written; may be the same folder.

    Raises:
        QuantizationError: the compressor gave nothing back, or a network without int8 convolutions.
    """
    source = bundle.read(folder)
    model = lowering.load_generator_network(folder, source)
    features = _calibration_features(model, source, calibration, config)
    definition = compress(rewrites.lower(model.network, integer=True), features, config)
    counted = count_operations(definition)
    if counted.integer_convolutions == 0:
        raise QuantizationError(
            f"the network came back without a single int8 convolution ({counted.float_arithmetic} float32 operations): "
            "this machine's TensorFlow cannot run it in int8; check that oneDNN is on (TF_ENABLE_ONEDNN_OPTS=1)"
        )
    if target.resolve() != folder.resolve():
        source = bundle.copy(folder, target)
    name = "network.int8.pb"
    (target / name).write_bytes(definition.SerializeToString(deterministic=True))
    files = source.network_files | {"int8": name}
    return bundle.write(target, dataclasses.replace(source, network_files=files, quantization=config.model_dump()))


def count_operations(definition: tf.compat.v1.GraphDef) -> OperationCount:
    """Count the arithmetic operations of a GraphDef by their kind."""
    found = collections.Counter(node.op for node in definition.node)
    return OperationCount(
        integer_convolutions=_count(found, _INTEGER_CONVOLUTIONS),
        integer_products=_count(found, _INTEGER_PRODUCTS),
        float_arithmetic=sum(found[name] for name in _FLOAT_ARITHMETIC),
    )


def read_graph(path: Path) -> tf.compat.v1.GraphDef:
    """Read a frozen GraphDef."""
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    return definition


def _count(found: Mapping[str, int], prefixes: tuple[str, ...]) -> int:
    return sum(number for name, number in found.items() if name.startswith(prefixes))


def _calibration_features(
    model: GeneratorNetwork, description: Bundle, calibration: Events, config: Quantization
) -> NDArray[np.float32]:
    energy = calibration.energy[: config.calibration_showers]
    latent = generator.latent_numbers(len(energy), seed=0, model=description)
    features, _ = model.prepare(energy, latent)
    return np.asarray(features, dtype=np.float32)


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


def compress(network: keras.Model, features: NDArray[np.float32], config: Quantization) -> tf.compat.v1.GraphDef:
    """Quantize a lowered network to int8.

    Args:
        network: from `rewrites.lower`.
        features: what it is calibrated with, shape (n, k).
        config: the configuration to try.

    Raises:
        QuantizationError: the compressor failed or gave nothing back.
    """
    # The compressor calibrates by reading back what TensorFlow prints to file descriptor 2. It takes that
    # descriptor from sys.stderr when it is imported, where a notebook or a test has put something else.
    with contextlib.redirect_stderr(sys.__stderr__), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # imported by version 3.10
        from neural_compressor.tensorflow import StaticQuantConfig, quantize_model  # noqa: PLC0415 - takes seconds

    loader = _CalibrationLoader(features)
    settings = StaticQuantConfig(
        weight_granularity=config.granularity, act_algorithm=config.algorithm, weight_algorithm="minmax"
    )
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        saved = Path(scratch) / "float32"
        network.export(saved, verbose=False)
        try:
            compressed = quantize_model(str(saved), settings, loader, calib_iteration=len(loader))
        except (ValueError, RuntimeError, KeyError, AttributeError, tf.errors.OpError) as error:
            raise QuantizationError(f"Intel Neural Compressor failed on this network: {error}") from error
        if compressed is None:
            raise QuantizationError("Intel Neural Compressor gave no model back for this configuration")
        return _with_names(compressed.graph_def, compressed.input_tensor_names[0], compressed.output_tensor_names[0])


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
        for i, name in enumerate(node.input):  # "name", "name:output" or "^name"
            bare = name.lstrip("^").partition(":")[0]
            node.input[i] = name.replace(bare, short[bare], 1)
    return small
