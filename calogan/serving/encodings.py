"""Encode showers as the body of an HTTP response, in every supported media type, and decode them.

Equal showers and headers give equal bytes, so clients can compare responses by their checksums.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import h5py
import numpy as np

from calogan.errors import EventsError, RequestError
from calogan.events import Events, checked_events, fill_file

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")  # RFC 9110, section 12.4.2


class NotAcceptableError(RequestError):
    """The client accepts none of the supported media types."""

    http_status = 406


@dataclass(frozen=True)
class Encoding:
    """One media type for showers.

    Attributes:
        media_type: its name in the headers Accept and Content-Type.
        suffix: suffix of a file with these bytes, with its dot.
        encode: function that encodes showers and a header with their provenance.
        decode: function that decodes showers; its errors are not translated, see `decode`.
        max_showers: largest sensible number of showers in this encoding; None for no extra limit.
    """

    media_type: str
    suffix: str
    encode: Callable[[Events, Mapping[str, str]], bytes]
    decode: Callable[[bytes], Events]
    max_showers: int | None = None


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
        raise NotAcceptableError(f"Accept: {accept} names no supported type; choose from {', '.join(ENCODINGS)}")
    return best


def decode(content: bytes, media_type: str) -> Events:
    """Decode showers from the body of a response.

    Args:
        content: the bytes.
        media_type: one of `ENCODINGS`; its parameters, such as a charset, are ignored.

    Raises:
        EventsError: the media type is unknown, or the bytes are not showers in it.
    """
    name = media_type.partition(";")[0].strip().lower()
    if name not in ENCODINGS:
        raise EventsError(f"media type {media_type!r} is unknown; expected one of {', '.join(ENCODINGS)}")
    try:
        return ENCODINGS[name].decode(content)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise EventsError(f"{len(content)} bytes of {name} are damaged or contain no showers ({error})") from error


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


def _to_hdf5(events: Events, header: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill_file(file, events, header=header)
    return buffer.getvalue()


def _from_hdf5(content: bytes) -> Events:
    with h5py.File(io.BytesIO(content), "r") as file:
        return checked_events(file["ECAL"][()], file["target"][:, 1], origin="HDF5")


def _to_npz(events: Events, header: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, showers=events.showers, energy=events.energy, header=np.array(json.dumps(dict(header))))
    return buffer.getvalue()


def _from_npz(content: bytes) -> Events:
    if not zipfile.is_zipfile(io.BytesIO(content)):  # numpy would try to read it as a pickle
        raise zipfile.BadZipFile("not a zip archive")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return checked_events(archive["showers"], archive["energy"], origin="npz")


def _to_json(events: Events, header: Mapping[str, str]) -> bytes:
    body = {"header": dict(header), "energy": events.energy.tolist(), "showers": events.showers.tolist()}
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _from_json(content: bytes) -> Events:
    body = json.loads(content)
    return checked_events(body["showers"], body["energy"], origin="JSON")


HDF5 = Encoding("application/x-hdf5", ".h5", _to_hdf5, _from_hdf5)
NPZ = Encoding("application/x-npz", ".npz", _to_npz, _from_npz)
# One shower takes about 100 kB of JSON, and both ends need ten times as much memory to parse it.
JSON = Encoding("application/json", ".json", _to_json, _from_json, max_showers=100)

ENCODINGS = {encoding.media_type: encoding for encoding in (HDF5, NPZ, JSON)}
