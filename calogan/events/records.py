"""Showers and their primary energies, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calogan.errors import EventsError, RequestError
from calogan.geometry import CLIC

_INFINITY_BITS = 0x7F800000  # of float32


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

    @classmethod
    def concatenate(cls, parts: Sequence["Events"]) -> "Events":
        """Join samples, of which there is at least one, in their order."""
        return cls(np.concatenate([part.showers for part in parts]), np.concatenate([part.energy for part in parts]))


class EventSource(Protocol):
    """Showers that can be read in slices: `Events` in memory, or files larger than memory."""

    @property
    def energy(self) -> NDArray[np.float32]:
        """Energy of each primary particle, shape (n,), GeV."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> Events: ...


@dataclass(frozen=True)
class EnergyRange:
    """Energies drawn from [low, high] GeV; low equals high for one fixed energy.

    Attributes:
        low, high: ends of the range, GeV.
        log: whether the logarithm of the energy is drawn uniformly, not the energy.
    """

    low: float
    high: float
    log: bool = False

    def draw(self, n: int, seed: int, *, first: int = 0) -> NDArray[np.float32]:
        """Draw n energies, shape (n,), GeV; entry i depends on the seed and the index first + i only."""
        uniform = _uniform(n, seed, first)
        if self.log:
            return np.clip(self.low * (self.high / self.low) ** uniform, self.low, self.high).astype(np.float32)
        return np.asarray(self.low + (self.high - self.low) * uniform, dtype=np.float32)

    @property
    def description(self) -> Any:
        """The range as values for JSON."""
        return {"law": "log-flat", "low": self.low, "high": self.high} if self.log else [self.low, self.high]


@dataclass(frozen=True)
class EnergyGaussian:
    """Energies drawn from a Gaussian distribution that is cut at both ends.

    Attributes:
        mean, sigma: of the distribution before it is cut, GeV.
        low, high: where it is cut, GeV.
    """

    mean: float
    sigma: float
    low: float
    high: float

    def draw(self, n: int, seed: int, *, first: int = 0) -> NDArray[np.float32]:
        """Draw n energies, shape (n,), GeV; entry i depends on the seed and the index first + i only."""
        from scipy import special  # noqa: PLC0415 - takes a while, and few spectra need it

        low, high = (special.ndtr((edge - self.mean) / self.sigma) for edge in (self.low, self.high))
        deviates = special.ndtri(low + (high - low) * _uniform(n, seed, first))
        return np.clip(self.mean + self.sigma * deviates, self.low, self.high).astype(np.float32)

    @property
    def description(self) -> Any:
        """The distribution as values for JSON."""
        return {"law": "gaussian", **vars(self)}


