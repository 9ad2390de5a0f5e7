"""TFLite with XNNPACK, the runtime that the 2021 paper compares with (arXiv 2103.10142, tables 3 to 5)."""

import hashlib
import tempfile
import warnings
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from calogan.benchmark.peers.base import Floats, batches, export
from calogan.benchmark.precisions import Network
from calogan.errors import QuantizationError
from calogan.networks import rewrites
from calogan.quantization.operations import OperationCount
from calogan.quiet import silence

_OPERATORS = schema.BuiltinOperator
_CONVOLUTIONS = {_OPERATORS.CONV_2D, _OPERATORS.TRANSPOSE_CONV, _OPERATORS.CONV_3D, _OPERATORS.CONV_3D_TRANSPOSE}
_PRODUCTS = {_OPERATORS.FULLY_CONNECTED, _OPERATORS.BATCH_MATMUL}


def float16(network: keras.Model, features: Floats) -> Network:  # noqa: ARG001 - common interface
    """Store weights in half precision; XNNPACK converts them once and computes in float32."""
    return _convert(network, None)


def int8(network: keras.Model, features: Floats) -> Network:
    """Quantize every operator that TFLite has an integer kernel for; features and outputs stay float32.

    Weights are quantized per channel, activations per tensor with zero points.
    """
    return _convert(network, features)


def _convert(network: keras.Model, features: Floats | None) -> Network:
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch, silence():
        # TFLite has an integer kernel for transposed convolutions, so they need not be split.
        model_dir = export(rewrites.lower(network, integer=False), Path(scratch) / "float32")
        converter = tf.lite.TFLiteConverter.from_saved_model(str(model_dir), signature_keys=["serve"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if features is None:
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = lambda: ([batch] for batch in batches(features))
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,  # for operators without an integer kernel
            ]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message="Statistics for quantized inputs"
                )  # the calibration measures them
                content = bytes(converter.convert())
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise QuantizationError(f"TFLite cannot convert this network: {error}") from error
        return _start(content)


def _start(content: bytes) -> Network:
    with warnings.catch_warnings():
        # The pinned TensorFlow 2.21 still includes it.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = interpreter.tensor(sink["index"])

    def run(features: Floats) -> Floats:
        interpreter.set_tensor(source["index"], features)
        interpreter.invoke()
        cells: Floats = outputs()
        return cells

    return Network(run, hashlib.sha256(content).hexdigest(), len(content) / 1e6, _count(content))


def _count(content: bytes) -> OperationCount:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    codes = [code.builtinCode for code in model.operatorCodes]
    operators = [(codes[op.opcodeIndex], graph.tensors[op.outputs[0]].type) for op in graph.operators]
    integer = [code for code, kind in operators if kind == schema.TensorType.INT8]
    return OperationCount(
        integer_convolutions=sum(code in _CONVOLUTIONS for code in integer),
        integer_products=sum(code in _PRODUCTS for code in integer),
        float_arithmetic=sum(
            code in _CONVOLUTIONS | _PRODUCTS for code, kind in operators if kind == schema.TensorType.FLOAT32
        ),
    )
