"""Throughput of several generators at once, each with several threads: figure 4 of arXiv 2103.10142.

A stream is a process with its own generator, pinned to as many cores as it has threads.
"""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

from calogan.errors import ServiceError
from calogan.generation import generator

_SEED = 1
_PATIENCE_S = 300.0  # for all streams to load their model
_barrier: Barrier  # of the streams, in the process of one


@dataclass(frozen=True)
class StreamRate:
    """Throughput of one arrangement.

    Attributes:
        streams: number of generators that run at once.
        threads: number of threads of each.
        showers_per_s: showers per second of all streams together.
    """

    streams: int
    threads: int
    showers_per_s: float


def arrangements(cores: int) -> list[tuple[int, int]]:
    """Numbers of streams and threads, powers of two whose product is at most the number of cores."""
    powers = [2**power for power in range(cores.bit_length())]
    return [(streams, threads) for streams in powers for threads in powers if streams * threads <= cores]


def stream_rates(
    model: Path,
    precision: str,
    *,
    showers: int = generator.BATCH,
    rounds: int = 3,
    settings: Sequence[tuple[int, int]] | None = None,
) -> list[StreamRate]:
    """Measure the throughput of a precision of a model for each arrangement of streams and threads.

    Args:
        model: folder of the model.
        precision: a precision of it.
        showers: showers of one call, flat in Ep.
        rounds: calls of each stream that are timed; one more warms up.
        settings: pairs of streams and threads; by default `arrangements` of the cores of this process.

    Raises:
        ServiceError: a stream ended early.
    """
    chosen = arrangements(len(os.sched_getaffinity(0))) if settings is None else settings
    return [_measure(model, precision, *setting, showers, rounds) for setting in chosen]


def _measure(model: Path, precision: str, streams: int, threads: int, showers: int, rounds: int) -> StreamRate:
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    barrier = context.Barrier(streams)
    try:
        with concurrent.futures.ProcessPoolExecutor(streams, context, _start, (barrier,)) as pool:
            tasks = [
                pool.submit(_run, model, precision, cores[n * threads : (n + 1) * threads], showers, rounds)
                for n in range(streams)
            ]
            spans = [task.result() for task in tasks]
    except (BrokenProcessPool, threading.BrokenBarrierError) as error:
        raise ServiceError(
            f"one of {streams} streams ended early or did not start within {_PATIENCE_S:.0f} s; is there enough memory?"
        ) from error
    elapsed = max(end for _, end in spans) - min(start for start, _ in spans)
    return StreamRate(streams, threads, streams * showers * rounds / elapsed)


def _start(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 - a barrier reaches a process only while that starts
    _barrier = barrier


def _run(model: Path, precision: str, cores: list[int], showers: int, rounds: int) -> tuple[float, float]:
    """Generate in this process when all streams are ready; returns start and end, seconds of the machine's clock."""
    os.sched_setaffinity(0, cores)
    sampler = generator.load(model, precision=precision, threads=len(cores))
    energy = sampler.energy_range.draw(showers, _SEED)
    sampler.sample(energy, seed=_SEED)
    _barrier.wait(_PATIENCE_S)
    started = time.monotonic()
    for number in range(rounds):
        sampler.sample(energy, seed=_SEED + 1 + number)
    return started, time.monotonic()
