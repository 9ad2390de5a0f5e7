"""Showers in files, read when they are asked for: one file, several, a folder or a pattern, in any known format."""

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.events.formats import Layout, read_showers, recognise
from calogan.events.records import Events, checked_events
from calogan.geometry import CLIC

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
# What h5py raises in a damaged file, between its opening and its last chunk; it has no exception of its own.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
_SUFFIXES = (".h5", ".hdf5", ".hdf")


@dataclass(frozen=True, eq=False)
class EventFiles:
    """Showers of files, in the order of the files; a slice reads its showers from disk.

    Attributes:
        paths: the files.
        layouts: how each stores its showers.
        energy: energy of the primary particle of every shower, shape (n,), GeV.
    """

    paths: tuple[Path, ...]
    layouts: tuple[Layout, ...]
    energy: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, which: slice, /) -> Events:
        """Read and check showers.

        Raises:
            EventsError: a file is damaged there, or a shower cannot be one.
        """
        start, stop, step = which.indices(len(self))
        if step != 1:
            raise ValueError("showers of files are read in order: the step of a slice must be 1")
        showers = np.empty((max(0, stop - start), *self.layouts[0].shape), dtype=np.float32)
        filled, first = 0, 0
        for path, layout in zip(self.paths, self.layouts, strict=True):
            low, high = max(start - first, 0), min(stop - first, layout.count)
            if low < high:
                part = showers[filled : filled + high - low]
                _read_into(part, path, layout, low, high)
                checked_events(
                    part, self.energy[first + low : first + high], origin=str(path), shape=layout.shape, first=low
                )
                filled += high - low
            first += layout.count
        return Events(showers, self.energy[start:stop])

    def chunks(self, size: int = 1024) -> Iterator[Events]:
        """Read all showers in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def open_events(
    paths: Paths, *, format: str | None = None, shape: tuple[int, int, int] | None = CLIC.shape
) -> EventFiles:
    """Open files of showers without reading the showers.

    Args:
        paths: an HDF5 file, a folder of them, a pattern such as `showers-*.h5`, or a list of any of these.
        format: one of `formats.FORMATS` to insist on; None recognises the format of each file.
        shape: cells along (x, y, z) that are expected; None for those of any detector.

    Raises:
        EventsError: nothing is there, or a file is not HDF5, truncated, or holds something else than showers.
    """
    found = find_files(paths)
    layouts: list[Layout] = []
    energies: list[NDArray[np.float32]] = []
    for path in found:
        with opened(path) as file:
            layout, energy = recognise(path, file, format=format, shape=shape)
        if layouts and layout.shape != layouts[0].shape:
            raise EventsError(
                f"{path}: showers of {layout.shape} cells, but {found[0]} has {layouts[0].shape}; give files of one detector"
            )
        layouts.append(layout)
        energies.append(energy)
    return EventFiles(tuple(found), tuple(layouts), np.concatenate(energies))


def read_events(paths: Paths, *, format: str | None = None, shape: tuple[int, int, int] | None = CLIC.shape) -> Events:
    """Read all showers of files into memory, 62.5 kB each; see `open_events`.

    Raises:
        EventsError: nothing is there, or a file is not HDF5, truncated, or holds something else than showers.
    """
    return open_events(paths, format=format, shape=shape)[:]


def find_files(paths: Paths) -> list[Path]:
    """List the files that are meant by names, folders and patterns, in order of name within each.

    Raises:
        EventsError: one of them names no file.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given or not all(os.fspath(item) for item in given):
        raise EventsError("no file of showers is named; expected one or more HDF5 files")
    found: list[Path] = []
    for text in (os.fspath(item) for item in given):
        try:
            members, problem = _members(text)
        except OSError as error:
            raise EventsError(f"{text}: cannot be looked up ({error.strerror})") from error
        if not members:
            raise EventsError(f"{text}: {problem}")
        found += members
    known: set[str] = set()
    for path in found:
        real = os.path.realpath(path)
        if real in known:
            raise EventsError(f"{path}: named more than once; its showers would count twice")
        known.add(real)
    return found


def _members(text: str) -> tuple[list[Path], str]:
    """Files that one name stands for, and what to say if there are none."""
    path = Path(text)
    if path.is_dir():
        members = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and not p.name.startswith("."))
        return members, "the folder holds no HDF5 file (.h5, .hdf5)"
    if glob.has_magic(text) and not path.exists():
        names = glob.glob(text, recursive=True)  # noqa: PTH207 - absolute patterns
        return sorted(Path(name) for name in names if Path(name).is_file()), "the pattern matches no file"
    return [path] if path.exists() else [], "no such file"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; what HDF5 finds wrong with it, then or later, becomes an error that says so.

    Raises:
        EventsError: the file is missing, not HDF5, truncated or damaged.
    """
    if not path.exists():
        raise EventsError(f"{path}: no such file")
    if not path.is_file():  # opening a pipe would wait for its writer
        raise EventsError(f"{path}: is a {'folder' if path.is_dir() else 'device or pipe'}; name an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except _DAMAGE as error:
        problem = "is truncated" if "truncated" in str(error) else "is not a readable HDF5 file"
        raise EventsError(f"{path}: {problem} ({error})") from error
    with file:
        try:
            yield file
        except _DAMAGE as error:
            raise EventsError(
                f"{path}: is damaged ({str(error) or type(error).__name__}); make or fetch it anew"
            ) from error


def _read_into(part: NDArray[np.float32], path: Path, layout: Layout, low: int, high: int) -> None:
    with opened(path) as file:
        plain = layout.axes == "xyz" and layout.stored == layout.shape and layout.gev_per_unit == 1
        if plain and file[layout.showers].dtype == np.float32:
            file[layout.showers].read_direct(part, np.s_[low:high])
        else:
            part[:] = read_showers(file, layout, slice(low, high))
