"""How fast models in several runtimes are, measured as `benchmark` does: interleaved rounds on one core."""

import os
from collections.abc import Callable, Mapping

from calogan import bundle, provenance
from calogan.benchmark import BenchmarkReport, interleave, network_features, tensorflow_network
from calogan.comparators import Comparator
from calogan.generator import BATCH, Generator


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
        name: sampler.network
        if isinstance(sampler, Comparator)
        else tensorflow_network(folder, description, sampler.precision)
        for name, sampler in samplers.items()
    }
    features = network_features(folder, description, BATCH)
    timings = interleave(samplers, networks, features, rounds=rounds, progress=progress)
    return BenchmarkReport(description.name, timings, BATCH, rounds, provenance.header())
