"""Contents and defects of shower files, from a single pass over them in chunks."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.events import Events, hit_files, open_events, productions
from calogan.events.files import EventFiles, Paths, open_hdf5, read_header
from calogan.geometry import CLIC

HISTOGRAM_BINS = 20
_CHUNK = 1024
_SAMPLING_FRACTION = (0.012, 0.03)  # of the CLIC stack; Geant4 gives 0.017 to 0.022 from 2 to 500 GeV
_OFF_CENTRE = 1.0  # cells; the field moves the centre by a tenth of one
_MAX_PROBLEMS = 20  # reading errors to list; more of them say nothing new


@dataclass(frozen=True)
class FileSummary:
    """One file.

    Attributes:
        path: path of the file.
        layout: its format in words.
        showers: number of showers in it.
        origin: attributes that say where it comes from, if there are any.
    """

    path: Path
    layout: str
    showers: int
    origin: dict[str, str]


@dataclass(frozen=True, eq=False)
class Inspection:
    """Contents and problems of shower files.

    Attributes:
        files: the files, in order.
        energy: energy of every primary particle, shape (n,), GeV.
        sampling_fraction: ECAL/Ep of every shower; NaN where it could not be read, shape (n,).
        hits: number of cells with energy of every shower, shape (n,).
        mean_shower: mean energy of each cell, shape (x, y, z), GeV.
        histogram_edges, histogram: showers in equal bins of Ep, shape (21,), GeV, and (20,).
        problems: one line for each problem; empty if there is none.
    """

    files: tuple[FileSummary, ...]
    energy: NDArray[np.float32]
    sampling_fraction: NDArray[np.float64]
    hits: NDArray[np.int64]
    mean_shower: NDArray[np.float64]
    histogram_edges: NDArray[np.float64]
    histogram: NDArray[np.int64]
    problems: tuple[str, ...]

    def by_energy(self) -> list[dict[str, float]]:
        """Sampling fraction in each bin of Ep that is not empty: low, high, showers, mean, spread, error."""
        rows = []
        readable = np.isfinite(self.sampling_fraction)
        which = np.clip(np.digitize(self.energy, self.histogram_edges) - 1, 0, HISTOGRAM_BINS - 1)
        for k, (low, high) in enumerate(zip(self.histogram_edges[:-1], self.histogram_edges[1:], strict=True)):
            inside = self.sampling_fraction[readable & (which == k)]
            if len(inside):
                spread = float(inside.std())
                error = spread / np.sqrt(len(inside))
                rows.append(
                    {
                        "low_gev": float(low),
                        "high_gev": float(high),
                        "showers": len(inside),
                        "sampling_fraction": float(inside.mean()),
                        "error": float(error),
                        "spread": spread,
                    }
                )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON-compatible values."""
        readable = self.sampling_fraction[np.isfinite(self.sampling_fraction)]
        return {
            "files": [{**dataclasses.asdict(file), "path": str(file.path)} for file in self.files],
            "showers": len(self.energy),
            "energy_gev": [float(self.energy.min()), float(self.energy.max())],
            "sampling_fraction": float(readable.mean()) if len(readable) else None,
            "mean_hits": float(self.hits.mean()),
            "by_energy": self.by_energy(),
            "problems": list(self.problems),
        }


