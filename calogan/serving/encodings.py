"""Encode showers as the body of an HTTP response, in every supported media type, and decode them.

Equal showers and headers give equal bytes, so clients can compare responses by their checksums.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

import h5py
import numpy as np
import pyarrow as pa

from calogan.errors import EventsError, RequestError
from calogan.events import Events, Hits, checked_events, fill_file, hit_tables

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")  # RFC 9110, section 12.4.2
_DAMAGE = (OSError, KeyError, TypeError, ValueError, IndexError, zipfile.BadZipFile, zlib.error, pa.ArrowException)
_ARROW_BATCH = 256  # showers


class NotAcceptableError(RequestError):
    """The client accepts none of the supported media types."""

    http_status = 406


class Writer(Protocol):
    """Encodes showers part by part."""

    def add(self, hits: Hits) -> bytes:
        """Encode the next showers."""
        ...

    def end(self) -> bytes:
        """Return what comes after the last shower."""
        ...


@dataclass(frozen=True)
class Encoding:
    """One media type for showers; it is either streamed, by its writer, or written whole, by its function `fill`.

    Attributes:
        media_type: its name in the headers Accept and Content-Type.
        suffix: suffix of a file with these bytes, with its dot.
        writer: makes the writer of a response with a header for provenance.
        fill: writes showers and such a header into an empty binary file.
        decode: function that decodes showers; its errors are not translated, see `decode`.
        max_showers: largest sensible number of showers in this encoding; None for no extra limit.
        dtype: type of the numbers of a response without any structure, which headers describe instead.
        head: bytes before these numbers.
    """

    media_type: str
    suffix: str
    writer: Callable[[Mapping[str, str]], Writer] | None = None
    fill: Callable[[Iterable[Hits], Mapping[str, str], IO[bytes]], None] | None = None
    decode: Callable[[bytes], Events] | None = None
    max_showers: int | None = None
    dtype: str | None = None
    head: bytes = b""

    def encode(self, parts: Iterable[Hits], header: Mapping[str, str]) -> bytes:
        """Encode showers at once."""
        if self.writer:
            writer = self.writer(header)
            return b"".join([*(writer.add(part) for part in parts), writer.end()])
        buffer = io.BytesIO()
        if self.fill:
            self.fill(parts, header, buffer)
        return buffer.getvalue()


def choose(accept: str | None) -> Encoding:
    """Choose the encoding a client prefers; among equals, the first one in `ENCODINGS`.

    Args:
        accept: the Accept header of the request (RFC 9110, section 12.5.1); None if there is none.

    Raises:
        NotAcceptableError: none of the named media types is supported.
    """
    if accept is None or not accept.strip():
        return HDF5
    qualities = _qualities(accept)
    best = max(ENCODINGS.values(), key=lambda encoding: _quality(encoding.media_type, qualities))
    if _quality(best.media_type, qualities) == 0:
        raise NotAcceptableError(f"Accept: {accept[:200]} names no supported type; choose from {', '.join(ENCODINGS)}")
    return best


def decode(content: bytes, media_type: str) -> Events:
    """Decode showers from the body of a response.

    Args:
        content: the bytes.
        media_type: one of `ENCODINGS` with a structure; its parameters, such as a charset, are ignored.

    Raises:
        EventsError: the media type is unknown, or the bytes are not showers in it.
    """
    name = media_type.partition(";")[0].strip().lower()
    decoder = ENCODINGS[name].decode if name in ENCODINGS else None
    if decoder is None:
        known = [name for name, encoding in ENCODINGS.items() if encoding.decode]
        raise EventsError(f"media type {media_type!r} cannot be decoded; expected one of {', '.join(known)}")
    try:
        return decoder(content)
    except (EventsError, *_DAMAGE) as error:
        raise EventsError(f"{len(content)} bytes of {name} are damaged or contain no showers ({error})") from error


class ArrowWriter:
    """Writer of an Arrow IPC stream as `events.hit_tables` writes them; the metadata of its schema is the header.

    Its batches have a fixed number of showers, so that the bytes do not depend on how the showers were drawn.
    """

    def __init__(self, header: Mapping[str, str]) -> None:
        self._sink = io.BytesIO()
        self._stream = pa.ipc.new_stream(self._sink, hit_tables.schema(header))
        self._waiting: list[Hits] = []
        self._count = 0

    def add(self, hits: Hits) -> bytes:
        """Encode the next showers, as far as they fill whole batches."""
        self._waiting.append(hits)
        self._count += len(hits)
        if self._count >= _ARROW_BATCH:
            whole = Hits.concatenate(self._waiting)
            while len(whole) >= _ARROW_BATCH:
                self._stream.write_batch(hit_tables.to_batch(whole[:_ARROW_BATCH]))
                whole = whole[_ARROW_BATCH:]
            self._waiting, self._count = [whole], len(whole)
        return self._written()

    def end(self) -> bytes:
        """Encode the rest, and the mark of the end."""
        if self._count:
            self._stream.write_batch(hit_tables.to_batch(Hits.concatenate(self._waiting)))
        self._stream.close()
        return self._written()

    def _written(self) -> bytes:
        content = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return content


class RawWriter:
    """Writer of the numbers of all cells, one shower after the other, without any structure."""

    def __init__(self, dtype: str, head: bytes = b"") -> None:
        self._dtype, self._head = dtype, head

    def add(self, hits: Hits) -> bytes:
        """Encode the next showers, shape (n, 25, 25, 25)."""
        head, self._head = self._head, b""
        return head + hits.to_dense().showers.astype(self._dtype, copy=False).tobytes()

    def end(self) -> bytes:
        """Return nothing."""
        return b""


def _qualities(accept: str) -> dict[str, float]:
    ranges = {}
    for entry in accept.lower().split(","):
        media_range, *parameters = (part.strip() for part in entry.split(";"))
        qualities = [value for name, _, value in (part.partition("=") for part in parameters) if name == "q"]
        quality = qualities[0] if qualities else "1"
        if _QUALITY.fullmatch(quality):
            ranges[media_range] = float(quality)
    return ranges


def _quality(media_type: str, qualities: Mapping[str, float]) -> float:
    family = media_type.partition("/")[0]
    most_specific_first = (media_type, f"{family}/*", "*/*")
    return next((qualities[name] for name in most_specific_first if name in qualities), 0.0)


def _from_arrow(content: bytes) -> Events:
    with pa.ipc.open_stream(content) as stream:
        parts = [hit_tables.to_hits(batch, origin="Arrow") for batch in stream]
    return Hits.concatenate(parts).to_dense()


def _to_hdf5(parts: Iterable[Hits], header: Mapping[str, str], target: IO[bytes]) -> None:
    with h5py.File(target, "w") as file:
        fill_file(file, (part.to_dense() for part in parts), header=header)


def _from_hdf5(content: bytes) -> Events:
    with h5py.File(io.BytesIO(content), "r") as file:
        return checked_events(file["ECAL"][()], file["target"][:, 1], origin="HDF5")


def _to_npz(parts: Iterable[Hits], header: Mapping[str, str], target: IO[bytes]) -> None:
    events = Hits.concatenate(list(parts)).to_dense()
    np.savez_compressed(target, showers=events.showers, energy=events.energy, header=np.array(json.dumps(dict(header))))


def _from_npz(content: bytes) -> Events:
    if not zipfile.is_zipfile(io.BytesIO(content)):  # numpy would try to read it as a pickle
        raise zipfile.BadZipFile("not a zip archive")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return checked_events(archive["showers"], archive["energy"], origin="npz")


def _to_json(parts: Iterable[Hits], header: Mapping[str, str], target: IO[bytes]) -> None:
    events = Hits.concatenate(list(parts)).to_dense()
    body = {"header": dict(header), "energy": events.energy.tolist(), "showers": events.showers.tolist()}
    target.write(json.dumps(body, allow_nan=False, separators=(",", ":")).encode())


def _from_json(content: bytes) -> Events:
    body = json.loads(content)
    return checked_events(body["showers"], body["energy"], origin="JSON")


# An HDF5 file cannot be sent before it is complete, so it is written to disk first.
HDF5 = Encoding("application/x-hdf5", ".h5", fill=_to_hdf5, decode=_from_hdf5, max_showers=100_000)
ARROW = Encoding("application/vnd.apache.arrow.stream", ".arrow", writer=ArrowWriter, decode=_from_arrow)
NPZ = Encoding("application/x-npz", ".npz", fill=_to_npz, decode=_from_npz, max_showers=1_000)
# One shower takes about 100 kB of JSON, and both ends need ten times as much memory to parse it.
JSON = Encoding("application/json", ".json", fill=_to_json, decode=_from_json, max_showers=100)
FLOAT32 = Encoding("application/x-float32", ".f32", writer=lambda _: RawWriter("<f4"), dtype="<f4")
# Numbers below 6e-5 lose digits: half the size of float32, not its accuracy.
FLOAT16 = Encoding("application/x-float16", ".f16", writer=lambda _: RawWriter("<f2"), dtype="<f2")

ENCODINGS = {encoding.media_type: encoding for encoding in (HDF5, ARROW, NPZ, JSON, FLOAT32, FLOAT16)}
