"""One quantization trial: an Intel Neural Compressor configuration -> an int8 network that really is int8."""

import collections
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan import bundle, generator, lowering, rewrites
from calogan.bundle import Bundle
from calogan.compression import ARITHMETIC, compress, name_operations
from calogan.config import Quantization
from calogan.errors import QuantizationError
from calogan.events import Events
from calogan.networks.base import GeneratorNetwork

__all__ = [
    "OperationCount",
    "compress",
    "count_operations",
    "has_integer_instructions",
    "name_operations",
    "operation_names",
    "quantize",
    "read_graph",
    "slow_integer_note",
]

# What stock TensorFlow computes in int8, and the float32 operations that would stand there otherwise.
_INTEGER_CONVOLUTIONS = ("QuantizedConv2D", "_FusedQuantizedConv2D", "_QuantizedConv2D")
_INTEGER_PRODUCTS = ("QuantizedMatMul", "_QuantizedMatMul", "_QuantizedFusedMatMul")
_FLOAT_ARITHMETIC = (*ARITHMETIC, "_FusedConv2D", "_FusedMatMul")
# Multiplication of 8-bit numbers with addition in 32 bits, as `provenance.cpu` calls it.
_INTEGER_INSTRUCTIONS = {"AMX_INT8", "AVX512_VNNI", "AVX_VNNI"}


@dataclass(frozen=True)
class OperationCount:
    """How many operations of a frozen network compute in which arithmetic.

    Attributes:
        integer_convolutions: convolutions in int8 fused with bias, activation and requantization.
        integer_products: matrix products in int8.
        float_arithmetic: convolutions and matrix products left in floating point.
        bfloat16_arithmetic: those of them that compute in bfloat16.
    """

    integer_convolutions: int
    integer_products: int
    float_arithmetic: int
    bfloat16_arithmetic: int = 0


def quantize(folder: Path, calibration: Events, config: Quantization, target: Path) -> Bundle:
    """Quantize the network of a model to int8, after training.

    Args:
        folder: the model; it must hold its weights.
        calibration: showers of the calibration split; their energies are what the ranges of activations are
            found with, and no shower of another split is seen.
        config: the configuration to try.
        target: where the model with its int8 network is written; may be the same folder.

    Raises:
        QuantizationError: the compressor gave nothing back, or a network without int8 convolutions, or not the one
            that the configuration describes.
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
    return bundle.write(
        target, dataclasses.replace(source, network_files=files, quantization=config.model_dump(mode="json"))
    )


def count_operations(definition: tf.compat.v1.GraphDef) -> OperationCount:
    """Count the arithmetic operations of a GraphDef by their kind."""
    found = collections.Counter(node.op for node in definition.node)
    left = [node for node in definition.node if node.op in _FLOAT_ARITHMETIC]
    return OperationCount(
        integer_convolutions=_count(found, _INTEGER_CONVOLUTIONS),
        integer_products=_count(found, _INTEGER_PRODUCTS),
        float_arithmetic=len(left),
        bfloat16_arithmetic=sum(node.attr["T"].type == tf.bfloat16.as_datatype_enum for node in left),
    )


def read_graph(path: Path) -> tf.compat.v1.GraphDef:
    """Read a frozen GraphDef."""
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    return definition


def operation_names(folder: Path) -> tuple[str, ...]:
    """Names of the operations of a model that can be quantized, see `compression.name_operations`."""
    model = lowering.load_generator_network(folder, bundle.read(folder))
    return tuple(name_operations(rewrites.lower(model.network, integer=True)))


def has_integer_instructions(isa: str) -> bool:
    """Whether a processor multiplies 8-bit numbers fast; `isa` as in `provenance.cpu`."""
    return not _INTEGER_INSTRUCTIONS.isdisjoint(isa.split())


def slow_integer_note(isa: str, ratio: float) -> str:
    """Say that int8 gains less on this processor; empty where it has the instructions.

    Args:
        isa: as in `provenance.cpu`.
        ratio: measured speed of the int8 network in units of float32's.
    """
    if has_integer_instructions(isa):
        return ""
    return (
        f"this processor has no AVX512_VNNI or AVX_VNNI (it has {isa}): int8 runs, but slower than it can; "
        f"measured ratio to float32 {ratio:.2f}"
    )


def _count(found: Mapping[str, int], prefixes: tuple[str, ...]) -> int:
    return sum(number for name, number in found.items() if name.startswith(prefixes))


def _calibration_features(
    model: GeneratorNetwork, description: Bundle, calibration: Events, config: Quantization
) -> NDArray[np.float32]:
    energy = calibration.energy[: config.calibration_showers]
    latent = generator.latent_numbers(len(energy), seed=0, model=description)
    features, _ = model.prepare(energy, latent)
    return np.asarray(features, dtype=np.float32)
