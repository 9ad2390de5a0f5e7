"""The network of a model in other runtimes, for comparison with its int8 network: TFLite, ONNX Runtime, OpenVINO.

The other runtime computes the network only, the part that is quantized. The steps before and after it are the float32
graphs of the model folder, so physics and speed differ by that part alone. A comparator is converted in memory from the
weights of a model each time, and is not stored in its folder.
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
from calogan.benchmark.precisions import (
    ROUND_SHOWERS,
    BenchmarkReport,
    Network,
    interleave,
    network_features,
    tensorflow_network,
)
from calogan.errors import ModelError
from calogan.events import EnergyRange
from calogan.generation import freezing, generator, model_folder
from calogan.generation.generator import BATCH, Compute, Generator
from calogan.generation.graphs import prepare_graph, session_config
from calogan.generation.model_folder import ModelDescription
from calogan.generation.random_numbers import latent_numbers

# The packages that each needs in addition to TensorFlow; calogan[peers] installs all of them.
_PACKAGES = {
    "tflite-float16": (),
    "tflite-int8": (),
    "onnxruntime-int8": ("onnx", "onnxruntime", "tf2onnx"),
    "openvino-int8": ("openvino", "nncf"),
}
KINDS = tuple(_PACKAGES)
_CALIBRATION_SHOWERS, _CALIBRATION_SEED = 64, 0


class Comparator(Generator):
    """A generator whose network runs in another runtime; `precision` is its kind.

    Attributes:
        network: the network in that runtime.
    """

    def __init__(self, folder: Path, model: ModelDescription, kind: str, network: Network) -> None:
        file = f"network.{kind}"
        description = model.model_copy(
            update={
                "network_files": {**model.network_files, kind: file},
                "sha256": {**model.sha256, file: network.sha256},
            }
        )
        super().__init__(folder, description, kind, _compute(folder, model, network))
        self.network = network


def sampler(model: str | os.PathLike[str], name: str, *, threads: int = 1) -> Generator:
    """Load a precision of a model, or its network in another runtime.

    Args:
        model: packaged name or folder.
        name: one of `model_folder.PRECISIONS` or `KINDS`.
        threads: number of threads of one operation; another runtime always has one.

    Raises:
        ModelError: there is no such model, precision or runtime, a file of the model is damaged, or a package is missing.
        QuantizationError: the runtime cannot convert the network.
    """
    if name not in (*model_folder.PRECISIONS, *KINDS):
        raise ModelError(f"no precision {name!r}; there are {', '.join((*model_folder.PRECISIONS, *KINDS))}")
    return load(model, name) if name in KINDS else generator.load(model, precision=name, threads=threads)


def installed() -> list[str]:
    """The kinds whose packages are installed."""
    return [kind for kind, packages in _PACKAGES.items() if not _missing(packages)]


def load(model: str | os.PathLike[str], kind: str, *, calibration: NDArray[np.float32] | None = None) -> Comparator:
    """Convert and load a model for another runtime, on one thread.

    Args:
        model: packaged name or folder; it must include its weights.
        kind: one of `KINDS`.
        calibration: primary energies of the calibration set, shape (n,), GeV; as for `quantize.quantize`, the showers
            are not needed. By default drawn uniformly over the range of the model, as many as in the calibration
            set of its own int8 network.

    Raises:
        ModelError: there is no such model or kind, its weights are missing, or a package is not installed.
        QuantizationError: the runtime cannot convert the network.
    """
    if kind not in KINDS:
        raise ModelError(f"no comparator {kind!r}; expected one of {', '.join(KINDS)}")
    gaps = _missing(_PACKAGES[kind])
    if gaps:
        raise ModelError(f"{kind} needs {', '.join(gaps)}, not installed here; pip install 'calogan[peers]'")
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
    # Imported on demand: the packages may not be installed, and take seconds to import.
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
    """Connect the graph before the network of a model to a network in another runtime."""
    with tf.Graph().as_default() as graph:
        inputs, *outputs = prepare_graph(folder, model)
        session = tf.compat.v1.Session(graph=graph, config=session_config(1, graph))
        prepare = session.make_callable(outputs, feed_list=inputs)

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
    round_showers: int = ROUND_SHOWERS,
    progress: Callable[[], None] = lambda: None,
) -> BenchmarkReport:
    """Time precisions of a model and its comparators side by side.

    Args:
        model: packaged name or folder.
        samplers: generators by name, each on one thread; the first is the baseline.
        rounds: number of interleaved rounds.
        round_showers: showers of a whole call in each round.
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
    timings = interleave(samplers, networks, features, rounds=rounds, round_showers=round_showers, progress=progress)
    return BenchmarkReport(description.name, timings, BATCH, rounds, provenance.header())
