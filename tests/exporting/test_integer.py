import collections
from typing import Any, TypeAlias

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.errors import ModelError
from calogan.exporting.base import Source, draw_inputs, run_network
from calogan.quantization.operations import count_operations

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from calogan.exporting.graphs import FLOAT, Builder
from calogan.exporting.integer import INTEGER

Definition: TypeAlias = tf.compat.v1.GraphDef
N = 4


def convert(source: tf.Tensor, result: tf.Tensor) -> Any:
    return Builder(source, "x", {**FLOAT, **INTEGER}).model(result, "y")


def run_onnx(model: Any, x: NDArray[np.float32], *, optimised: bool = False) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float32] = session.run(["y"], {"x": x})[0]
    return outputs


def both(definition: Definition, features: NDArray[np.float32]) -> tuple[Any, NDArray[np.float32]]:
    """A network as ONNX, and its outputs in TensorFlow."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        source = tf.compat.v1.placeholder(tf.float32, features.shape)
        result = run_network(definition, source)
        return convert(source, result), session.run(result, {source: features})


@pytest.fixture(scope="module")
def features(int8: Source) -> NDArray[np.float32]:
    inputs = draw_inputs(int8.description, N, seed=3)
    return np.asarray(int8.generator.prepare(inputs.energy, inputs.latent)[0])


def without_biases(definition: Definition) -> Definition:
    """The network with the biases of its convolutions set to 0."""
    changed = Definition.FromString(definition.SerializeToString())
    nodes = {node.name: node for node in changed.node}
    for convolution in [node for node in changed.node if node.op.startswith("QuantizedConv2D")]:
        value = nodes[convolution.input[2]].attr["value"].tensor
        value.CopyFrom(tf.make_tensor_proto(np.zeros_like(tf.make_ndarray(value))))
    return changed


def test_all_arithmetic_is_of_integers(int8: Source, features: NDArray[np.float32]) -> None:
    model, _ = both(int8.network, features)
    kinds = collections.Counter(node.op_type for node in model.graph.node)
    operations = count_operations(int8.network)
    assert operations.integer_convolutions > 0
    assert operations.float_arithmetic == 0
    assert kinds["QLinearConv"] == operations.integer_convolutions
    assert kinds["MatMulInteger"] == operations.integer_products
    assert not {"Conv", "MatMul", "Gemm"} & kinds.keys()


def test_the_weights_are_those_of_the_compressor(int8: Source, features: NDArray[np.float32]) -> None:
    model, _ = both(int8.network, features)
    written = {array.tobytes() for array in map(onnx.numpy_helper.to_array, model.graph.initializer)}
    kernels = 0
    for node in int8.network.node:
        tensor = node.attr["value"].tensor if node.op == "Const" else None
        if tensor and tensor.dtype == tf.qint8.as_datatype_enum:
            weights = tf.make_ndarray(tensor)["qint8"]
            assert (weights.transpose(3, 2, 0, 1) if weights.ndim == 4 else weights).tobytes() in written
            kernels += 1
    operations = count_operations(int8.network)
    assert kernels == operations.integer_convolutions + operations.integer_products


@pytest.mark.parametrize("optimised", [False, True])
def test_integers_are_the_same_where_no_bias_is_rounded(
    int8: Source, features: NDArray[np.float32], optimised: bool
) -> None:
    model, expected = both(without_biases(int8.network), features)
    outputs = run_onnx(model, features, optimised=optimised)
    assert len(np.unique(expected)) > 100
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)


@pytest.mark.parametrize("optimised", [False, True])
def test_logits_differ_by_few_steps_in_few_cells(int8: Source, features: NDArray[np.float32], optimised: bool) -> None:
    model, expected = both(int8.network, features)
    outputs = run_onnx(model, features, optimised=optimised)
    step = np.diff(np.unique(expected)).min()
    steps = np.abs(outputs - expected) / step
    assert steps.max() < 3.5
    assert (steps > 0.5).mean() < 0.1


# Ranges off zero, of one sign and narrower than is allowed.
RANGES = [(-1.5, 4.25), (0.0, 2.0), (-3.0, 0.5), (1.0, 2.0), (0.0, 1e-4)]


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize(("mode", "kind"), [("SCALED", tf.qint8), ("SCALED", tf.quint8), ("MIN_FIRST", tf.quint8)])
def test_ranges_become_steps_as_in_tensorflow(mode: str, kind: tf.DType, low: float, high: float) -> None:
    x = np.linspace(-6, 6, 4001, dtype=np.float32)[None]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        source = tf.compat.v1.placeholder(tf.float32, x.shape)
        rounding = "HALF_TO_EVEN" if mode == "SCALED" else "HALF_AWAY_FROM_ZERO"
        quantized = tf.raw_ops.QuantizeV2(
            input=source, min_range=low, max_range=high, T=kind, mode=mode, round_mode=rounding
        )
        steps = session.run(quantized[0], {source: x}).astype(np.int64)
        expected = steps + (128 if kind == tf.qint8 else 0)
        model = convert(source, quantized[0])
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    np.testing.assert_array_equal(run_onnx(model, x), expected)


@pytest.mark.parametrize(("low", "high"), [(-1.5, 4.25), (-4.0, 2.0)])
def test_steps_become_numbers_as_in_tensorflow(low: float, high: float) -> None:
    x = np.linspace(-6, 6, 4001, dtype=np.float32)[None]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        source = tf.compat.v1.placeholder(tf.float32, x.shape)
        steps, *_ = tf.raw_ops.QuantizeV2(
            input=source, min_range=-5.0, max_range=5.0, T=tf.qint8, mode="SCALED", round_mode="HALF_TO_EVEN"
        )
        number = tf.raw_ops.Dequantize(input=steps, min_range=low, max_range=high, mode="SCALED")
        expected = session.run(number, {source: x})
        model = convert(source, number)
    np.testing.assert_allclose(run_onnx(model, x), expected, rtol=1e-6)


def test_a_range_that_does_not_begin_at_zero_is_refused() -> None:
    with tf.Graph().as_default():
        source = tf.compat.v1.placeholder(tf.float32, (1, 4))
        quantized = tf.raw_ops.QuantizeV2(input=source, min_range=-1.0, max_range=5.0, T=tf.quint8, mode="MIN_FIRST")
        number = tf.raw_ops.Dequantize(input=quantized[0], min_range=-1.0, max_range=5.0, mode="MIN_FIRST")
        with pytest.raises(ModelError, match="where 0 was expected"):
            convert(source, number)
