"""What a client asks an endpoint for, in parts that become requests."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calogan.errors import RequestError, ServiceError
from calogan.events import Hits
from calogan.generation.random_numbers import SEED_MAX

_SHOWERS_A_REQUEST, _ENERGIES_A_REQUEST = 100_000, 10_000
Energy = float | str | Mapping[str, Any] | ArrayLike


@dataclass(frozen=True)
class ClientOrder:
    """What was asked for; parts of it become requests."""

    energy: float | dict[str, Any] | NDArray[np.float64]
    n: int
    seed: int
    first: int
    precision: str | None

    def body(self, done: int, largest: int) -> tuple[dict[str, Any], int]:
        """Body of the request for the next showers, and their number."""
        body: dict[str, Any] = {"seed": self.seed, "first": self.first + done}
        if self.precision is not None:
            body["precision"] = self.precision
        if isinstance(self.energy, np.ndarray):
            n = min(self.n - done, _ENERGIES_A_REQUEST, largest)
            return body | {"energies": self.energy[done : done + n].tolist()}, n
        n = min(self.n - done, _SHOWERS_A_REQUEST, largest)
        return body | {"energy": self.energy, "n": n}, n

    def check(self, hits: Hits, done: int) -> None:
        """Check that showers are those asked for, as far as their energies say."""
        expected = self.energy[done : done + len(hits)] if isinstance(self.energy, np.ndarray) else self.energy
        if not isinstance(expected, dict) and not (hits.energy == np.asarray(expected, dtype=np.float32)).all():
            raise ServiceError("the endpoint answered showers of other energies than those requested")


def client_order(energy: Energy, n: int | None, seed: int | None, first: int, precision: str | None) -> ClientOrder:
    """Check what is asked for.

    Raises:
        RequestError: the number or the energies cannot be.
    """
    seed = secrets.randbelow(SEED_MAX) if seed is None else seed
    if isinstance(energy, str):
        energy = _spectrum(energy)
    if isinstance(energy, Mapping):
        order = ClientOrder(dict(energy), 1 if n is None else n, seed, first, precision)
    else:
        values = np.asarray(energy, dtype=np.float64)
        if values.ndim > 1 or values.size == 0 or not np.isfinite(values).all():
            raise RequestError("energy must be a finite number, a list of at least one, or a spectrum (GeV)")
        if values.ndim == 1 and n not in {None, len(values)}:
            raise RequestError(f"n is {n}, but there are {len(values)} energies; leave n out with a list")
        one = values.ndim == 0
        order = ClientOrder(
            float(values) if one else values, (1 if n is None else n) if one else len(values), seed, first, precision
        )
    if order.n < 1:
        raise RequestError(f"n is {order.n}; expected at least 1")
    return order


def _spectrum(text: str) -> float | dict[str, Any]:
    """Parse `200`, `2:500` (flat) or `log:2:500` (flat in the logarithm)."""
    law, numbers = ("log-flat", text.removeprefix("log:")) if text.startswith("log:") else ("flat", text)
    try:
        low, *high = (float(number) for number in numbers.split(":"))
    except ValueError:
        low, high = 0.0, [0.0, 0.0]
    if len(high) > 1 or (law == "log-flat" and not high):
        raise RequestError(f"energy {text!r} is no spectrum; expected GeV, such as 200, 2:500 or log:2:500")
    return {"law": law, "low": low, "high": high[0]} if high else low
