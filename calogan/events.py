"""Showers and the energies that made them: in memory, in files, and divided into samples.

One layout is written and read: CLIC HDF5, `ECAL` (n, 25, 25, 25) in GeV with axes (x, y, z), and
`target` (n, k) whose column 1 is the energy of the primary particle in GeV.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from calogan import provenance
from calogan.errors import EventsError, RequestError
from calogan.geometry import CLIC

ELECTRON_PDG = 11
_CHUNK = 50  # showers; a chunk is about 3 MB dense, which compresses and streams well


@dataclass(frozen=True, eq=False)
class Events:
    """A sample of showers.

    Attributes:
        showers: energy deposited in each cell, shape (n, 25, 25, 25), axes (x, y, z), GeV, float32.
        energy: energy of each primary particle, shape (n,), GeV, float32.
    """

    showers: NDArray[np.float32]
    energy: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, which: slice | NDArray[np.intp] | NDArray[np.bool_]) -> "Events":
        return Events(self.showers[which], self.energy[which])


@dataclass(frozen=True)
class EnergyRange:
    """Energies drawn flat in [low, high] GeV; low equals high for one fixed energy."""

    low: float
    high: float

    def draw(self, n: int, seed: int) -> NDArray[np.float32]:
        """Draw n energies, shape (n,), GeV; the k-th depends on the seed and on k only."""
        uniform = np.random.Generator(np.random.Philox(key=seed)).random(n)
        return np.asarray(self.low + (self.high - self.low) * uniform, dtype=np.float32)


def parse_energy(text: str) -> EnergyRange:
    """Read `200` (every shower has that energy) or `2:500` (drawn flat between the two), in GeV.

    Raises:
        RequestError: the text is not a positive number or two rising ones.
    """
    try:
        low, high = (float(part) for part in (text.split(":") if ":" in text else (text, text)))
    except ValueError:
        raise RequestError(
            f"energy {text!r} is not understood; give GeV as 200, or as 2:500 for a flat range"
        ) from None
    if not (0 < low <= high < np.inf):
        raise RequestError(f"energy {text!r} must be positive, finite and rising, for example 200 or 2:500 (GeV)")
    return EnergyRange(low, high)


def packaged_sample() -> Path:
    """Return the path of the 1,000 Geant4 showers that come with the package."""
    return Path(str(resources.files("calogan") / "data" / "geant4_electrons_2-500GeV.h5"))


def read_events(path: str | os.PathLike[str]) -> Events:
    """Read all showers of a file.

    Args:
        path: an HDF5 file in the CLIC layout.

    Raises:
        EventsError: the file is missing, not HDF5, truncated, or holds something else than showers.
    """
    path = Path(path)
    if not path.exists():
        raise EventsError(f"{path}: no such file")
    if path.is_dir():
        raise EventsError(f"{path}: is a folder; name an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            showers, target = _dataset(path, file, "ECAL"), _dataset(path, file, "target")
    except OSError as error:
        problem = "is truncated" if "truncated" in str(error) else "is not a readable HDF5 file"
        raise EventsError(f"{path}: {problem} ({error})") from error
    if target.ndim != 2 or target.shape[1] < 2:
        raise EventsError(
            f"{path}: target has shape {target.shape}; expected (n, 2 or more) with column 1 = energy in GeV"
        )
    return checked_events(showers, target[:, 1], origin=str(path))


def checked_events(showers: ArrayLike, energy: ArrayLike, *, origin: str) -> Events:
    """Make Events of two arrays, or say what is wrong with them.

    Args:
        showers: deposited energy per cell, shape (n, 25, 25, 25), GeV.
        energy: energy of the primary particles, shape (n,), GeV.
        origin: where the arrays come from, for the message.

    Raises:
        EventsError: wrong shape or length, no showers, a number that is not finite or is negative.
    """
    x, e = np.asarray(showers, dtype=np.float32), np.asarray(energy, dtype=np.float32)
    if x.ndim != 4 or x.shape[1:] != CLIC.shape:
        raise EventsError(f"{origin}: showers have shape {x.shape}; expected (n, {', '.join(map(str, CLIC.shape))})")
    if e.shape != (len(x),):
        raise EventsError(
            f"{origin}: {len(x)} showers but energies of shape {e.shape}; expected one energy for each shower"
        )
    if len(x) == 0:
        raise EventsError(f"{origin}: no showers; expected at least one")
    for name, values in (("energy", e), ("shower cell", x)):
        if not np.isfinite(values).all():
            raise EventsError(f"{origin}: a {name} is not a finite number (shower {_first(~np.isfinite(values))})")
    if (e <= 0).any():
        raise EventsError(f"{origin}: shower {_first(e <= 0)} has energy {e.min()} GeV; expected more than 0")
    if (x < 0).any():
        raise EventsError(f"{origin}: shower {_first(x < 0)} has a cell with negative energy ({x.min()} GeV)")
    return Events(x, e)


def write_events(path: str | os.PathLike[str], events: Events, *, header: Mapping[str, str] | None = None) -> Path:
    """Write showers as CLIC HDF5: under a temporary name first, so that nothing half-written is ever seen.

    Args:
        path: the file to write; one that is there is replaced.
        events: the showers.
        header: attributes of the file, see `provenance.header`.

    Raises:
        EventsError: the folder is missing or cannot be written to.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise EventsError(f"{path.parent}: no such folder; make it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(temporary, "w") as file:
            fill_file(file, events, header=header)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EventsError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def fill_file(file: h5py.File, events: Events, *, header: Mapping[str, str] | None = None) -> None:
    """Put showers into an open, empty HDF5 file; equal showers and header give equal bytes."""
    file.attrs.update(header if header is not None else provenance.header())
    chunks = (min(_CHUNK, len(events)), *CLIC.shape)
    file.create_dataset(
        "ECAL", data=events.showers, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True
    )
    momentum = np.zeros_like(events.energy)
    target = np.stack([np.full_like(momentum, ELECTRON_PDG), events.energy, momentum, momentum, events.energy], axis=1)
    file.create_dataset("target", data=target)


def split_events(events: Events, fractions: Mapping[str, float], *, seed: int = 0) -> dict[str, Events]:
    """Divide a sample by what each shower is, not by where it stands.

    A shower falls into the same part whatever file, order or larger sample it is found in, so that no
    shower used to train or to tune is ever met again when a model is judged.

    Args:
        events: the sample.
        fractions: name of each part and its share; the shares must add up to 1.
        seed: another seed gives another division.

    Raises:
        EventsError: a part would be empty.
    """
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions {dict(fractions)} do not add up to 1")
    position = _identity(events, seed) / 2.0**64
    edges = np.cumsum([0.0, *fractions.values()])
    edges[-1] = np.inf
    parts = {
        name: events[(position >= low) & (position < high)]
        for name, low, high in zip(fractions, edges[:-1], edges[1:], strict=True)
    }
    for name, part in parts.items():
        if len(part) == 0:
            raise EventsError(
                f"{len(events)} showers are too few: the part {name!r} ({fractions[name]:.0%}) would be empty"
            )
    return parts


def _identity(events: Events, seed: int) -> NDArray[np.uint64]:
    salt = seed.to_bytes(8, "little", signed=True)
    digests = (
        hashlib.blake2b(energy.tobytes() + shower.tobytes(), digest_size=8, salt=salt).digest()
        for shower, energy in zip(events.showers, events.energy, strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _dataset(path: Path, file: h5py.File, name: str) -> NDArray[np.float32]:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise EventsError(f"{path}: has no dataset {name!r} (it has: {', '.join(sorted(file)) or 'nothing'})")
    if not np.issubdtype(found.dtype, np.number):
        raise EventsError(f"{path}: dataset {name!r} holds {found.dtype}; expected numbers")
    if found.ndim == 0:
        raise EventsError(f"{path}: dataset {name!r} is a single number; expected one row for each shower")
    return np.asarray(found[()], dtype=np.float32)


def _first(bad: NDArray[np.bool_]) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
