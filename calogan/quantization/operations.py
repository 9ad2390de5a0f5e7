"""Count the operations of a frozen network by their arithmetic, and check whether this processor computes int8 fast."""

import collections
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from calogan.provenance import has_integer_instructions

_NARROW_WEIGHT = 64  # 2 * 64 * 255 is less than 2^15, and 2 * 65 * 255 is not
ARITHMETIC = ("Conv2D", "Conv2DBackpropInput", "Conv3D", "MatMul")


# The int8 operations of stock TensorFlow, and the float32 operations they replace.
_INTEGER_CONVOLUTIONS = ("QuantizedConv2D", "_FusedQuantizedConv2D", "_QuantizedConv2D")


_INTEGER_PRODUCTS = ("QuantizedMatMul", "_QuantizedMatMul", "_QuantizedFusedMatMul")


_FLOAT_ARITHMETIC = (*ARITHMETIC, "_FusedConv2D", "_FusedMatMul")


@dataclass(frozen=True)
class OperationCount:
    """Numbers of operations of a frozen network by arithmetic.

    Attributes:
        integer_convolutions: convolutions in int8 fused with bias, activation and requantization.
        integer_products: matrix products in int8.
        float_arithmetic: convolutions and matrix products in floating point.
        bfloat16_arithmetic: those among them that compute in bfloat16.
    """

    integer_convolutions: int
    integer_products: int
    float_arithmetic: int
    bfloat16_arithmetic: int = 0


def count_operations(definition: tf.compat.v1.GraphDef) -> OperationCount:
    """Count the arithmetic operations of a GraphDef by their kind."""
    counts = collections.Counter(node.op for node in definition.node)
    nodes = [node for node in definition.node if node.op in _FLOAT_ARITHMETIC]
    return OperationCount(
        integer_convolutions=_count(counts, _INTEGER_CONVOLUTIONS),
        integer_products=_count(counts, _INTEGER_PRODUCTS),
        float_arithmetic=len(nodes),
        bfloat16_arithmetic=sum(node.attr["T"].type == tf.bfloat16.as_datatype_enum for node in nodes),
    )


def count_weight_bits(definition: tf.compat.v1.GraphDef) -> int:
    """Bits of the integer weights of a network, with their sign: 7 if two products cannot exceed 16 bits, or 8."""
    weights = [node.attr["value"].tensor for node in definition.node if node.op == "Const"]
    integers = [tf.make_ndarray(tensor) for tensor in weights if tensor.dtype == tf.qint8.as_datatype_enum]
    return 8 if any(np.abs(values.astype(np.int16)).max() > _NARROW_WEIGHT for values in integers) else 7


def slow_integer_note(isa: str, ratio: float) -> str:
    """Note that int8 gains less on this processor; empty if it has the integer instructions.

    Args:
        isa: as in `provenance.cpu`.
        ratio: measured speed of the int8 network relative to float32.
    """
    if has_integer_instructions(isa):
        return ""
    return (
        f"this processor has no AVX512_VNNI or AVX_VNNI (it has {isa}): int8 weights have 7 bits, so that sums cannot "
        f"saturate, and int8 runs below its full speed; measured ratio to float32 {ratio:.2f}"
    )


def _count(counts: Mapping[str, int], prefixes: tuple[str, ...]) -> int:
    return sum(number for name, number in counts.items() if name.startswith(prefixes))
