"""Throughput of several generators at once, each with several threads: figure 4 of arXiv 2103.10142.

A stream is a process with its own generator, pinned to as many cores as it has threads. Contenders are timed in turn, and in
each arrangement all streams of one start at the same moment.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calogan.benchmark.contenders import Contender
from calogan.benchmark.speed import Measured, Settings, calls_within, started, together
from calogan.errors import GateError

_CHECKED = 32  # showers whose cells are compared


@dataclass(frozen=True)
class StreamRate:
    """Throughput of one arrangement.

    Attributes:
        name: name of the contender.
        streams: number of generators that run at once.
        threads: number of threads of each.
        batch: showers of a call.
        showers_per_s: showers per second of all streams together.
    """

    name: str
    streams: int
    threads: int
    batch: int
    showers_per_s: Measured


def arrangements(cores: int) -> list[tuple[int, int]]:
    """Numbers of streams and threads: powers of two with a product of at most the number of cores, and its divisors."""
    powers = [2**power for power in range(cores.bit_length())]
    fitting = {(streams, threads) for streams in powers for threads in powers if streams * threads <= cores}
    return sorted(fitting | {(n, cores // n) for n in range(1, cores + 1) if cores % n == 0})


def stream_rates(
    contenders: Sequence[Contender],
    settings: Settings,
    *,
    chosen: Sequence[tuple[int, int]] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[StreamRate]:
    """Measure the throughput of precisions of a model for each arrangement of streams and threads and each batch.

    Args:
        contenders: precisions of a model.
        settings: number of rounds and so on.
        chosen: pairs of streams and threads; by default `arrangements` of the cores of this process.
        progress: called with a line before each step.

    Raises:
        ServiceError: a stream ended early.
        GateError: streams or arrangements of a contender give different showers.
    """
    cores = sorted(os.sched_getaffinity(0))
    digests: dict[str, str] = {}
    rates = []
    for streams, threads in arrangements(len(cores)) if chosen is None else chosen:
        progress(f"{streams} streams of {threads} threads")
        places = [cores[n * threads : (n + 1) * threads] for n in range(streams)]
        with contextlib.ExitStack() as stack:
            running = {
                each.name: stack.enter_context(started([(each, place) for place in places])) for each in contenders
            }
            for name, group in running.items():
                for stream in group:
                    found = stream.ask("digest", showers=_CHECKED, batch=_CHECKED)
                    if digests.setdefault(name, found) != found:
                        raise GateError(f"{name} gives other showers with {streams} streams of {threads} threads")
            for batch in settings.batches:
                calls = {name: calls_within(group[0], batch, settings.slot_s) for name, group in running.items()}
                measured: dict[str, list[float]] = {name: [] for name in running}
                for _ in range(settings.rounds + 1):
                    for name, group in running.items():
                        measured[name].append(together(group, batch=batch, calls=calls[name]))
                rates += [
                    StreamRate(name, streams, threads, batch, Measured.of(values[1:]))
                    for name, values in measured.items()
                ]
    return rates


def best(rates: Sequence[StreamRate]) -> StreamRate:
    """The arrangement with the highest throughput; of equal ones within their spread, the one with the fewest streams."""
    highest = max(rates, key=lambda rate: rate.showers_per_s.median)
    enough = highest.showers_per_s.median - highest.showers_per_s.spread
    alike = [rate for rate in rates if rate.showers_per_s.median >= enough]
    return min(alike, key=lambda rate: (rate.streams, rate.threads, rate.batch))
