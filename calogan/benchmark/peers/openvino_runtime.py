"""OpenVINO on the CPU, with quantization by NNCF. Needs openvino and nncf."""

import hashlib
import logging
import tempfile
from pathlib import Path

import keras
import nncf
import openvino
from openvino import properties

from calogan.benchmark.peers.base import Floats, batches, export
from calogan.benchmark.precisions import Network
from calogan.errors import QuantizationError
from calogan.networks import rewrites
from calogan.quantization.operations import OperationCount
from calogan.quiet import silence

_CONVOLUTIONS, _PRODUCTS = ("Convolution", "Deconvolution"), ("FullyConnected", "MatMul")


def int8(network: keras.Model, features: Floats) -> Network:
    """Quantize with NNCF's defaults, including its bias correction; features and outputs stay float32."""
    data = batches(features)
    nncf.set_log_level(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch, silence():
        folder = Path(scratch)
        try:
            # OpenVINO has integer kernels for transposed convolutions, so they need not be split.
            converted = openvino.convert_model(export(rewrites.lower(network, integer=False), folder / "float32"))
            quantized = nncf.quantize(converted, nncf.Dataset(data), subset_size=len(data))
            openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)
            return _start(folder / "int8.xml")
        except (ValueError, RuntimeError, nncf.ValidationError) as error:
            raise QuantizationError(f"OpenVINO cannot quantize this network: {error}") from error


def _start(path: Path) -> Network:
    content = path.read_bytes() + path.with_suffix(".bin").read_bytes()
    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {
            properties.inference_num_threads(): 1,
            properties.num_streams(): 1,
            properties.hint.enable_cpu_pinning(): False,
            # Operations that are not quantized run in float32, as in the other runtimes, instead of bfloat16.
            properties.hint.inference_precision(): openvino.Type.f32,
        },
    )
    request = compiled.create_infer_request()

    def run(features: Floats) -> Floats:
        outputs: Floats = request.infer([features], share_inputs=True, share_outputs=True)[0]
        return outputs

    return Network(run, hashlib.sha256(content).hexdigest(), len(content) / 1e6, _count(compiled))


def _count(compiled: openvino.CompiledModel) -> OperationCount:
    information = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    # A kernel is named after the precision of its first input: brgconv_avx512_i8.
    kernels = [(info["layerType"].astype(str), info["primitiveType"].astype(str).lower()) for info in information]
    integer = [layer for layer, kernel in kernels if kernel.endswith("i8")]
    return OperationCount(
        integer_convolutions=sum(layer in _CONVOLUTIONS for layer in integer),
        integer_products=sum(layer in _PRODUCTS for layer in integer),
        float_arithmetic=sum(
            layer in _CONVOLUTIONS + _PRODUCTS for layer, kernel in kernels if not kernel.endswith("i8")
        ),
    )