def inspect(paths: Paths, *, format: str | None = None, progress: Callable[[int], None] | None = None) -> Inspection:
    """Read shower files of any detector and look for problems; a damaged chunk does not end the search.

    Args:
        paths: a file, a folder, a pattern, or a list of these.
        format: format to require, see `calogan.events`; None to detect it.
        progress: called with the number of showers in each chunk.

    Raises:
        EventsError: no file exists, or a file cannot be opened at all.
    """
    source = open_events(paths, format=format, shape=None)
    n = len(source)
    fraction, hits = np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    total = np.zeros(source.layouts[0].shape)
    problems: list[str] = []
    hashes: set[int] = set()
    duplicates, empty, above = 0, 0, 0
    for start, events in _chunks(source, problems):
        if events is not None:
            rows = slice(start, start + len(events))
            ecal = events.showers.sum(axis=(1, 2, 3), dtype=np.float64)
            fraction[rows] = ecal / events.energy
            hits[rows] = (events.showers > 0).sum(axis=(1, 2, 3))
            total += events.showers.sum(axis=0, dtype=np.float64)
            keys = [hash((e.tobytes(), s.tobytes())) for s, e in zip(events.showers, events.energy, strict=True)]
            before = len(hashes)
            hashes.update(keys)
            duplicates += len(keys) - (len(hashes) - before)
            empty += int((ecal == 0).sum())
            above += int((ecal > events.energy).sum())
        if progress is not None:
            progress(min(_CHUNK, n - start))
    counts = (
        (empty, "showers hold no energy; training leaves them out, validation counts them"),
        (duplicates, "showers are in the files more than once; statistical errors would come out too small"),
        (above, "showers have more energy in the cells than their primary particle; are the units right?"),
    )
    problems += [f"{count} of {n} {text}" for count, text in counts if count]
    problems += _wrong_on_average(source, fraction, total) + _wrong_in_file(source)
    problems += _wrong_production(paths)
    histogram, edges = np.histogram(source.energy.astype(np.float64), HISTOGRAM_BINS)
    return Inspection(
        files=tuple(
            _summary(path, layout.description, layout.count)
            for path, layout in zip(source.paths, source.layouts, strict=True)
        ),
        energy=source.energy,
        sampling_fraction=fraction,
        hits=hits,
        mean_shower=total / max(1, len(hashes) + duplicates),
        histogram_edges=edges,
        histogram=histogram,
        problems=tuple(problems),
    )


def _chunks(source: EventFiles, problems: list[str]) -> Iterator[tuple[int, Events | None]]:
    """Read in order; a chunk that cannot be read adds to the problems and is yielded as None."""
    for start in range(0, len(source), _CHUNK):
        try:
            yield start, source[start : start + _CHUNK]
        except EventsError as error:
            if len(problems) < _MAX_PROBLEMS:
                problems.append(str(error))
            yield start, None


def _wrong_on_average(source: EventFiles, fraction: NDArray[np.float64], total: NDArray[np.float64]) -> list[str]:
    filled = fraction[fraction > 0]
    if not len(filled) or total.shape != CLIC.shape:
        return []
    problems = []
    median = float(np.median(filled))
    if not _SAMPLING_FRACTION[0] <= median <= _SAMPLING_FRACTION[1]:
        problems.append(f"the sampling fraction is {median:.4f}; showers of this detector have about 0.02")
    for axis, name in enumerate("xy"):
        profile = total.sum(axis=tuple(i for i in range(3) if i != axis))
        centre = float(profile @ np.arange(len(profile)) / profile.sum())
        if abs(centre - CLIC.entry_cell[axis]) > _OFF_CENTRE:
            problems.append(
                f"the showers are centred on cell {centre:.1f} along {name}; expected {CLIC.entry_cell[axis]}"
            )
    if (
        len(np.unique(source.energy)) > 1
        and np.corrcoef(source.energy[fraction > 0], filled * source.energy[fraction > 0])[0, 1] < 0.5
    ):
        problems.append("the energy in the cells does not follow Ep; are energies and showers in the same order?")
    return problems


def _wrong_in_file(source: EventFiles) -> list[str]:
    """Report oblique incidence, which some public files have."""
    problems = []
    for path in source.paths:
        if path.suffix in hit_files.FORMATS:
            continue
        with open_hdf5(path) as file:
            theta = file.get("theta")
            if theta is not None and getattr(theta, "ndim", 0) == 1 and np.ptp(theta[()]) > np.deg2rad(1):
                problems.append(
                    f"{path}: showers of several angles (theta); the generators simulate normal incidence only"
                )
    return problems


def _wrong_production(paths: Paths) -> list[str]:
    folders = [Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else list(paths)) if Path(p).is_dir()]
    return [
        f"{folder}: {problem}"
        for folder in folders
        if (folder / productions.MANIFEST).exists()
        for problem in productions.check_manifest(folder)
    ]


def _summary(path: Path, layout: str, showers: int) -> FileSummary:
    return FileSummary(path, layout, showers, read_header(path))
