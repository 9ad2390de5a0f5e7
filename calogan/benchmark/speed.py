"""Speed of contenders on one core and on the whole machine, each in a pinned process, in turn."""

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from calogan.benchmark.contenders import BASELINE, Contender
from calogan.benchmark.stream import Span, Start, Stream

BATCHES = (1, 16, 256)
_AHEAD_S = 0.05  # between a request and the moment at which all streams start
_MOST_CALLS = 4096


@dataclass(frozen=True)
class Settings:
    """How long a benchmark measures.

    Attributes:
        rounds: number of rounds in which all contenders are timed in turn; one more warms up.
        slot_s: seconds that a contender is timed in a round, at least one call.
        batches: showers of a call.
        geant4_showers: Geant4 showers timed on each core.
        growth: largest number of showers drawn in a row.
        checked: showers whose cells are compared.
    """

    rounds: int = 7
    slot_s: float = 0.3
    batches: tuple[int, ...] = BATCHES
    geant4_showers: int = 10
    growth: int = 1_000_000
    checked: int = 64


QUICK = Settings(rounds=3, slot_s=0.05, geant4_showers=2, growth=10_000)


@dataclass(frozen=True)
class Measured:
    """Median of rounds, and half the range that contains two thirds of them."""

    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        """Summarise the values of all rounds."""
        low, high = np.percentile(values, [16.7, 83.3])
        return cls(statistics.median(values), float(high - low) / 2)


@dataclass(frozen=True)
class Row:
    """What was measured of a contender.

    Attributes:
        contender: who.
        core_ms: time of one core for a shower, by the number of showers of a call, ms.
        sparse_ms: the same for the largest calls, if only the hits are returned; None if it has no such form.
        network_ms: of the network alone; None without one.
        ratio: speed of the largest calls relative to float32 of the same model, median over rounds of the ratio in a round.
        network_ratio: speed of the network alone, likewise.
        node_per_s: showers per second of the whole machine, one stream on each core.
        start: latency and memory.
        files_mb: size of its files, 10^6 bytes.
        network_mb: size of the network among them, or as the other runtime has it.
    """

    contender: Contender
    core_ms: dict[int, Measured]
    sparse_ms: Measured | None
    network_ms: Measured | None
    ratio: float | None
    network_ratio: float | None
    node_per_s: Measured
    start: Start
    files_mb: float
    network_mb: float | None

    @property
    def best_ms(self) -> float:
        """Core-ms in the largest calls."""
        return self.core_ms[max(self.core_ms)].median


@dataclass
class _Times:
    """Times of a contender, ms per shower, round by round."""

    batches: dict[int, list[float]] = field(default_factory=dict)
    sparse: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)
    network_mb: float | None = None


def measure(
    group: Sequence[Contender],
    settings: Settings,
    *,
    check: Callable[[dict[str, Stream]], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Measure contenders in turn on one core, then each on all cores.

    Args:
        group: contenders with a common baseline, or without one.
        settings: number of rounds and so on.
        check: called with the streams by name before anything is timed; raises an error if their showers are wrong.
        progress: called with a line before each step.

    Raises:
        ServiceError: a stream ended early.
    """
    times = {each.name: _Times() for each in group}
    with contextlib.ExitStack() as stack:
        streams = {}
        for each in group:
            progress(f"{each.name}: starting")
            streams[each.name] = stack.enter_context(Stream(each, [max(os.sched_getaffinity(0))]))
        progress(f"{', '.join(streams)}: checking the showers")
        check(streams)
        calls = {name: _calls(stream, settings) for name, stream in streams.items()}
        for number in range(settings.rounds + 1):
            progress(f"{', '.join(streams)}: round {number + 1} of {settings.rounds + 1}")
            for name, stream in streams.items():
                _time(stream, times[name], calls[name], settings)
        baseline = next((times[each.name] for each in group if each.precision == BASELINE), None)
        rows = []
        for each in group:
            progress(f"{each.name}: on all cores")
            node = _node_rate(streams[each.name], calls[each.name], settings)
            rows.append(_row(streams[each.name], times[each.name], baseline, node))
    return rows


def _node_rate(first: Stream, calls: dict[int, int], settings: Settings) -> Measured:
    """Showers per second of one stream on each core, all at once, in the largest calls."""
    batch, cores = max(settings.batches), sorted(os.sched_getaffinity(0))
    with started([(first.contender, [core]) for core in cores[:-1]]) as others:
        streams = [first, *others]
        rates = [together(streams, batch=batch, calls=calls[batch]) for _ in range(min(3, settings.rounds) + 1)]
    return Measured.of(rates[1:])


@contextlib.contextmanager
def started(wanted: Sequence[tuple[Contender, Sequence[int]]]) -> Iterator[list[Stream]]:
    """Start streams at the same time, each on its cores; yields them when all are ready.

    Raises:
        ServiceError: one ended early.
    """
    streams = [Stream(contender, cores) for contender, cores in wanted]
    try:
        yield [stream.__enter__() for stream in streams]
    finally:
        for stream in streams:
            stream.close()


def together(streams: Sequence[Stream], *, batch: int, calls: int) -> float:
    """Let streams draw at the same time; returns the showers per second of all."""
    at = time.monotonic() + _AHEAD_S
    for number, stream in enumerate(streams):
        stream.request("draw", batch=batch, calls=calls, first=number * batch * calls, at=at)
    spans: list[Span] = [stream.answer() for stream in streams]
    elapsed = max(span.end for span in spans) - min(span.start for span in spans)
    return sum(span.showers for span in spans) / elapsed


def calls_within(stream: Stream, batch: int, seconds: float) -> int:
    """Number of calls that take about some seconds; the calls made to find out warm it up."""
    stream.ask("draw", batch=batch, calls=1)
    span: Span = stream.ask("draw", batch=batch, calls=1)
    return min(_MOST_CALLS, max(1, math.ceil(seconds / max(span.end - span.start, 1e-6))))


def _calls(stream: Stream, settings: Settings) -> dict[int, int]:
    return {batch: calls_within(stream, batch, settings.slot_s) for batch in settings.batches}


def _time(stream: Stream, times: _Times, calls: dict[int, int], settings: Settings) -> None:
    for batch in settings.batches:
        span: Span = stream.ask("draw", batch=batch, calls=calls[batch])
        times.batches.setdefault(batch, []).append(span.ms_per_shower)
    if stream.contender.folder is None:
        return
    largest = max(settings.batches)
    times.sparse.append(stream.ask("draw", batch=largest, calls=calls[largest], sparse=True).ms_per_shower)
    ms, times.network_mb = stream.ask("network", calls=calls[largest])
    times.network.append(ms)


def _row(stream: Stream, times: _Times, baseline: _Times | None, node: Measured) -> Row:
    largest, contender = max(times.batches), stream.contender
    return Row(
        contender=contender,
        core_ms={batch: Measured.of(values[1:]) for batch, values in times.batches.items()},
        sparse_ms=Measured.of(times.sparse[1:]) if times.sparse else None,
        network_ms=Measured.of(times.network[1:]) if times.network else None,
        ratio=_ratio(baseline.batches[largest], times.batches[largest]) if baseline else None,
        network_ratio=_ratio(baseline.network, times.network) if baseline and times.network else None,
        node_per_s=node,
        start=stream.start,
        files_mb=sum(path.stat().st_size for path in contender.files) / 1e6,
        network_mb=times.network_mb,
    )


def _ratio(baseline: Sequence[float], values: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(baseline[1:], values[1:], strict=True))
