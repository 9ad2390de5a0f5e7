"""Where a network lies between the two limits of a core: its arithmetic, and the bytes it can move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from calogan.benchmark import peak
from calogan.benchmark.arithmetic import multiply_adds
from calogan.benchmark.speed import Row
from calogan.generation import freezing, model_folder

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of a weight and of an activation
_BATCH = 256  # showers of a call, which share the weights


@dataclass(frozen=True)
class Point:
    """A network in a precision.

    Attributes:
        intensity: multiply-adds for each byte that has to be moved at least.
        per_s: multiply-adds per second.
        share: of the peak of its precision.
    """

    intensity: float
    per_s: float
    share: float


@dataclass(frozen=True)
class Roofline:
    """The limits of a core, and the networks below them.

    Attributes:
        peaks: multiply-adds per second by precision.
        bandwidth: bytes per second.
        points: networks by name of the contender.
    """

    peaks: Mapping[str, float]
    bandwidth: float
    points: Mapping[str, Point]


def measure(rows: Sequence[Row]) -> Roofline:
    """Measure the limits of a core and place the networks of models that were timed.

    Raises:
        ModelError: weights of a model are missing.
    """
    peaks = {precision: peak.peak(precision) for precision in ("float32", "bfloat16", "int8")}
    points = {}
    networks: dict[str, keras.Model] = {}
    for row in rows:
        folder, precision = row.contender.folder, row.contender.precision
        if folder is None or row.network_ms is None or precision not in peaks:
            continue
        if str(folder) not in networks:
            networks[str(folder)] = freezing.load_generator_network(folder, model_folder.read(folder)).network
        network = networks[str(folder)]
        operations = multiply_adds(network)
        rate = operations / (row.network_ms.median / 1000)
        intensity = operations / (moved(network, _BATCH) * BYTES[precision])
        points[row.contender.name] = Point(intensity, rate, rate / peaks[precision])
    return Roofline(peaks, peak.bandwidth(), points)


def moved(network: keras.Model, batch: int) -> float:
    """Numbers that each layer with weights has to read and write at least, per shower: inputs, outputs, shared weights."""
    layers = [layer for layer in network.layers if layer.get_weights()]
    activations = sum(np.prod(side.shape[1:]) for layer in layers for side in (layer.input, layer.output))
    return float(activations + network.count_params() / batch)
