"""TensorFlow operations of the generators as ONNX operators; all shapes must be static.

tf2onnx is not used, because it does not support integer operations and orders its output differently from run to run.
Every export is compared with TensorFlow.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calogan.errors import ModelError

OPSET, IR_VERSION = 13, 7  # the lowest with all operators used here, so that older runtimes can read the file
_FIXED = {"Const", "HostConst", "Shape", "ZerosLike"}  # independent of the inputs, since all shapes are static
_END = 2**31 - 1  # beyond the end of any axis
Array: TypeAlias = NDArray[Any]


class Builder:
    """Translates tensors of a TensorFlow graph, each on its first use.

    Tensors keep the axes of TensorFlow, channels last; convolutions are transposed to channels first and back.
    """

    def __init__(self, source: tf.Tensor, name: str, translations: "Translations") -> None:
        """Begin with the input tensor and its ONNX name; all others are computed from it and from constants."""
        self._source = source
        self._translations = translations
        self._session = tf.compat.v1.Session(graph=source.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[Any, ...], onnx.TensorProto] = {}  # by type, shape and value
        self._names = {source.name: name}
        self._channels_first: dict[str, str] = {}  # channels-first name of an image, by its channels-last name
        self._fixed: dict[str, bool] = {}

    def value(self, tensor: tf.Tensor) -> str:
        """Name of a tensor in the ONNX graph.

        Raises:
            ModelError: it needs an operation without a translation.
        """
        if tensor.name not in self._names:
            if self._is_fixed(tensor.op):
                self._names[tensor.name] = self._add_constant(self.constant(tensor))
            elif tensor.op.type in self._translations:
                self._names[tensor.name] = self._translations[tensor.op.type](self, tensor)
            else:
                raise ModelError(
                    f"the model has an operation {tensor.op.type}, which cannot be exported to ONNX; "
                    "export it as a SavedModel"
                )
        return self._names[tensor.name]

    def constant(self, tensor: tf.Tensor) -> Array:
        """Value of a tensor that depends on constants and shapes only.

        Raises:
            ModelError: it depends on the input.
        """
        if not self._is_fixed(tensor.op):
            raise ModelError(
                f"{tensor.name} of the model depends on its input, where a constant was expected; "
                "export it as a SavedModel"
            )
        array = np.asarray(self._session.run(tensor, {self._source: np.zeros(self._source.shape, np.float32)}))
        return array[array.dtype.names[0]] if array.dtype.names else array  # TensorFlow's quantized types are records

    def image(self, tensor: tf.Tensor) -> str:
        """Name of an image in the ONNX graph, with channels first as convolutions require."""
        name = self.value(tensor)
        axes = range(tensor.shape.rank)
        return self._channels_first.get(name) or self.add("Transpose", name, perm=[0, axes[-1], *axes[1:-1]])

    def add_image(self, channels_first: str, rank: int) -> str:
        """Transpose the result of a convolution to channels last; returns its name."""
        name = self.add("Transpose", channels_first, perm=[0, *range(2, rank), 1])
        self._channels_first[name] = channels_first
        return name

    def add(self, kind: str, *inputs: str | Array | np.generic, **attributes: Any) -> str:
        """Add a node whose inputs are names or constants; returns the name of its output."""
        names = [each if isinstance(each, str) else self._add_constant(np.asarray(each)) for each in inputs]
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [name], name, **attributes))
        return name

    def model(self, result: tf.Tensor, name: str) -> onnx.ModelProto:
        """Make the ONNX model that computes a tensor; `name` is the name of its output.

        Raises:
            ModelError: it needs an operation without a translation.
        """
        last = helper.make_node("Identity", [self.value(result)], [name], name)
        used, nodes = {name}, []
        for node in [last, *reversed(self._nodes)]:
            if node.output[0] in used:
                used.update(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1],
            name,
            [helper.make_tensor_value_info(self._names[self._source.name], TensorProto.FLOAT, self._source.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, result.shape)],
            [constant for constant in self._constants.values() if constant.name in used],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _add_constant(self, array: Array) -> str:
        new = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return str(self._constants.setdefault((array.dtype.str, array.shape, array.tobytes()), new).name)

    def _is_fixed(self, operation: tf.Operation) -> bool:
        if operation.name not in self._fixed:
            self._fixed[operation.name] = operation.type in _FIXED or (
                len(operation.inputs) > 0 and all(self._is_fixed(tensor.op) for tensor in operation.inputs)
            )
        return self._fixed[operation.name]


Translate: TypeAlias = Callable[[Builder, tf.Tensor], str]
Translations: TypeAlias = Mapping[str, Translate]


def _translate_as(kind: str) -> Translate:
    """Translate to an operator with the same inputs and no attributes."""
    return lambda to, tensor: to.add(kind, *(to.value(source) for source in tensor.op.inputs))


def _reshape_like(to: Builder, name: str, tensor: tf.Tensor) -> str:
    return to.add("Reshape", name, np.array(tensor.shape.as_list(), np.int64))


def _reshape(to: Builder, tensor: tf.Tensor) -> str:
    return _reshape_like(to, to.value(tensor.op.inputs[0]), tensor)


def _square(to: Builder, tensor: tf.Tensor) -> str:
    source = to.value(tensor.op.inputs[0])
    return to.add("Mul", source, source)


def _transpose(to: Builder, tensor: tf.Tensor) -> str:
    source, order = tensor.op.inputs
    return to.add("Transpose", to.value(source), perm=to.constant(order).tolist())


def _concat(to: Builder, tensor: tf.Tensor) -> str:
    *parts, axis = tensor.op.inputs
    return to.add("Concat", *(to.value(part) for part in parts), axis=int(to.constant(axis)))


def _split(to: Builder, tensor: tf.Tensor) -> str:
    axis, source = tensor.op.inputs
    along = np.atleast_1d(to.constant(axis)).astype(np.int64)
    start = tensor.value_index * np.take(tensor.shape.as_list(), along)
    return to.add("Slice", to.value(source), start, start + np.take(tensor.shape.as_list(), along), along)


def _slice(to: Builder, tensor: tf.Tensor) -> str:
    source, *bounds = tensor.op.inputs
    masks = {
        name: tensor.op.get_attr(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    if masks["ellipsis"]:
        raise ModelError("the model has a slice with an ellipsis, which cannot be exported to ONNX; index all its axes")
    cuts: list[tuple[int, int, int, int]] = []
    for place, (begin, end, step) in enumerate(zip(*(to.constant(bound).tolist() for bound in bounds), strict=True)):
        flags = {name for name, mask in masks.items() if mask >> place & 1}
        if "new_axis" in flags:
            continue
        start = 0 if "begin" in flags else begin
        stop = _END if "end" in flags else end
        cuts.append((start, begin + 1 or _END if "shrink_axis" in flags else stop, len(cuts), step))
    name = to.add("Slice", to.value(source), *np.array(cuts, np.int64).T)
    return _reshape_like(to, name, tensor) if masks["new_axis"] or masks["shrink_axis"] else name


def _pad(to: Builder, tensor: tf.Tensor) -> str:
    source, paddings = tensor.op.inputs
    return to.add("Pad", to.value(source), to.constant(paddings).T.reshape(-1).astype(np.int64))


def _tile(to: Builder, tensor: tf.Tensor) -> str:
    source, times = tensor.op.inputs
    return to.add("Tile", to.value(source), to.constant(times).astype(np.int64))


def _gather(to: Builder, tensor: tf.Tensor) -> str:
    source, where, axis = tensor.op.inputs
    if tensor.op.get_attr("batch_dims"):
        raise ModelError("the model has a batched gather, which cannot be exported to ONNX; export it as a SavedModel")
    return to.add("Gather", to.value(source), to.value(where), axis=int(to.constant(axis)))


def _sum(to: Builder, tensor: tf.Tensor) -> str:
    source, axes = tensor.op.inputs
    keep = int(tensor.op.get_attr("keep_dims"))
    return to.add("ReduceSum", to.value(source), to.constant(axes).astype(np.int64), keepdims=keep)


def _cumsum(to: Builder, tensor: tf.Tensor) -> str:
    source, axis = tensor.op.inputs
    turns = {name: int(tensor.op.get_attr(name)) for name in ("exclusive", "reverse")}
    return to.add("CumSum", to.value(source), np.int64(to.constant(axis)), **turns)


def _cast(to: Builder, tensor: tf.Tensor) -> str:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype.as_numpy_dtype))
    return to.add("Cast", to.value(tensor.op.inputs[0]), to=kind)


def _leaky_relu(to: Builder, tensor: tf.Tensor) -> str:
    return to.add("LeakyRelu", to.value(tensor.op.inputs[0]), alpha=tensor.op.get_attr("alpha"))


def _product(to: Builder, tensor: tf.Tensor) -> str:
    if tensor.op.get_attr("transpose_a") or tensor.op.get_attr("transpose_b"):
        raise ModelError(
            "the model has a product of transposed matrices, which cannot be exported to ONNX; "
            "export it as a SavedModel"
        )
    return _translate_as("MatMul")(to, tensor)


def _convolution(to: Builder, tensor: tf.Tensor) -> str:
    source, kernel = tensor.op.inputs
    return to.add_image(
        to.add("Conv", to.image(source), channels_first_kernel(to.constant(kernel)), **window(tensor.op)),
        tensor.shape.rank,
    )


def _transposed_convolution(to: Builder, tensor: tf.Tensor) -> str:
    _, kernel, source = tensor.op.inputs
    weights = channels_first_kernel(to.constant(kernel))
    strides = tensor.op.get_attr("strides")[1:-1]
    if tensor.op.get_attr("padding") != b"SAME" or any(np.array(weights.shape[2:]) < strides):
        raise ModelError(
            "the model has a transposed convolution that is not padded as `same`, or whose kernel is smaller than its "
            "stride, which cannot be exported to ONNX; export it as a SavedModel"
        )
    excess = np.array(weights.shape[2:]) - strides  # cut off by `same`, the smaller half in front
    pads = [*(excess // 2).tolist(), *(excess - excess // 2).tolist()]
    result = to.add("ConvTranspose", to.image(source), weights, strides=strides, pads=pads)
    return to.add_image(result, tensor.shape.rank)


def channels_first_kernel(kernel: Array) -> Array:
    """Transpose a kernel of shape (..., channels in, channels out) to ONNX's (channels out, channels in, ...)."""
    return np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))


