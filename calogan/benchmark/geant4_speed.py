"""CPU time of Geant4 showers, on one core and on all at once, without its start."""

import concurrent.futures
import os
import time
from dataclasses import dataclass

import psutil

from calogan.benchmark.stream import energies
from calogan.simulation import geant4

_SEED = 1


@dataclass(frozen=True)
class Geant4Speed:
    """Time of Geant4 showers whose energies are flat over the range.

    Attributes:
        cpu_s: CPU seconds of a shower, one process alone on its core.
        node_per_s: showers per CPU second of all cores together, one process on each.
        latency_s: from its start to the first shower, of about the mean energy.
        showers: showers timed on each core.
    """

    cpu_s: float
    node_per_s: float
    latency_s: float
    showers: int


@dataclass(frozen=True)
class _Run:
    latency_s: float
    cpu_per_gev: float


def measure(showers: int) -> Geant4Speed:
    """Simulate showers on one core, then on all cores at once.

    The time of a shower is proportional to its energy, so it is measured per GeV and multiplied by the mean energy.

    Raises:
        SimulationError: Geant4 is not installed, or it crashed.
    """
    cores = sorted(os.sched_getaffinity(0))
    mean = float(energies(10_000).mean())
    alone = _run(cores[-1], showers, 0)
    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        runs = list(pool.map(_run, cores, [showers] * len(cores), range(len(cores)))) if len(cores) > 1 else [alone]
    return Geant4Speed(
        cpu_s=alone.cpu_per_gev * mean,
        node_per_s=sum(1 / (run.cpu_per_gev * mean) for run in runs),
        latency_s=alone.latency_s,
        showers=showers,
    )


def _run(core: int, showers: int, number: int) -> _Run:
    """Time the showers after the first, which includes the start of Geant4, in a child on one core."""
    # The child inherits the core of the thread that starts it.
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    energy = energies(showers + 1, number * (showers + 1))
    first: list[float] = []
    cpus: list[float] = []

    def note(_: int) -> None:
        first.append(time.monotonic())
        cpus.append(_cpu_of_child(core))

    started = time.monotonic()
    try:
        geant4.simulate(energy, seed=_SEED, first=number * (showers + 1), progress=note)
    finally:
        os.sched_setaffinity(0, allowed)
    return _Run(first[0] - started, (cpus[-1] - cpus[0]) / float(energy[1:].sum()))


def _cpu_of_child(core: int) -> float:
    """CPU seconds so far of the simulation that runs on a core."""
    for child in psutil.Process().children():
        if child.cpu_affinity() == [core] and any("geant4_worker" in word for word in child.cmdline()):
            times = child.cpu_times()
            return float(times.user + times.system)
    return 0.0
