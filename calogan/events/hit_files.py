"""Files of hits, by the end of their name: an Arrow stream (`.arrow`), Parquet (`.parquet`), NumPy arrays (`.npz`).

An archive of NumPy arrays has the fields of `Hits`, and the header as JSON; the other two, see `hit_tables`.
"""

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.events.hits import Hits, checked_hits, regroup

FORMATS = {".arrow": "arrow", ".parquet": "parquet", ".npz": "npz"}
_FIELDS = {"offsets": np.int64, "cell": np.uint16, "cell_energy": np.float32, "energy": np.float32}
# What NumPy and Arrow raise for a damaged file; those of Arrow are kinds of Python's.
_DAMAGE = (OSError, EOFError, LookupError, TypeError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_CHUNK = 1024  # showers of a record batch or row group, 9 MB


def write(path: Path, parts: Iterable[Hits], header: Mapping[str, str], *, format: str) -> None:
    """Write hits to a new file; equal showers and header give equal bytes, however divided.

    Args:
        path: the file.
        parts: the showers; those of `npz` are in memory together.
        header: attributes of the file, see `provenance.header`.
        format: `arrow`, `parquet` or `npz`.
    """
    if format == "npz":
        hits = Hits.concatenate(list(parts))
        np.savez_compressed(path, **vars(hits), header=np.array(json.dumps(dict(header))))
        return
    from calogan.events import hit_tables  # noqa: PLC0415 - pyarrow takes a while

    {"arrow": hit_tables.write_arrow, "parquet": hit_tables.write_parquet}[format](path, regroup(parts, _CHUNK), header)


def read_energy(path: Path) -> NDArray[np.float32]:
    """Energies of the primary particles of a file, shape (n,), GeV.

    Raises:
        EventsError: the file contains no showers, or is damaged.
    """
    with _reading(path) as format:
        if format == "npz":
            energy = _read_npz(path).energy
        else:
            from calogan.events import hit_tables  # noqa: PLC0415

            energy = hit_tables.read_energy(path, format)
    if energy.ndim != 1 or len(energy) == 0:
        raise EventsError(f"{path}: no showers; expected at least one")
    if not (np.isfinite(energy) & (energy > 0)).all():
        raise EventsError(f"{path}: the energy of a primary particle is not a number above 0; expected GeV")
    return energy


def read_hits(path: Path, start: int, stop: int) -> Hits:
    """Read some showers of a file.

    Raises:
        EventsError: the file is damaged.
    """
    with _reading(path) as format:
        if format == "npz":
            return _read_npz(path)[start:stop]
        from calogan.events import hit_tables  # noqa: PLC0415

        if format == "arrow":
            rows = hit_tables.read_arrow(path).slice(start, stop - start)
        else:
            rows = hit_tables.read_rows(path, start, stop)
        return hit_tables.to_hits(rows, origin=str(path))


def read_header(path: Path) -> dict[str, str]:
    """Read the header of a file.

    Raises:
        EventsError: the file is damaged.
    """
    with _reading(path) as format:
        if format == "npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"])) if "header" in archive else {}
            return {str(name): str(value) for name, value in header.items()}
        from calogan.events import hit_tables  # noqa: PLC0415

        return hit_tables.read_header(path, format)


def _read_npz(path: Path) -> Hits:
    if not zipfile.is_zipfile(path):  # numpy would try to read it as a pickle
        raise EventsError(f"{path}: is no archive of NumPy arrays")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in _FIELDS}
    for name, kind in _FIELDS.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            found = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            raise EventsError(f"{path}: {name} is {found}; expected a list of {kind.__name__}")
    return checked_hits(Hits(**arrays), origin=str(path))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[str]:
    """Translate the errors of the libraries; yields the format of the file."""
    if not path.is_file():
        raise EventsError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    format = FORMATS[path.suffix]
    try:
        yield format
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EventsError(f"{path}: is not a readable {format} file of showers ({reason})") from error
