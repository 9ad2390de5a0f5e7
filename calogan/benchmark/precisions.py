"""Speed and size of a model in each precision, measured interleaved in one run on one core.

Machines are noisy and differ from each other, so only the ratio of two precisions in one report is meaningful.
Every round times each precision once, in turn, on the same energies and seed.
"""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan import provenance
from calogan.benchmark.cores import elapsed_ms, one_core
from calogan.config import Benchmark
from calogan.errors import QuantizationError
from calogan.generation import freezing, generator, model_folder
from calogan.generation.generator import Generator
from calogan.generation.graphs import read_graph, session_config, undequantized
from calogan.generation.model_folder import ModelDescription
from calogan.generation.random_numbers import latent_numbers
from calogan.quantization.operations import OperationCount, count_operations

_SEED = 1
ROUND_SHOWERS = 512  # of a whole call in each round


@dataclass(frozen=True)
class Network:
    """The part of a model that is quantized, in some runtime, on one thread.

    Attributes:
        run: computes outputs, shape (n, 25, 25, 25), from features, shape (n, k).
        sha256: hash of the model in the format of the runtime.
        size_mb: size of the model in that format, 10^6 bytes.
        operations: number of operations in integer and floating-point arithmetic.
    """

    run: Callable[[NDArray[np.float32]], Any]
    sha256: str
    size_mb: float
    operations: OperationCount


@dataclass(frozen=True)
class Timing:
    """Timing of one precision of one model.

    Attributes:
        ms_per_shower: time of a whole `sample` call, from random numbers to Events in memory, core-ms; median of rounds.
        ms_per_shower_error: half the range that contains two thirds of the rounds, core-ms.
        network_ms_per_shower: time of the quantized part alone, core-ms; median of rounds.
        showers_per_s: showers per second and core.
        speedup: speed relative to float32, median over rounds of the ratio within a round.
        network_speedup: speed of the quantized part alone, likewise.
        size_mb: size of the frozen network, 10^6 bytes.
        operations: number of operations in integer and floating-point arithmetic.
    """

    ms_per_shower: float
    ms_per_shower_error: float
    network_ms_per_shower: float
    showers_per_s: float
    speedup: float
    network_speedup: float
    size_mb: float
    operations: OperationCount


@dataclass(frozen=True)
class BenchmarkReport:
    """Timings of one model by precision, with a description of the machine."""

    model: str
    timings: Mapping[str, Timing]
    batch_size: int
    rounds: int
    header: Mapping[str, str]

    def metrics(self, precision: str) -> dict[str, float]:
        """Metrics of one precision, under the same names for every precision."""
        timing = self.timings[precision]
        return {
            "perf/ms_per_shower": timing.ms_per_shower,
            "perf/network_ms_per_shower": timing.network_ms_per_shower,
            "perf/showers_per_s": timing.showers_per_s,
            "perf/speedup": timing.speedup,
            "perf/network_speedup": timing.network_speedup,
            "model/size_mb": timing.size_mb,
            "quant/integer_convolutions": timing.operations.integer_convolutions,
            "quant/integer_products": timing.operations.integer_products,
            "quant/float_arithmetic": timing.operations.float_arithmetic,
        }

    def speeds(self) -> dict[str, dict[str, float]]:
        """The main figures of each precision, by title, for a report."""
        return {
            name: {
                "core-ms per shower": timing.ms_per_shower,
                "ratio to float32": timing.speedup,
                "network, MB": timing.size_mb,
            }
            for name, timing in self.timings.items()
        }

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def benchmark(
    model: str | os.PathLike[str],
    precisions: Sequence[str],
    config: Benchmark,
    *,
    round_showers: int = ROUND_SHOWERS,
    progress: Callable[[], None] = lambda: None,
) -> BenchmarkReport:
    """Time a model in several precisions, always including float32.

    Args:
        model: packaged name or folder.
        precisions: the precisions; float32, the baseline, is added.
        config: batch size and number of rounds.
        round_showers: showers of a whole call in each round.
        progress: called after every round.

    Raises:
        ModelError: the model does not have a precision.
        QuantizationError: a network called int8 computes no convolution or product in int8.
    """
    folder = model_folder.find(model)
    description = model_folder.read(folder)
    names = list(dict.fromkeys(["float32", *precisions]))
    networks = {name: tensorflow_network(folder, description, name) for name in names}
    samplers = {name: generator.load(folder, precision=name) for name in names}
    features = network_features(folder, description, config.batch_size)
    timings = interleave(
        samplers,
        networks,
        features,
        rounds=config.repetitions,
        round_showers=round_showers,
        progress=progress,
    )
    return BenchmarkReport(
        description.name, timings, config.batch_size, config.repetitions, provenance.header(seed=_SEED)
    )


