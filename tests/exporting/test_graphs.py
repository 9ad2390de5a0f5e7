from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.errors import ModelError

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from calogan.exporting.graphs import FLOAT, Builder

rng = np.random.default_rng(1)
X = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
SQUARE, EVEN, DEEP = (
    rng.standard_normal(shape).astype(np.float32) for shape in [(3, 3, 4, 7), (2, 4, 4, 7), (2, 3, 4, 1, 7)]
)
TURNED = rng.standard_normal((5, 4, 3, 4)).astype(np.float32)
PLACES = np.array([[3, 0], [1, 1]])

CASES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "one number each": lambda x: tf.exp(-tf.math.floor(x)) / (1 + tf.square(tf.tanh(x))) - tf.nn.softplus(x),
    "powers and logarithms": lambda x: tf.pow(tf.math.log(tf.nn.relu(x) + 2), 3.0),
    "choices": lambda x: tf.where(x < 0.2, tf.minimum(x, -0.5), tf.maximum(tf.where(x > 1, x, 0.0), 0.3)),
    "whole numbers": lambda x: tf.gather(tf.constant(np.arange(9.0, dtype=np.float32)), tf.cast(tf.nn.relu(x), tf.int32)),
    "slices": lambda x: x[:, 1:5:2, :, -1:] * 2,
    "slices with axes more and less": lambda x: x[1, None, :, -1, 1:3, None],
    "a split": lambda x: tf.split(x, 3, axis=1)[1] - tf.split(x, 3, axis=1)[2],
    "places of an axis": lambda x: tf.gather(x, PLACES, axis=2),
    "sums": lambda x: tf.reduce_sum(x, axis=(1, 2), keepdims=True) + tf.reduce_sum(x, axis=(0, -1))[:, :1, None],
    "running sums": lambda x: tf.cumsum(x, axis=1) + tf.cumsum(x, axis=3, exclusive=True, reverse=True),
    "joined": lambda x: tf.concat([x, 2 * x], axis=-1),
    "turned": lambda x: tf.transpose(x, (3, 0, 2, 1)),
    "shapes": lambda x: tf.squeeze(tf.expand_dims(tf.reshape(x, (tf.shape(x)[0], 30, 4)), 1), 1),
    "padded and repeated": lambda x: tf.tile(tf.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0))), (1, 2, 1, 1)),
    "a product": lambda x: tf.reshape(x, (2, 120)) @ tf.ones((120, 3)),
    "leaky": lambda x: tf.nn.leaky_relu(x, 0.3),
    "constants only": lambda x: x + tf.gather(tf.constant([1.0, 5.0]), 1) * tf.cast(tf.shape(x)[1], tf.float32),
    "zeros": lambda x: tf.concat([tf.zeros_like(x), x], axis=0),
    "convolution": lambda x: tf.nn.bias_add(tf.nn.conv2d(x, SQUARE, 1, "SAME"), np.arange(7, dtype=np.float32)),
    "convolution, even": lambda x: tf.nn.conv2d(x, EVEN, 1, "SAME"),
    "convolution, strides": lambda x: tf.nn.conv2d(x, SQUARE, (2, 1), "VALID"),
    "convolutions": lambda x: tf.nn.conv2d(tf.nn.conv2d(x, SQUARE[..., :4], 1, "SAME"), EVEN, 1, "SAME"),
    "convolution in space": lambda x: tf.nn.conv3d(tf.expand_dims(x, 4), DEEP, (1,) * 5, "SAME"),
    "transposed by 2": lambda x: tf.nn.conv2d_transpose(x, TURNED, (2, 12, 10, 3), 2),
    "transposed by 3": lambda x: tf.nn.conv2d_transpose(x, TURNED, (2, 18, 15, 3), 3),
}  # fmt: skip


def build(function: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    with tf.Graph().as_default():
        source = tf.compat.v1.placeholder(tf.float32, X.shape)
        return Builder(source, "x", FLOAT).model(function(source), "y")


def run(model: Any) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float32] = session.run(["y"], {"x": X})[0]
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_computes_what_tensorflow_does(case: str) -> None:
    # Functions that are traced are optimised, which TensorFlow gets wrong for some three-dimensional convolutions.
    expected = CASES[case](tf.constant(X)).numpy()
    outputs = run(build(CASES[case]))
    assert outputs.shape == expected.shape
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_unused_nodes_are_left_out_and_equal_constants_shared() -> None:
    table = np.arange(100, dtype=np.float32)
    model = build(lambda x: tf.exp(x) * 0 + tf.gather(table, tf.constant([1, 2, 3, 4])) + x * table[1:5] + table[1:5])
    assert [len(constant.dims) for constant in model.graph.initializer].count(1) == 1
    assert [node.op_type for node in build(lambda x: tf.split(x, 2, axis=1)[0]).graph.node] == ["Slice", "Identity"]


def test_equal_functions_give_equal_bytes() -> None:
    models = [build(lambda x: tf.nn.conv2d(tf.tanh(x), SQUARE, 1, "SAME")) for _ in range(2)]
    assert models[0].SerializeToString() == models[1].SerializeToString()


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (tf.sin, "operation Sin"),
        (lambda x: tf.pad(x, tf.cast(x[0, 0, :4, :2], tf.int32)), "where a constant was expected"),
        (lambda x: x[..., 1], "ellipsis"),
        (lambda x: tf.gather(x, tf.zeros((2, 3), tf.int32), axis=1, batch_dims=1), "batched gather"),
        (lambda x: tf.matmul(x[0, 0], x[0, 0], transpose_b=True), "transposed matrices"),
        (lambda x: tf.nn.conv2d_transpose(x, TURNED, (2, 15, 12, 3), 2, "VALID"), "transposed convolution"),
    ],
)
def test_an_operation_without_translation_is_reported(function: Callable[[tf.Tensor], tf.Tensor], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        build(function)
