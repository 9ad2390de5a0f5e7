"""Atomic writing of shower files, in bounded memory, with their provenance."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np

from calogan import provenance
from calogan.atomic_files import atomic_write
from calogan.errors import EventsError
from calogan.events import hit_files, point_clouds
from calogan.events.formats import WRITTEN_FORMATS, WRITTEN_HDF5, attributes
from calogan.events.hits import Hits, regroup
from calogan.events.point_clouds import ELECTRON_PDG
from calogan.events.records import Events

Showers: TypeAlias = Events | Hits
# Nine cells of ten are empty, which suits plain gzip: the byte shuffle, meant for dense numbers, costs size and time.
# zstd would read twice as fast, but only where its HDF5 plugin is installed. Measurements: docs/files.md.
_COMPRESSION = {"compression": "gzip", "compression_opts": 1}
_NO_SHOWERS = "no showers to write; expected at least one"
_CHUNK = 64  # showers, 4 MB dense: large enough for reading in order, small enough for shuffling


def write_events(
    path: str | os.PathLike[str],
    events: Showers | Iterable[Showers],
    *,
    header: Mapping[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Write showers to a file atomically.

    Args:
        path: the file to write; an existing file is replaced.
        events: the showers or their hits, or an iterable of parts, which are never in memory together.
        header: attributes of the file, see `provenance.header`.
        format: one of `formats.WRITTEN_FORMATS`; None for that of the name, see `format_of`.

    Raises:
        EventsError: there are no showers, or the format cannot be written to a file of this name.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    kind = format_of(path, format)
    with atomic_write(path) as temporary:
        write_file(temporary, events, header=header, format=kind)
    return path


def format_of(path: Path, format: str | None = None) -> str:
    """Format of a new file: that of hits for `.arrow`, `.parquet` and `.npz`, HDF5 (`clic`) for all other names.

    Args:
        path: the file.
        format: one of `formats.WRITTEN_FORMATS` that the file is to have; None for any.

    Raises:
        EventsError: there is no such format, or files of this name have another one.
    """
    if format is not None and format not in WRITTEN_FORMATS:
        raise EventsError(f"format {format!r} cannot be written; expected one of {', '.join(WRITTEN_FORMATS)}")
    by_name = hit_files.FORMATS.get(path.suffix)
    if by_name and format not in (None, by_name):
        raise EventsError(f"{path}: the name says {by_name}, not {format}; name a file .h5")
    if not by_name and format not in (None, *WRITTEN_HDF5):
        raise EventsError(f"{path}: a file of the format {format} is called {suffix_of(format or '')}")
    return by_name or format or "clic"


def suffix_of(format: str) -> str:
    """End of the name of a file of a format."""
    return next((suffix for suffix, name in hit_files.FORMATS.items() if name == format), ".h5")


def write_file(
    path: Path, events: Showers | Iterable[Showers], *, header: Mapping[str, str] | None = None, format: str
) -> None:
    """Write showers to a new file, which is incomplete until this returns; see `write_events`."""
    parts = [events] if isinstance(events, Events | Hits) else events
    header = header if header is not None else provenance.header()
    if format in WRITTEN_HDF5 and format != "showerdata":
        with _new_file(path) as file:
            fill_file(file, parts, header=header, format=format)
        return
    written = 0

    def hits() -> Iterator[Hits]:
        nonlocal written
        for part in parts:
            written += len(part)
            yield part if isinstance(part, Hits) else Hits.from_dense(part)

    if format == "showerdata":
        with _new_file(path) as file:
            point_clouds.fill(file, hits(), header)
    else:
        hit_files.write(path, hits(), header, format=format)
    if not written:
        raise EventsError(_NO_SHOWERS)


def fill_file(
    file: h5py.File,
    events: Showers | Iterable[Showers],
    *,
    header: Mapping[str, str] | None = None,
    format: str = "clic",
) -> None:
    """Write showers into an open, empty HDF5 file; equal showers and header give equal bytes, however divided.

    Raises:
        EventsError: there are no showers.
    """
    file.attrs.update(attributes(format, header if header is not None else provenance.header()))
    parts = [events] if isinstance(events, Events | Hits) else events
    # A chunk written twice grows and moves, and HDF5 leaves a hole in its old place.
    for chunk in regroup(parts, _CHUNK):
        dense = chunk.to_dense() if isinstance(chunk, Hits) else chunk
        for name, values in _columns(dense, format).items():
            _append(file, name, values)
    if not len(file):
        raise EventsError(_NO_SHOWERS)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[h5py.File]:
    file = h5py.File(path, "w")
    try:
        yield file
    finally:
        try:
            file.close()
        except RuntimeError as error:  # a full disk, reported when the rest is flushed
            raise OSError(str(error)) from error


def _columns(events: Events, format: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    if format == "calochallenge":
        cells = np.moveaxis(events.showers, 3, 1).reshape(len(events), -1)
        return {"incident_energies": events.energy[:, None] * np.float32(1000), "showers": cells * np.float32(1000)}
    none = np.zeros_like(events.energy)
    target = np.stack([np.full_like(none, ELECTRON_PDG), events.energy, none, none, events.energy], axis=1)
    return {"ECAL": events.showers, "target": target}


def _append(file: h5py.File, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    inner = values.shape[1:]
    if name not in file:
        # The first chunk is the only one of fewer showers than `_CHUNK`, or of that many.
        compression = _COMPRESSION if values[0].size > 100 else {}
        file.create_dataset(name, (0, *inner), np.float32, maxshape=(None, *inner), chunks=values.shape, **compression)
    dataset = file[name]
    filled = len(dataset)
    dataset.resize(filled + len(values), axis=0)
    dataset[filled:] = values
