"""Hits as tables of Apache Arrow, in a stream or a Parquet file: a row is a shower.

The columns are `energy`, Ep in GeV, and the lists `cell` and `cell_energy` of `Hits`; the header is the metadata of the
schema. The lists of a batch are the arrays of `Hits` themselves, which nothing copies.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from calogan.errors import EventsError
from calogan.events.hits import Hits, checked_hits

_COLUMNS = {"energy": pa.float32(), "cell": pa.list_(pa.uint16()), "cell_energy": pa.list_(pa.float32())}


def schema(header: Mapping[str, str]) -> pa.Schema:
    """Columns of a table, with a header as its metadata."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()], metadata=dict(header))


def to_batch(hits: Hits) -> pa.RecordBatch:
    """The showers as rows; at most 10,000 of them, because Arrow counts the hits of a batch in 32 bits."""
    offsets = pa.array(hits.offsets.astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (hits.cell, hits.cell_energy)]
    return pa.RecordBatch.from_arrays([pa.array(hits.energy), *lists], schema=schema({}))


def to_hits(table: pa.Table | pa.RecordBatch, *, origin: str) -> Hits:
    """The showers of a table.

    Raises:
        EventsError: it has other columns, or impossible numbers.
    """
    kinds = {field.name: field.type for field in table.schema}
    if {name: kinds.get(name) for name in _COLUMNS} != _COLUMNS:
        raise EventsError(f"{origin}: has the columns {kinds}; expected {_COLUMNS}")
    rows = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    rows.validate(full=True)  # offsets of a damaged file could point outside of it
    energy, cell, cell_energy = (rows[name].combine_chunks() for name in _COLUMNS)
    if any(column.null_count for column in (energy, cell, cell_energy, cell.flatten(), cell_energy.flatten())):
        raise EventsError(f"{origin}: holds null; expected a number or a list everywhere")
    counts = cell.value_lengths().to_numpy(zero_copy_only=False)
    if (counts != cell_energy.value_lengths().to_numpy(zero_copy_only=False)).any():
        raise EventsError(f"{origin}: a shower has another number of cells than of energies")
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    arrays = (column.to_numpy(zero_copy_only=False) for column in (cell.flatten(), cell_energy.flatten(), energy))
    return checked_hits(Hits(offsets, *arrays), origin=origin)


def write_arrow(path: Path, parts: Iterable[Hits], header: Mapping[str, str]) -> None:
    """Write an Arrow IPC stream, with a record batch for each part."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema(header)) as stream:
        for hits in parts:
            stream.write_batch(to_batch(hits))


def write_parquet(path: Path, parts: Iterable[Hits], header: Mapping[str, str]) -> None:
    """Write a Parquet file compressed with zstd, with a row group for each part."""
    settings = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": False}
    # Bytes of equal weight next to each other: the exponents of the energies, and the cells, are much alike.
    with parquet.ParquetWriter(path, schema(header), use_byte_stream_split=True, **settings) as writer:
        for hits in parts:
            writer.write_batch(to_batch(hits))


def read_arrow(path: Path) -> pa.Table:
    """Open an Arrow IPC stream; the showers stay on disk until they are used."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all()


def read_rows(path: Path, start: int, stop: int) -> pa.Table:
    """Read some rows of a Parquet file, and of the other row groups nothing."""
    file = parquet.ParquetFile(path)
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    wanted = range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
    first = int(ends[wanted[0] - 1]) if wanted[0] else 0
    return file.read_row_groups(list(wanted)).slice(start - first, stop - start)


def read_energy(path: Path, format: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Energies of the primary particles, shape (n,), GeV."""
    table = read_arrow(path) if format == "arrow" else parquet.read_table(path, columns=["energy"])
    return np.asarray(table["energy"].to_numpy(), np.float32)


def read_header(path: Path, format: str) -> dict[str, str]:
    """The header of a file."""
    if format == "arrow":
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            metadata = stream.schema.metadata
    else:
        metadata = parquet.read_schema(path).metadata
    return {key.decode(): value.decode("utf-8", "replace") for key, value in (metadata or {}).items()}
