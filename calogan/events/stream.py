"""Showers in random order, whether they fit into memory or not."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from calogan.events.records import Events, EventSource

BUFFER_SHOWERS = 16_384  # 1 GB; a smaller sample is kept in memory and shuffled exactly
_STRETCH = 64  # showers read together: one chunk of the files written here
_AHEAD = 4  # stretches that are read while batches are used


def held(source: EventSource, *, buffer: int = BUFFER_SHOWERS) -> EventSource:
    """Return a source that is read into memory if it fits into a buffer, else as it is."""
    return source[:] if len(source) <= buffer else source


def batches(
    source: EventSource, size: int, rng: np.random.Generator, *, buffer: int = BUFFER_SHOWERS
) -> Iterator[Events]:
    """Yield every shower once, in random order, as batches of one size; the rest that fills no batch is left out.

    A sample in memory is shuffled exactly. Of one on disk, stretches of neighbouring showers are read in random
    order across all files into a buffer; when it is full, batches drawn at random make room for the next stretch, so
    that a batch mixes most of the stretches it could and memory stays bounded. A thread reads ahead meanwhile. Equal
    generators give equal batches.

    Args:
        source: the sample.
        size: showers in a batch.
        rng: random generator of the order.
        buffer: showers held in memory, at least twice `size` and twice 64.
    """
    if isinstance(source, Events):
        yield from _cut(source, rng.permutation(len(source)), size)
        return
    least = 2 * max(size, _STRETCH)
    if buffer < least:
        raise ValueError(f"a buffer of {buffer} showers cannot mix batches of {size}; give at least {least}")
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
    """Read stretches in this order, some of them in a thread before they are asked for."""
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