def interleave(
    samplers: Mapping[str, Generator],
    networks: Mapping[str, Network],
    features: NDArray[np.float32],
    *,
    rounds: int,
    round_showers: int = ROUND_SHOWERS,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time generators and their networks in turn on one core, round after round.

    Args:
        samplers: generators by name, each on one thread; the first is the baseline.
        networks: the quantized part of each, under the same names.
        features: inputs of the networks, shape (n, k).
        rounds: number of rounds; one more warms up caches and compiled kernels.
        round_showers: showers of a whole call in each round.
        progress: called after every round.
    """
    first = next(iter(samplers))
    energy = samplers[first].energy_range.draw(round_showers, _SEED)
    whole: dict[str, list[float]] = {name: [] for name in samplers}
    inner: dict[str, list[float]] = {name: [] for name in samplers}
    with one_core():
        for _ in range(rounds + 1):
            for name, sampler in samplers.items():
                whole[name].append(elapsed_ms(partial(sampler.sample, energy, seed=_SEED)) / len(energy))
                inner[name].append(elapsed_ms(partial(networks[name].run, features)) / len(features))
            progress()
    return {
        name: Timing(
            ms_per_shower=statistics.median(whole[name][1:]),
            ms_per_shower_error=float(np.diff(np.percentile(whole[name][1:], [16.7, 83.3]))[0] / 2),
            network_ms_per_shower=statistics.median(inner[name][1:]),
            showers_per_s=1000 / statistics.median(whole[name][1:]),
            speedup=_ratio(whole[first], whole[name]),
            network_speedup=_ratio(inner[first], inner[name]),
            size_mb=networks[name].size_mb,
            operations=networks[name].operations,
        )
        for name in samplers
    }


def tensorflow_network(folder: Path, description: ModelDescription, precision: str) -> Network:
    """The network of a model in one precision, run by TensorFlow on one thread.

    Raises:
        ModelError: the model does not have the precision.
        QuantizationError: a network called int8 computes no convolution or product in int8.
    """
    model_folder.check_files(folder, description, precision)
    file = description.network_files[precision]
    definition = read_graph(folder / file)
    operations = count_operations(definition)
    if precision == "int8" and not operations.integer_convolutions + operations.integer_products:
        raise QuantizationError(
            f"{folder}: the network called int8 has no int8 convolution or product; quantize the model again"
        )
    with tf.Graph().as_default() as graph:
        features, outputs = tf.import_graph_def(definition, return_elements=["features:0", "out_outputs:0"], name="")
        session = tf.compat.v1.Session(graph=graph, config=session_config(1, graph))
        # Fetching the operation instead of its tensor excludes the copy to NumPy from the time.
        run = session.make_callable(undequantized(outputs).op, feed_list=[features])
    return Network(run, description.sha256[file], (folder / file).stat().st_size / 1e6, operations)


def network_features(folder: Path, description: ModelDescription, n: int) -> NDArray[np.float32]:
    """Inputs of a model's network for n energies over the whole range, shape (n, k)."""
    model = freezing.load_generator_network(folder, description)
    energy = np.linspace(*description.energy_range, n, dtype=np.float32)
    features, _ = model.prepare(energy, latent_numbers(n, seed=_SEED, model=description))
    return np.asarray(features, dtype=np.float32)


def _ratio(reference: list[float], candidate: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(reference[1:], candidate[1:], strict=True))