@dataclass(frozen=True, eq=False)
class EnergyList:
    """The energies of a file, in its order, and from its start again where more are needed.

    Attributes:
        values: energies, shape (n,), GeV.
        sha256: hash of the values.
    """

    values: NDArray[np.float32]
    sha256: str

    @property
    def low(self) -> float:
        """Lowest energy, GeV."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """Highest energy, GeV."""
        return float(self.values.max())

    def draw(self, n: int, seed: int, *, first: int = 0) -> NDArray[np.float32]:  # noqa: ARG002 - as `EnergyRange`
        """The energies of n showers from an index on, shape (n,), GeV."""
        return self.values[np.arange(first, first + n) % len(self.values)]

    @property
    def description(self) -> Any:
        """The list as values for JSON."""
        return {"law": "list", "energies": len(self.values), "sha256": self.sha256}


Spectrum: TypeAlias = EnergyRange | EnergyGaussian | EnergyList


def described_spectrum(description: Any) -> EnergyRange | EnergyGaussian:
    """The spectrum of a `description`; a list of energies is described by its hash only, and is none.

    Raises:
        EventsError: it describes no range and no distribution.
    """
    try:
        match description:
            case [low, high]:
                return EnergyRange(float(low), float(high))
            case {"law": "log-flat", "low": low, "high": high}:
                return EnergyRange(float(low), float(high), log=True)
            case {"law": "gaussian", "mean": mean, "sigma": sigma, "low": low, "high": high}:
                return EnergyGaussian(float(mean), float(sigma), float(low), float(high))
    except (TypeError, ValueError):
        pass
    raise EventsError(f"{str(description)[:200]} describes no spectrum; expected two energies, or a law")


def _uniform(n: int, seed: int, first: int) -> NDArray[np.float64]:
    """Uniform numbers of [0, 1), shape (n,); each depends on the seed and its index only."""
    stream = np.random.Philox(key=seed)
    # The counter of Philox advances once for every four numbers.
    stream.advance(first // 4)
    skip = first % 4
    return np.random.Generator(stream).random(skip + n)[skip:]


def require_within(energy: Spectrum, low: float, high: float, *, whose: str) -> None:
    """Check the energies of a production.

    Args:
        energy: what is asked for.
        low: lowest energy that can be made, GeV.
        high: highest one, GeV.
        whose: what the limits belong to, for the message.

    Raises:
        RequestError: an energy is outside.
    """
    if not low <= energy.low <= energy.high <= high:
        raise RequestError(
            f"energy {energy.low:.12g}:{energy.high:.12g} GeV is outside the range of {whose}; ask for {low:g} to {high:g} GeV"
        )


def parse_energy(text: str) -> EnergyRange:
    """Parse `200` (one energy), `2:500` (uniform between the two) or `log:2:500` (uniform in the logarithm), in GeV.

    Raises:
        RequestError: the text is neither a positive number nor two in ascending order.
    """
    log = text.strip().startswith("log:")
    numbers = text.strip().removeprefix("log:")
    try:
        low, high = (float(part) for part in (numbers.split(":") if ":" in numbers or log else (numbers, numbers)))
    except ValueError:
        raise RequestError(
            f"energy {text!r} is neither a number nor a range; expected GeV, such as 200, or 2:500 for a uniform "
            "range, or log:2:500"
        ) from None
    smallest, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    if not (smallest <= low <= high <= largest):
        raise RequestError(f"energy {text!r} must be positive, finite and ascending, for example 200 or 2:500 (GeV)")
    return EnergyRange(low, high, log)


def checked_events(
    showers: ArrayLike,
    energy: ArrayLike,
    *,
    origin: str,
    shape: tuple[int, int, int] | None = CLIC.shape,
    first: int = 0,
) -> Events:
    """Check two arrays and make them into Events.

    Args:
        showers: deposited energy per cell, shape (n, 25, 25, 25), GeV.
        energy: energy of the primary particles, shape (n,), GeV.
        origin: where the arrays come from, for error messages.
        shape: expected number of cells along (x, y, z); None for any.
        first: index of the first of these showers at their origin, for error messages.

    Raises:
        EventsError: wrong shape or length, no showers, or a number that is negative or not finite.
    """
    with np.errstate(over="ignore"):  # numbers too large for single precision become infinite and are reported as such
        x, e = np.asarray(showers, dtype=np.float32), np.asarray(energy, dtype=np.float32)
    if x.ndim != 4 or (shape is not None and x.shape[1:] != shape):
        inner = ", ".join(map(str, shape)) if shape else "x, y, z"
        raise EventsError(f"{origin}: showers have shape {x.shape}; expected (n, {inner})")
    if e.shape != (len(x),):
        raise EventsError(
            f"{origin}: {len(x)} showers but energies of shape {e.shape}; expected one energy for each shower"
        )
    if len(x) == 0:
        raise EventsError(f"{origin}: no showers; expected at least one")
    _check_numbers(e, "an energy", origin, first)
    if (e <= 0).any():
        which = _first(e <= 0)
        raise EventsError(f"{origin}: shower {first + which} has energy {e[which]} GeV; expected more than 0")
    # The bits of a finite number that is not negative, read as an integer, are below those of infinity: one fast pass
    # confirms the usual case, that all cells are valid.
    if np.ascontiguousarray(x).view(np.uint32).max() >= _INFINITY_BITS:
        _check_numbers(x, "a shower cell", origin, first)
        if x.min() < 0:
            which = _first(x < 0)
            raise EventsError(
                f"{origin}: shower {first + which} has a cell with negative energy ({x[which].min()} GeV); "
                "set cells below the read-out threshold to 0"
            )
    return Events(x, e)


def _check_numbers(values: NDArray[np.float32], name: str, origin: str, first: int) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise EventsError(
            f"{origin}: {name} is not a finite number (shower {first + _first(bad)}); expected energies in GeV"
        )


def _first(bad: NDArray[np.bool_]) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
