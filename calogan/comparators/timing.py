"""How fast models in several runtimes are, measured as `benchmark` does: interleaved rounds on one core."""

import os
import statistics
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from calogan import benchmark, bundle, provenance
from calogan.benchmark import BenchmarkReport, Timing
from calogan.comparators import Comparator
from calogan.comparators.base import Network
from calogan.generator import BATCH, Generator

_SEED, _ROUND_SHOWERS = 1, 512


def tensorflow_network(model: str | os.PathLike[str], precision: str) -> Network:
    """The network of a precision of the model itself, as TensorFlow computes it."""
    folder = bundle.find(model)
    description = bundle.read(folder)
    operations = benchmark._operations(folder, description, precision)
    file = description.network_files[precision]
    run = benchmark._network(folder, description, precision)
    return Network(run, description.sha256[file], (folder / file).stat().st_size / 1e6, operations)


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
    folder = bundle.find(model)
    description = bundle.read(folder)
    networks = {
        name: sampler.network if isinstance(sampler, Comparator) else tensorflow_network(folder, sampler.precision)
        for name, sampler in samplers.items()
    }
    features = benchmark._features(folder, description, BATCH)
    first = next(iter(samplers))
    energy = samplers[first].energy_range.draw(_ROUND_SHOWERS, _SEED)
    whole: dict[str, list[float]] = {name: [] for name in samplers}
    inner: dict[str, list[float]] = {name: [] for name in samplers}
    with benchmark._one_core():
        for _ in range(rounds + 1):
            for name, sampler in samplers.items():
                whole[name].append(benchmark._ms(partial(sampler.sample, energy, seed=_SEED)) / len(energy))
                inner[name].append(benchmark._ms(partial(networks[name].run, features)) / BATCH)
            progress()
    timings = {
        name: Timing(
            # The first round warms up.
            ms_per_shower=statistics.median(whole[name][1:]),
            ms_per_shower_error=float(np.diff(np.percentile(whole[name][1:], [16.7, 83.3]))[0] / 2),
            network_ms_per_shower=statistics.median(inner[name][1:]),
            showers_per_s=1000 / statistics.median(whole[name][1:]),
            speedup=benchmark._ratio(whole[first], whole[name]),
            network_speedup=benchmark._ratio(inner[first], inner[name]),
            size_mb=network.size_mb,
            operations=network.operations,
        )
        for name, network in networks.items()
    }
    return BenchmarkReport(description.name, timings, BATCH, rounds, provenance.header(seed=_SEED))
