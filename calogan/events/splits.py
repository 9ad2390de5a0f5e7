"""Exact split of a sample into parts by the contents of each shower, so that no shower is ever in two parts."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.events.records import Events, EventSource

_CHUNK = 1024  # showers read at a time


@dataclass(frozen=True, eq=False)
class Selection:
    """Some showers of a larger source, read on demand.

    Attributes:
        source: the larger source.
        rows: indices of the showers in it, ascending, shape (n,).
    """

    source: EventSource
    rows: NDArray[np.intp]

    @property
    def energy(self) -> NDArray[np.float32]:
        """Energy of each primary particle, shape (n,), GeV."""
        return self.source.energy[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice, /) -> Events:
        rows = self.rows[which]
        showers = np.empty((len(rows), *self.source[0:0].showers.shape[1:]), dtype=np.float32)
        # Read the source in chunks: the showers between the selected rows may not fit into memory.
        borders = np.flatnonzero(np.diff(rows // _CHUNK)) + 1
        filled = 0
        for near in np.split(rows, borders) if len(rows) else ():
            first = int(near[0])
            showers[filled : filled + len(near)] = self.source[first : int(near[-1]) + 1].showers[near - first]
            filled += len(near)
        return Events(showers, self.source.energy[rows])


def split_events(events: Events, fractions: Mapping[str, float], *, seed: int = 0) -> dict[str, Events]:
    """Split a sample in memory by the contents of each shower, not by its position; see `split_source`.

    Raises:
        EventsError: a part would be empty.
    """
    rows = _rows_of_parts(_identity(events, seed), fractions)
    return {name: events[which] for name, which in rows.items()}


def split_source(
    source: EventSource,
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Selection]:
    """Split showers by the contents of each, not by its position, in a single pass over the source.

    A shower falls into the same part whatever the file, the order or the sample around it, so that no shower used
    for training or tuning is used again for validation. The hash is that of its bits: the same shower in a format of
    another unit is another shower. Showers without any energy, which some public files hold, are in no part.

    Args:
        source: the sample.
        fractions: name and share of each part; the shares must add up to 1.
        seed: another seed gives another split.
        progress: called with the number of showers in each chunk.

    Raises:
        EventsError: a part would be empty.
    """
    identities = []
    for start in range(0, len(source), _CHUNK):
        events = source[start : start + _CHUNK]
        identities.append(_identity(events, seed))
        if progress is not None:
            progress(len(events))
    rows = _rows_of_parts(np.concatenate(identities), fractions)
    return {name: Selection(source, which) for name, which in rows.items()}


def _rows_of_parts(identity: NDArray[np.float64], fractions: Mapping[str, float]) -> dict[str, NDArray[np.intp]]:
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions {dict(fractions)} do not add up to 1")
    edges = np.cumsum([0.0, *fractions.values()])
    edges[-1] = np.inf
    parts = {
        name: np.flatnonzero((identity >= low) & (identity < high))
        for name, low, high in zip(fractions, edges[:-1], edges[1:], strict=True)
    }
    for name, part in parts.items():
        if len(part) == 0:
            raise EventsError(
                f"{len(identity)} showers are too few: the part {name!r} ({fractions[name]:.0%}) would be empty; "
                "give more showers"
            )
    return parts


def _identity(events: Events, seed: int) -> NDArray[np.float64]:
    """Hash the bytes of each shower to a number in [0, 1), shape (n,); NaN for a shower without any energy."""
    salt = seed.to_bytes(8, "little", signed=True)
    digests = (
        hashlib.blake2b(energy.tobytes() + shower.tobytes(), digest_size=8, salt=salt).digest()
        for shower, energy in zip(events.showers, events.energy, strict=True)
    )
    position = np.frombuffer(b"".join(digests), dtype=np.uint64) / 2.0**64
    empty = events.showers.max(axis=(1, 2, 3)) <= 0
    return np.where(empty, np.nan, position)
