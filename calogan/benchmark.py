"""How fast and how large a model is in each precision: all of them interleaved in one run on one core.

Machines are noisy and differ from each other, so what is worth quoting is the ratio of two precisions in one
report. Every round times each precision once, in turn, on the same energies and seed.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan import bundle, generator, lowering, provenance
from calogan.bundle import Bundle
from calogan.config import Benchmark
from calogan.errors import QuantizationError
from calogan.quantization import OperationCount, count_operations, read_graph

_SEED = 1
_ROUND_SHOWERS = 512


@dataclass(frozen=True)
class Timing:
    """One precision of one model.

    Attributes:
        ms_per_shower: a whole `sample` call, random numbers to Events in memory, core-ms; median of the rounds.
        ms_per_shower_error: half the range that holds two thirds of the rounds, core-ms.
        network_ms_per_shower: the quantized part alone, core-ms; median of the rounds.
        showers_per_s: per core.
        speedup: how many times faster than float32, median over rounds of the ratio within a round.
        network_speedup: the same for the quantized part alone.
        size_mb: size of the frozen network, 10^6 bytes.
        operations: what the network computes in which arithmetic.
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
    """Timings of one model by precision, with the machine they hold for."""

    model: str
    timings: Mapping[str, Timing]
    batch_size: int
    rounds: int
    header: Mapping[str, str]

    def metrics(self, precision: str) -> dict[str, float]:
        """Numbers of one precision under the names every precision shares."""
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

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def benchmark(
    model: str | os.PathLike[str],
    precisions: Sequence[str],
    config: Benchmark,
    *,
    progress: Callable[[], None] = lambda: None,
) -> BenchmarkReport:
    """Time a model in several precisions, float32 always among them.

    Args:
        model: packaged name or folder.
        precisions: which; float32 is added, as it is what the others are compared with.
        config: batch size and number of rounds.
        progress: called after every round.

    Raises:
        ModelError: the model does not have a precision.
        QuantizationError: a model called int8 computes no convolution in int8.
    """
    folder = bundle.find(model)
    description = bundle.read(folder)
    names = list(dict.fromkeys(["float32", *precisions]))
    operations = {name: _operations(folder, description, name) for name in names}
    with _one_core():
        samplers = {name: generator.load(folder, precision=name) for name in names}
        networks = {name: _network(folder, description, name) for name in names}
        features = _features(folder, description, config.batch_size)
        energy = samplers["float32"].energy_range.draw(_ROUND_SHOWERS, _SEED)
        whole: dict[str, list[float]] = {name: [] for name in names}
        inner: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(config.repetitions + 1):
            for name in names:
                whole[name].append(_ms(partial(samplers[name].sample, energy, seed=_SEED)) / len(energy))
                inner[name].append(_ms(partial(networks[name], features)) / len(features))
            progress()
    timings = {
        name: Timing(
            # The first round warms up caches and oneDNN's compiled kernels.
            ms_per_shower=statistics.median(whole[name][1:]),
            ms_per_shower_error=float(np.diff(np.percentile(whole[name][1:], [16.7, 83.3]))[0] / 2),
            network_ms_per_shower=statistics.median(inner[name][1:]),
            showers_per_s=1000 / statistics.median(whole[name][1:]),
            speedup=_ratio(whole["float32"], whole[name]),
            network_speedup=_ratio(inner["float32"], inner[name]),
            size_mb=(folder / description.network_files[name]).stat().st_size / 1e6,
            operations=operations[name],
        )
        for name in names
    }
    return BenchmarkReport(
        description.name, timings, config.batch_size, config.repetitions, provenance.header(seed=_SEED)
    )


def _ratio(reference: list[float], candidate: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(reference[1:], candidate[1:], strict=True))


def _ms(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def _operations(folder: Path, description: Bundle, precision: str) -> OperationCount:
    bundle.check_files(folder, description, precision)
    counted = count_operations(read_graph(folder / description.network_files[precision]))
    if precision == "int8" and counted.integer_convolutions == 0:
        raise QuantizationError(f"{folder}: the network called int8 has no int8 convolution; quantize the model again")
    return counted


def _network(folder: Path, description: Bundle, precision: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    with tf.Graph().as_default() as graph:
        definition = read_graph(folder / description.network_files[precision])
        features, outputs = tf.import_graph_def(definition, return_elements=["features:0", "out_outputs:0"], name="")
        session = tf.compat.v1.Session(graph=graph, config=generator.session_config(1))
        # Fetching the operation, not its tensor, leaves the copy to numpy out of the time.
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]] = session.make_callable(
            outputs.op, feed_list=[features]
        )
    return run


def _features(folder: Path, description: Bundle, n: int) -> NDArray[np.float32]:
    model = lowering.load_generator_network(folder, description)
    energy = np.linspace(*description.energy_range, n, dtype=np.float32)
    features, _ = model.prepare(energy, generator.latent_numbers(n, seed=_SEED, model=description))
    return np.asarray(features, dtype=np.float32)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process, with the threads TensorFlow starts meanwhile, on one core."""
    allowed = os.sched_getaffinity(0)
    _pin({max(allowed)})
    try:
        yield
    finally:
        _pin(allowed)


def _pin(cores: set[int]) -> None:
    # Thread by thread: Linux has no call for a whole process, and a thread keeps the cores it was started with.
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)
