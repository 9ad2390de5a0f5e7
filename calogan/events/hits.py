"""Showers as their hits, one cell in ten: the native form of generated showers, which dense arrays are made from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.events.records import Events
from calogan.geometry import CELLS, CLIC


@dataclass(frozen=True, eq=False)
class Hits:
    """A sample of showers, each as the cells that are hit.

    Shower i has the hits `offsets[i]` to `offsets[i + 1]`, in ascending order of their cells. Each cell occurs once.

    Attributes:
        offsets: start of the hits of each shower, and the number of all hits, shape (n + 1,), int64; the first is 0.
        cell: index of the cell of each hit in a flattened shower, (x * 25 + y) * 25 + z, shape (hits,), uint16.
        cell_energy: energy deposited in it, above 0, shape (hits,), GeV, float32.
        energy: energy of each primary particle, shape (n,), GeV, float32.
    """

    offsets: NDArray[np.int64]
    cell: NDArray[np.uint16]
    cell_energy: NDArray[np.float32]
    energy: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, which: slice) -> "Hits":
        start, stop, step = which.indices(len(self))
        if step != 1:
            raise ValueError(f"the step of the slice is {step}; expected 1, because hits are stored in order")
        stop = max(start, stop)
        offsets = self.offsets[start : stop + 1]
        rows = slice(offsets[0], offsets[-1])
        return Hits(offsets - offsets[0], self.cell[rows], self.cell_energy[rows], self.energy[start:stop])

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of hits of each shower, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def sums(self) -> NDArray[np.float64]:
        """ECAL of each shower, shape (n,), GeV."""
        return np.diff(np.concatenate([[0.0], np.cumsum(self.cell_energy, dtype=np.float64)])[self.offsets])

    def to_dense(self) -> Events:
        """The same showers with all their cells, 62.5 kB each."""
        showers = np.zeros((len(self), *CLIC.shape), np.float32)
        showers.reshape(-1)[np.repeat(np.arange(len(self)) * CELLS, self.counts) + self.cell] = self.cell_energy
        return Events(showers, self.energy)

    @classmethod
    def from_dense(cls, events: Events) -> "Hits":
        """Hits of showers; cells without energy are left out.

        Args:
            events: showers of 25 x 25 x 25 cells.

        Raises:
            EventsError: the showers have another shape.
        """
        if events.showers.shape[1:] != CLIC.shape:
            raise EventsError(
                f"showers of shape {events.showers.shape[1:]} have no list of hits; expected {CLIC.shape}"
            )
        flat = events.showers.reshape(len(events), CELLS)
        hit = flat > 0
        index = np.flatnonzero(hit)
        offsets = np.concatenate([[0], np.cumsum(np.count_nonzero(hit, axis=1))])
        return cls(offsets, (index % CELLS).astype(np.uint16), flat.reshape(-1)[index], events.energy)

    @classmethod
    def concatenate(cls, parts: Sequence["Hits"]) -> "Hits":
        """Join samples, of which there is at least one, in their order."""
        starts = np.cumsum([0, *(len(part.cell) for part in parts)])
        offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([[0], *offsets]),
            np.concatenate([part.cell for part in parts]),
            np.concatenate([part.cell_energy for part in parts]),
            np.concatenate([part.energy for part in parts]),
        )


Sample = TypeVar("Sample", bound=Events | Hits)


def regroup(parts: Iterable[Sample], size: int) -> Iterator[Sample]:
    """Divide samples, all of one kind, into parts of equal size; only the last one may be smaller."""
    waiting: list[Sample] = []
    space = size
    for part in parts:
        start = 0
        while start < len(part):
            waiting.append(cast("Sample", part[start : start + space]))
            start += len(waiting[-1])
            space -= len(waiting[-1])
            if not space:
                yield _joined(waiting)
                waiting, space = [], size
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Sample]) -> Sample:
    kind: Any = type(parts[0])
    return parts[0] if len(parts) == 1 else cast("Sample", kind.concatenate(parts))


def checked_hits(hits: Hits, *, origin: str) -> Hits:
    """Check hits that come from outside.

    Args:
        hits: the arrays, with the types of `Hits`.
        origin: where they come from, for error messages.

    Raises:
        EventsError: the arrays do not fit to each other, or a number in them is not possible.
    """
    if len(hits) == 0:
        raise EventsError(f"{origin}: no showers; expected at least one")
    shapes = hits.offsets.shape == (len(hits) + 1,) and hits.cell.shape == hits.cell_energy.shape == (len(hits.cell),)
    if not shapes or hits.offsets[0] != 0 or hits.offsets[-1] != len(hits.cell) or (hits.counts < 0).any():
        raise EventsError(f"{origin}: the offsets do not divide {len(hits.cell)} hits among {len(hits)} showers")
    first = np.zeros(len(hits.cell) + 1, bool)  # whether a hit is the first of its shower
    first[hits.offsets] = True
    if len(hits.cell) and (hits.cell.max() >= CELLS or (np.diff(hits.cell.astype(int)) <= 0)[~first[1:-1]].any()):
        raise EventsError(f"{origin}: the cells of a shower are not in ascending order from 0 to {CELLS - 1}")
    for name, values in (("a hit", hits.cell_energy), ("a primary particle", hits.energy)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise EventsError(f"{origin}: the energy of {name} is not a number above 0; expected GeV")
    return hits
