"""Atomic writing of shower files, in bounded memory, with their provenance."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from calogan import provenance
from calogan.atomic_files import atomic_write
from calogan.errors import EventsError
from calogan.events.formats import WRITTEN_FORMATS, attributes
from calogan.events.records import Events

ELECTRON_PDG = 11
# Nine cells of ten are empty, which suits plain gzip: the byte shuffle, meant for dense numbers, costs size and time.
# zstd would read twice as fast, but only where its HDF5 plugin is installed. Measurements: docs/files.md.
_COMPRESSION = {"compression": "gzip", "compression_opts": 1}
_CHUNK = 64  # showers, 4 MB dense: large enough for reading in order, small enough for shuffling


def write_events(
    path: str | os.PathLike[str],
    events: Events | Iterable[Events],
    *,
    header: Mapping[str, str] | None = None,
    format: str = "clic",
) -> Path:
    """Write showers to an HDF5 file atomically.

    Args:
        path: the file to write; an existing file is replaced.
        events: the showers, or an iterable of parts, which are never in memory together.
        header: attributes of the file, see `provenance.header`.
        format: `clic` or `calochallenge`, see `formats`.

    Raises:
        EventsError: there are no showers, or the format cannot be written.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if format not in WRITTEN_FORMATS:
        raise EventsError(f"format {format!r} cannot be written; expected one of {', '.join(WRITTEN_FORMATS)}")
    with atomic_write(path) as temporary, _new_file(temporary) as file:
        fill_file(file, events, header=header, format=format)
    return path


def fill_file(
    file: h5py.File,
    events: Events | Iterable[Events],
    *,
    header: Mapping[str, str] | None = None,
    format: str = "clic",
) -> None:
    """Write showers into an open, empty HDF5 file; equal showers and header give equal bytes, however divided.

    Raises:
        EventsError: there are no showers.
    """
    file.attrs.update(attributes(format, header if header is not None else provenance.header()))
    for chunk in _whole_chunks([events] if isinstance(events, Events) else events):
        for name, values in _columns(chunk, format).items():
            _append(file, name, values)
    if not len(file):
        raise EventsError("no showers to write; expected at least one")


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


def _whole_chunks(parts: Iterable[Events]) -> Iterator[Events]:
    # A chunk written twice grows and moves, and HDF5 leaves a hole in its old place.
    waiting: list[Events] = []
    space = _CHUNK
    for part in parts:
        start = 0
        while start < len(part):
            waiting.append(part[start : start + space])
            start += len(waiting[-1])
            space -= len(waiting[-1])
            if not space:
                yield _join(waiting)
                waiting, space = [], _CHUNK
    if waiting:
        yield _join(waiting)


def _join(parts: list[Events]) -> Events:
    return Events(np.concatenate([part.showers for part in parts]), np.concatenate([part.energy for part in parts]))


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
        compression = _COMPRESSION if values[0].size > 100 else {}
        file.create_dataset(
            name, (0, *inner), np.float32, maxshape=(None, *inner), chunks=(_CHUNK, *inner), **compression
        )
    dataset = file[name]
    filled = len(dataset)
    dataset.resize(filled + len(values), axis=0)
    dataset[filled:] = values
