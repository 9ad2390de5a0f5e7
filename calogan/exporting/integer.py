"""An int8 network of Intel Neural Compressor as ONNX: the same integers and the same ranges, operation by operation.

It uses operators that compute directly on integers (QLinearConv, MatMulInteger), not pairs of QuantizeLinear and
DequantizeLinear around float32 operators. So a runtime computes in int8 without optimising the graph.

Ranges become scales by the rules of TensorFlow's oneDNN kernels (tensorflow/core/kernels/mkl), which differ between
operations: `QuantizeV2` divides a range into 127.5 steps, a convolution into 127, and `Dequantize` into 128 where the
lower end has the larger magnitude.
"""

import numpy as np
import tensorflow as tf
from onnx import TensorProto

from calogan.errors import ModelError
from calogan.exporting.graphs import Array, Builder, Translations, channels_first_kernel, window

# Steps of a range, by type. ONNX Runtime has no convolution from int8 to uint8 or back, so all activations are
# exported as uint8: int8 shifted by 128.
_STEPS = {tf.quint8: 255, tf.qint8: 127}
_ZERO_POINTS = {tf.quint8: np.uint8(0), tf.qint8: np.uint8(128)}


def _quantize(to: Builder, tensor: tf.Tensor) -> str:
    low, high = _result_limits(to, tensor.op)
    first = tensor.op.get_attr("mode") == b"MIN_FIRST"  # the lowest number becomes 0, and 0 need not be a step
    factor = 255 / (high - low) if first else (127.5 if tensor.dtype == tf.qint8 else 255) / high
    # Multiplied first, as TensorFlow does, so that halves, which are frequent between two scales, round the same way.
    x = to.add("Mul", to.value(tensor.op.inputs[0]), factor)
    return _round(to, to.add("Sub", x, low * factor) if first else x, tensor.dtype)


def _dequantize(to: Builder, tensor: tf.Tensor) -> str:
    source, *limits = tensor.op.inputs
    low, high = (_limit(to, limit) for limit in limits)
    if source.dtype == tf.quint8 and low != 0:
        raise ModelError(f"the int8 network has a range from {low:g} where 0 was expected; quantize the model again")
    scale = high / 255 if source.dtype == tf.quint8 else max(low / -128, high / 127)
    return to.add("DequantizeLinear", to.value(source), np.float32(scale), _ZERO_POINTS[source.dtype])


def _convolution(to: Builder, tensor: tf.Tensor) -> str:
    source, kernel, bias, *_ = tensor.op.inputs
    if bias.dtype != tf.float32 or tensor.op.get_attr("padding_list"):
        raise ModelError(
            f"the int8 network has a convolution that cannot be exported ({tensor.name}); quantize the model again"
        )
    scale, weight_scale = _operand_scales(to, tensor.op)
    result = to.add(
        "QLinearConv",
        *(to.image(source), scale, _ZERO_POINTS[source.dtype]),
        *(channels_first_kernel(to.constant(kernel)), weight_scale, np.zeros(weight_scale.shape, np.int8)),
        *(_scale(tensor.dtype, *_result_limits(to, tensor.op)), _ZERO_POINTS[tensor.dtype]),
        np.round(to.constant(bias) / (scale * weight_scale)).astype(np.int32),
        **window(tensor.op),
    )
    return to.add_image(result, tensor.shape.rank)


def _product(to: Builder, tensor: tf.Tensor) -> str:
    source, weights, bias, *_ = tensor.op.inputs
    if bias.dtype != tf.qint32 or tensor.op.get_attr("transpose_a") or tensor.op.get_attr("transpose_b"):
        raise ModelError(
            f"the int8 network has a matrix product that cannot be exported ({tensor.name}); quantize the model again"
        )
    scale, weight_scale = _operand_scales(to, tensor.op)
    total = to.add("MatMulInteger", to.value(source), to.constant(weights))
    # The bias includes the contribution of the lowest number of the source, which became 0, to each sum.
    total = to.add("Cast", to.add("Add", total, to.constant(bias)), to=TensorProto.FLOAT)
    if tensor.dtype == tf.float32:
        return to.add("Mul", total, scale * weight_scale)
    step = _scale(tensor.dtype, *_result_limits(to, tensor.op))
    return _round(to, to.add("Mul", total, scale * weight_scale / step), tensor.dtype)


def _round(to: Builder, x: str, kind: tf.DType) -> str:
    """Round to whole numbers, halves to even, and clip to the range of a type."""
    return to.add("QuantizeLinear", x, np.float32(1), _ZERO_POINTS[kind])


def _operand_scales(to: Builder, operation: tf.Operation) -> tuple[np.float32, Array]:
    """Scales of the source and of the weights, per channel or one for all, of a convolution or product."""
    low, high, *weight_limits = operation.inputs[3:7]
    widest = np.maximum(*(np.abs(to.constant(limit)) for limit in weight_limits))
    return _scale(operation.inputs[0].dtype, _limit(to, low), _limit(to, high)), np.asarray(widest / np.float32(127))


def _scale(kind: tf.DType, low: np.float32, high: np.float32) -> np.float32:
    """Width of a quantization step of an input or output of a convolution or product."""
    return np.float32((high - low if kind == tf.quint8 else max(abs(low), abs(high))) / _STEPS[kind])


def _limit(to: Builder, limit: tf.Tensor) -> np.float32:
    """One end of a range: a constant, or an additional output of the operation that computed the numbers."""
    if limit.value_index > 0:
        return _result_limits(to, limit.op)[limit.value_index - 1]
    return np.float32(to.constant(limit))


def _result_limits(to: Builder, operation: tf.Operation) -> tuple[np.float32, np.float32]:
    """The range of the output of an operation."""
    if operation.type != "QuantizeV2":
        low, high = (_limit(to, limit) for limit in operation.inputs[-2:])
        return low, high
    limits = [_limit(to, limit) for limit in operation.inputs[1:3]]
    low = min(limits[0], np.float32(0))
    least = max(np.float32(1), *np.abs(limits)) * operation.get_attr("ensure_minimum_range")
    high = max(limits[1], low + np.float32(least), np.float32(0))
    if operation.get_attr("mode") == b"MIN_FIRST":
        return low, high
    widest = max(-low, high)
    return (-widest if operation.outputs[0].dtype == tf.qint8 else np.float32(0)), widest


INTEGER: Translations = {
    "QuantizeV2": _quantize,
    "Dequantize": _dequantize,
    "QuantizedConv2DWithBiasAndRequantize": _convolution,
    "QuantizedConv2DWithBiasAndReluAndRequantize": _convolution,  # the output type has no steps below 0
    "QuantizedMatMulWithBiasAndRequantize": _product,
    "QuantizedMatMulWithBiasAndReluAndRequantize": _product,
    "QuantizedMatMulWithBiasAndDequantize": _product,
}
