"""Batches of showers in random order, from memory or from disk."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from calogan.events.records import Events, EventSource

BUFFER_SHOWERS = 16_384  # 1 GB; a smaller sample is kept in memory and shuffled exactly
_STRETCH = 64  # consecutive showers read together: one chunk of the files written here
_AHEAD = 4  # stretches read in advance while batches are used


def load_if_small(source: EventSource, *, buffer: int = BUFFER_SHOWERS) -> EventSource:
    """Load the source into memory if it fits into the buffer; otherwise return it unchanged."""
    return source[:] if len(source) <= buffer else source


def batches(
    source: EventSource, size: int, rng: np.random.Generator, *, buffer: int = BUFFER_SHOWERS
) -> Iterator[Events]:
    """Yield every shower once, in random order, in batches of equal size; a last, smaller batch is dropped.

    A sample in memory is shuffled exactly. From disk, stretches of consecutive showers are read in random order
    across all files into a buffer. When the buffer is full, batches drawn from it at random make room for the next
    stretch, so a batch mixes many stretches and memory stays bounded. A thread reads ahead meanwhile. Random
    generators in the same state give the same batches.

    Args:
        source: the sample.
        size: showers in a batch.
        rng: random generator of the order.
        buffer: showers kept in memory, at least twice `size` and twice 64.
    """
    if isinstance(source, Events):
        yield from _cut(source, rng.permutation(len(source)), size)
        return
    least = 2 * max(size, _STRETCH)
    if buffer < least:
        raise ValueError(f"a buffer of {buffer} showers is too small to mix batches of {size}; give at least {least}")
    rows = min(buffer, len(source))
    pool = Events(np.empty((rows, *source[0:0].showers.shape[1:]), np.float32), np.empty(rows, np.float32))
    waiting, free = np.empty(0, np.intp), np.arange(rows)
    for part in _read_ahead(source, rng.permutation(np.arange(0, len(source), _STRETCH)).tolist()):
        if len(free) < len(part):
            rng.shuffle(waiting)
            n = -(-(len(part) - len(free)) // size) * size
            yield from _cut(pool, waiting[:n], size)
            waiting, free = waiting[n:], np.concatenate([free, waiting[:n]])
        to, free = free[: len(part)], free[len(part) :]
        pool.showers[to], pool.energy[to] = part.showers, part.energy
        waiting = np.concatenate([waiting, to])
    yield from _cut(pool, rng.permutation(waiting), size)


def _read_ahead(source: EventSource, starts: Iterable[int]) -> Iterator[Events]:
    """Read stretches in this order; a thread reads some of them in advance."""
    reading: deque[Future[Events]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="calogan-read")
    try:
        for start in starts:
            reading.append(reader.submit(source.__getitem__, slice(start, start + _STRETCH)))
            if len(reading) > _AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)


def _cut(events: Events, order: NDArray[np.intp], size: int) -> Iterator[Events]:
    for start in range(0, len(order) - size + 1, size):
        yield events[order[start : start + size]]