def window(operation: tf.Operation) -> dict[str, Any]:
    """Padding, strides and dilations of a convolution, as ONNX attributes."""
    return {
        "auto_pad": {b"SAME": "SAME_UPPER", b"VALID": "VALID"}[operation.get_attr("padding")],
        "strides": operation.get_attr("strides")[1:-1],
        "dilations": operation.get_attr("dilations")[1:-1],
    }


# Operations whose operator has the same inputs in the same order, and no attributes.
_SAME = {name: name for name in ("Exp", "Floor", "Greater", "Identity", "Less", "Log", "Mul", "Neg", "Pow", "Relu")}
_SAME |= {"AddV2": "Add", "BiasAdd": "Add", "Maximum": "Max", "Minimum": "Min", "RealDiv": "Div", "SelectV2": "Where"}
_SAME |= {name: name for name in ("Softplus", "Sub", "Tanh")}

FLOAT: Translations = {
    **{name: _translate_as(kind) for name, kind in _SAME.items()},
    **dict.fromkeys(("ExpandDims", "Reshape", "Squeeze"), _reshape),
    "Cast": _cast,
    "ConcatV2": _concat,
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3D": _convolution,
    "Cumsum": _cumsum,
    "GatherV2": _gather,
    "LeakyRelu": _leaky_relu,
    "MatMul": _product,
    "Pad": _pad,
    "Split": _split,
    "Square": _square,
    "StridedSlice": _slice,
    "Sum": _sum,
    "Tile": _tile,
    "Transpose": _transpose,
}
