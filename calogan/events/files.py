"""Showers in files, read on demand: one file, several files, a folder or a pattern, in any supported format."""

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
from calogan.events import hit_files
from calogan.events.formats import FORMATS, Layout, read_showers, recognise
from calogan.events.records import Events, checked_events
from calogan.geometry import CELLS, CLIC

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
# What h5py raises for a damaged file, on opening or on reading any chunk; it has no exception of its own.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
SUFFIXES = (".h5", ".hdf5", ".hdf", *hit_files.FORMATS)


@dataclass(frozen=True, eq=False)
class EventFiles:
    """Showers in files, in the order of the files; a slice reads its showers from disk.

    Attributes:
        paths: the files.
        layouts: how each file stores its showers.
        energy: energy of the primary particle of every shower, shape (n,), GeV.
    """

    paths: tuple[Path, ...]
    layouts: tuple[Layout, ...]
    energy: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, which: slice, /) -> Events:
        """Read and check a slice of the showers.

        Raises:
            EventsError: a file is damaged there, or a shower is not physically possible.
        """
        start, stop, step = which.indices(len(self))
        if step != 1:
            raise ValueError(f"the step of the slice is {step}; expected 1, because files are read in order")
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
    """Open shower files without reading the showers.

    Args:
        paths: a file, a folder of them, a pattern such as `showers-*.h5`, or a list of any of these.
        format: one of `formats.FORMATS` to require; None detects the format of each file.
        shape: expected number of cells along (x, y, z); None accepts any detector.

    Raises:
        EventsError: no file exists, or a file is of no known kind, is truncated, or contains something other than
            showers.
    """
    if format is not None and format not in FORMATS:
        raise EventsError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    files = find_files(paths)
    layouts: list[Layout] = []
    energies: list[NDArray[np.float32]] = []
    for path in files:
        layout, energy = _recognise(path, format, shape)
        if layouts and layout.shape != layouts[0].shape:
            raise EventsError(
                f"{path}: showers of {layout.shape} cells, but {files[0]} has {layouts[0].shape}; "
                "give files of one detector"
            )
        layouts.append(layout)
        energies.append(energy)
    return EventFiles(tuple(files), tuple(layouts), np.concatenate(energies))


def _recognise(
    path: Path, format: str | None, shape: tuple[int, int, int] | None
) -> tuple[Layout, NDArray[np.float32]]:
    """Layout of a file, and the energies of the primary particles, shape (n,), GeV."""
    kind = hit_files.FORMATS.get(path.suffix)
    if not kind:
        with open_hdf5(path) as file:
            return recognise(path, file, format=format, shape=shape)
    if format not in (None, kind):
        raise EventsError(f"{path}: is not in the format {format!r}: its name says {kind}")
    energy = hit_files.read_energy(path)
    return Layout(kind, len(energy), "", 1.0, (CELLS,), "xyz", (0, 0), CLIC.shape), energy


def read_header(path: Path) -> dict[str, str]:
    """Read the attributes of a file, see `provenance.header`.

    Raises:
        EventsError: the file is missing or damaged.
    """
    if path.suffix in hit_files.FORMATS:
        return hit_files.read_header(path)
    with open_hdf5(path) as file:
        attributes = {str(name): value for name, value in file.attrs.items()}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for name, value in attributes.items()
    }


def read_events(paths: Paths, *, format: str | None = None, shape: tuple[int, int, int] | None = CLIC.shape) -> Events:
    """Read all showers of the files into memory, 62.5 kB each; see `open_events`.

    Raises:
        EventsError: no file exists, or a file is not HDF5, is truncated, or contains something other than showers.
    """
    return open_events(paths, format=format, shape=shape)[:]


def find_files(paths: Paths) -> list[Path]:
    """List the files that names, folders and patterns stand for, sorted by name within each folder or pattern.

    Raises:
        EventsError: one of them matches no file, or a file is listed twice.
    """
    names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not names or not all(os.fspath(name) for name in names):
        raise EventsError("no shower file given; expected one or more files")
    files: list[Path] = []
    for text in (os.fspath(name) for name in names):
        try:
            members, problem = _members(text)
        except OSError as error:
            raise EventsError(f"{text}: cannot be accessed ({error.strerror})") from error
        if not members:
            raise EventsError(f"{text}: {problem}")
        files += members
    targets: set[str] = set()
    for path in files:
        target = os.path.realpath(path)
        if target in targets:
            raise EventsError(f"{path}: given more than once, so its showers would count twice; name each file once")
        targets.add(target)
    return files


def _members(text: str) -> tuple[list[Path], str]:
    """Files that one name stands for, and the error message if there are none."""
    path = Path(text)
    if path.is_dir():
        members = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
        return members, f"the folder contains no file of showers ({', '.join(SUFFIXES)})"
    if glob.has_magic(text) and not path.exists():
        names = glob.glob(text, recursive=True)  # noqa: PTH207 - absolute patterns
        return sorted(Path(name) for name in names if Path(name).is_file()), "the pattern matches no file"
    return [path] if path.exists() else [], "no such file"


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading and translate the errors of HDF5, also those raised while the file is open.

    Raises:
        EventsError: the file is missing, not HDF5, truncated or damaged.
    """
    if not path.exists():
        raise EventsError(f"{path}: no such file")
    if not path.is_file():  # opening a pipe would block until something writes to it
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
                f"{path}: is damaged ({str(error) or type(error).__name__}); create or download it again"
            ) from error


def _read_into(part: NDArray[np.float32], path: Path, layout: Layout, low: int, high: int) -> None:
    if path.suffix in hit_files.FORMATS:
        part[:] = hit_files.read_hits(path, low, high).to_dense().showers
        return
    with open_hdf5(path) as file:
        plain = layout.axes == "xyz" and layout.stored == layout.shape and layout.gev_per_unit == 1
        if plain and file[layout.showers].dtype == np.float32:
            file[layout.showers].read_direct(part, np.s_[low:high])
        else:
            part[:] = read_showers(file, layout, slice(low, high))
