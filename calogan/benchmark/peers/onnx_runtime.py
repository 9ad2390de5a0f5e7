"""ONNX Runtime, CPU provider, with static quantization by its own tool. Needs onnx, onnxruntime and tf2onnx."""

import collections
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from calogan.benchmark.peers.base import Floats, batches, export
from calogan.benchmark.precisions import Network
from calogan.errors import QuantizationError
from calogan.networks import rewrites
from calogan.quantization.operations import OperationCount
from calogan.quiet import silence

_FLOAT = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def int8(network: keras.Model, features: Floats) -> Network:
    """Quantize with pairs of QuantizeLinear and DequantizeLinear; features and outputs stay float32.

    Weights are int8 per channel, activations uint8 per tensor, the types that VNNI multiplies.
    """
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch, silence():
        folder = Path(scratch)
        # ONNX Runtime has no integer kernel for transposed convolutions.
        model_dir = export(rewrites.lower(network, integer=True), folder / "float32")
        try:
            onnx.save(_to_onnx(model_dir), folder / "converted.onnx")
            quant_pre_process(folder / "converted.onnx", folder / "float32.onnx", skip_symbolic_shape=True)
            quantization.quantize_static(
                folder / "float32.onnx",
                folder / "int8.onnx",
                _Calibration("features", features),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
            )
            return _start((folder / "int8.onnx").read_bytes(), folder / "optimised.onnx")
        except (ValueError, RuntimeError, KeyError, onnx.checker.ValidationError) as error:
            raise QuantizationError(f"ONNX Runtime cannot quantize this network: {error}") from error


def _to_onnx(model_dir: Path) -> onnx.ModelProto:
    source = tf.saved_model.load(str(model_dir))  # a reference keeps its variables alive until they are converted
    signature = source.signatures["serve"]
    (spec,) = signature.structured_input_signature[1].values()

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator]
    def outputs(features: tf.Tensor) -> tf.Tensor:
        return signature(features)["outputs"]

    model: onnx.ModelProto
    model, _ = tf2onnx.convert.from_function(outputs, input_signature=[spec])
    return model


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches for the quantization tool of ONNX Runtime."""

    def __init__(self, name: str, features: Floats) -> None:
        self._batches: Iterator[Floats] = iter(batches(features))
        self._name = name

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _start(content: bytes, optimised: Path) -> Network:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(features: Floats) -> Floats:
        outputs: Floats
        (outputs,) = session.run(None, {source.name: features})
        return outputs

    return Network(run, hashlib.sha256(content).hexdigest(), len(content) / 1e6, _count(onnx.load(optimised)))


def _count(model: onnx.ModelProto) -> OperationCount:
    counts = collections.Counter(node.op_type for node in model.graph.node)
    return OperationCount(
        integer_convolutions=counts["QLinearConv"],
        integer_products=counts["QGemm"] + counts["QLinearMatMul"],
        float_arithmetic=sum(counts[name] for name in _FLOAT),
    )
