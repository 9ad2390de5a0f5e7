"""Whether time and memory grow with the number of showers as they should: time in proportion, memory not at all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from calogan.benchmark.contenders import Contender
from calogan.benchmark.stream import Span, Stream

SMALLEST = 1_000
_BATCH = 1_000  # showers in memory at a time


@dataclass(frozen=True)
class Growth:
    """A number of showers drawn in a row.

    Attributes:
        showers: how many.
        ms_per_shower: time of a shower.
        memory_mb: resident memory at the end, 10^6 bytes.
    """

    showers: int
    ms_per_shower: float
    memory_mb: float


def measure(contender: Contender, most: int) -> list[Growth]:
    """Draw 1,000 showers, then ten times as many, and so on up to `most`, in parts of 1,000, in one process on one core.

    The shortest runs are repeated: the one in the middle counts.

    Raises:
        ServiceError: the stream ended early.
    """
    results = []
    with Stream(contender, [max(os.sched_getaffinity(0))]) as stream:
        stream.ask("draw", batch=_BATCH, calls=1)
        showers = SMALLEST
        while showers <= most:
            repeats = 5 if showers == SMALLEST else 1
            spans: list[Span] = [stream.ask("draw", batch=_BATCH, calls=showers // _BATCH) for _ in range(repeats)]
            span = sorted(spans, key=lambda each: each.ms_per_shower)[repeats // 2]
            results.append(Growth(showers, span.ms_per_shower, span.memory_mb))
            showers *= 10
    return results


def nonlinearity(growth: Sequence[Growth]) -> float:
    """Largest relative deviation of the time of a shower from that of the longest run."""
    last = growth[-1].ms_per_shower
    return max(abs(each.ms_per_shower / last - 1) for each in growth)


def memory_growth(growth: Sequence[Growth]) -> float:
    """Memory after the longest run over that after the shortest, less 1."""
    return growth[-1].memory_mb / growth[0].memory_mb - 1
