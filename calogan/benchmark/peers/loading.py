"""The network of a model in other runtimes, to compare its int8 network with: TFLite, ONNX Runtime, OpenVINO.

Only `network` is theirs, the part that is quantized. What is before and behind it are the float32 graphs of the
model folder, so physics and speed differ by that part alone. A comparator is made in memory from the weights of a
model each time, and is not part of its folder.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan import provenance
from calogan.benchmark.peers.base import Floats
from calogan.benchmark.precisions import BenchmarkReport, Network, interleave, network_features, tensorflow_network
from calogan.errors import ModelError
from calogan.events import EnergyRange
from calogan.generation import freezing, model_folder
from calogan.generation.generator import BATCH, Compute, Generator
from calogan.generation.graphs import prepare_graph, session_config
from calogan.generation.model_folder import ModelDescription
from calogan.generation.random_numbers import latent_numbers

# The packages each needs beside TensorFlow; all of them come with calogan[peers].
_PACKAGES = {
    "tflite-float16": (),
    "tflite-int8": (),
    "onnxruntime-int8": ("onnx", "onnxruntime", "tf2onnx"),
    "openvino-int8": ("openvino", "nncf"),
}
KINDS = tuple(_PACKAGES)
_CALIBRATION_SHOWERS, _CALIBRATION_SEED = 64, 0


class Comparator(Generator):
    """A generator whose network another runtime computes; `precision` is its kind.

    Attributes:
        network: that network.
    """

    def __init__(self, folder: Path, model: ModelDescription, kind: str, network: Network) -> None:
        file = f"network.{kind}"
        described = model.model_copy(
            update={
                "network_files": {**model.network_files, kind: file},
                "sha256": {**model.sha256, file: network.sha256},
            }
        )
        super().__init__(folder, described, kind, _compute(folder, model, network))
        self.network = network


def installed() -> list[str]:
    """The kinds whose packages are installed."""
    return [kind for kind, packages in _PACKAGES.items() if not _missing(packages)]


def load(model: str | os.PathLike[str], kind: str, *, calibration: NDArray[np.float32] | None = None) -> Comparator:
    """Convert and load a model for another runtime, on one thread.

    Args:
        model: packaged name or folder; it must hold its weights.
        kind: one of `KINDS`.
        calibration: primary energies to find the ranges of activations with, shape (n,), GeV; as for
            `quantize.quantize`, no more is needed of a shower. By default drawn flat over the range of the
            model, as many as its own int8 network was calibrated with.

    Raises:
        ModelError: there is no such model or kind, its weights are missing, or a package is not installed.
        QuantizationError: the runtime cannot convert the network.
    """
    if kind not in KINDS:
        raise ModelError(f"no comparator {kind!r}; there are {', '.join(KINDS)}")
    missing = _missing(_PACKAGES[kind])
    if missing:
        raise ModelError(f"{kind} needs {', '.join(missing)}, not installed here; pip install 'calogan[peers]'")
    folder = model_folder.find(model)
    description = model_folder.read(folder)
    model_folder.check_files(folder, description, "float32")
    if calibration is None:
        showers = description.quantization.get("calibration_showers", _CALIBRATION_SHOWERS)
        calibration = EnergyRange(*description.energy_range).draw(showers, _CALIBRATION_SEED)
    whole = freezing.load_generator_network(folder, description)
    latent = latent_numbers(len(calibration), seed=_CALIBRATION_SEED, model=description)
    features = np.asarray(whole.prepare(calibration, latent)[0], dtype=np.float32)
    network = _converter(kind)(whole.network, features)
    return Comparator(folder, description, kind, network)


def _missing(packages: Sequence[str]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _converter(kind: str) -> Callable[..., Network]:
    # Imported when asked for: the packages may not be there, and take seconds to import.
    match kind:
        case "onnxruntime-int8":
            from calogan.benchmark.peers import onnx_runtime  # noqa: PLC0415

            return onnx_runtime.int8
        case "openvino-int8":
            from calogan.benchmark.peers import openvino_runtime  # noqa: PLC0415

            return openvino_runtime.int8
        case _:
            from calogan.benchmark.peers import tflite  # noqa: PLC0415

            return tflite.int8 if kind == "tflite-int8" else tflite.float16


def _compute(folder: Path, model: ModelDescription, network: Network) -> Compute:
    """Join the graph before the network of a model and a network of another runtime."""
    with tf.Graph().as_default() as graph:
        inputs, *prepared = prepare_graph(folder, model)
        session = tf.compat.v1.Session(graph=graph, config=session_config(1))
        prepare = session.make_callable(prepared, feed_list=inputs)

    def compute(energy: Floats, latent: Floats) -> tuple[Floats, float, Floats]:
        features, context = prepare(energy, latent)
        n = len(features)
        whole = np.pad(features, ((0, BATCH - n), (0, 0)), mode="edge") if n < BATCH else features
        return network.run(whole)[:n], 1.0, context

    return compute


def compare_speed(
    model: str | os.PathLike[str],
    samplers: Mapping[str, Generator],
    *,
    rounds: int,
    progress: Callable[[], None] = lambda: None,
) -> BenchmarkReport:
    """Time precisions of a model and its comparators beside each other.

    Args:
        model: packaged name or folder.
        samplers: by name, the first is what the others are compared with; each on one thread.
        rounds: interleaved rounds of all of them.
        progress: called after every round.
    """
    folder = model_folder.find(model)
    description = model_folder.read(folder)
    networks = {
        name: sampler.network
        if isinstance(sampler, Comparator)
        else tensorflow_network(folder, description, sampler.precision)
        for name, sampler in samplers.items()
    }
    features = network_features(folder, description, BATCH)
    timings = interleave(samplers, networks, features, rounds=rounds, progress=progress)
    return BenchmarkReport(description.name, timings, BATCH, rounds, provenance.header())
