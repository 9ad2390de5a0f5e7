"""What a client can ask for: energies, number, seed, first index and precision, checked against what is served."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json
from scipy import special

from calogan.errors import RequestError
from calogan.events import EnergyRange
from calogan.generation.random_numbers import SEED_MAX

FIRST_MAX = 2**48
Energy = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Floats = NDArray[np.float32]
_STRICT = ConfigDict(extra="forbid", strict=True)


class Flat(BaseModel):
    """Energies drawn uniformly from [low, high] GeV."""

    model_config = _STRICT

    law: Literal["flat"] = "flat"
    low: Energy
    high: Energy

    @model_validator(mode="after")
    def _ascending(self) -> "Flat":
        if self.low > self.high:
            raise PydanticCustomError("order", "low is above high")
        return self

    def draw(self, n: int, seed: int, first: int, allowed: EnergyRange) -> Floats:  # noqa: ARG002
        """Draw the energies of n showers from an index on, shape (n,), GeV."""
        return EnergyRange(self.low, self.high).draw(n, seed, first=first)


class LogFlat(Flat):
    """Energies whose logarithm is drawn uniformly, from [low, high] GeV."""

    law: Literal["log-flat"]  # type: ignore[assignment]

    def draw(self, n: int, seed: int, first: int, allowed: EnergyRange) -> Floats:  # noqa: ARG002
        """Draw the energies of n showers from an index on, shape (n,), GeV."""
        energies = self.low * (self.high / self.low) ** _uniform(n, seed, first)
        return np.clip(energies, self.low, self.high).astype(np.float32)


class Gaussian(BaseModel):
    """Energies drawn from a Gaussian distribution, GeV, cut at the ends of the model's range."""

    model_config = _STRICT

    law: Literal["gaussian"]
    mean: Energy
    sigma: Energy

    def draw(self, n: int, seed: int, first: int, allowed: EnergyRange) -> Floats:
        """Draw the energies of n showers from an index on, shape (n,), GeV."""
        low, high = (special.ndtr((edge - self.mean) / self.sigma) for edge in (allowed.low, allowed.high))
        deviates = special.ndtri(low + (high - low) * _uniform(n, seed, first))
        return np.clip(self.mean + self.sigma * deviates, allowed.low, allowed.high).astype(np.float32)


def _law(energy: Any) -> str:
    """Which form of an energy something is; the name of an unknown law is an error of its own."""
    if isinstance(energy, dict):
        return str(energy.get("law", "flat"))[:20]
    return str(getattr(energy, "law", "number"))


Spectrum = Annotated[
    Annotated[Energy, Tag("number")]
    | Annotated[Flat, Tag("flat")]
    | Annotated[LogFlat, Tag("log-flat")]
    | Annotated[Gaussian, Tag("gaussian")],
    Discriminator(_law),
]


class _Order(BaseModel):
    model_config = _STRICT

    seed: int | None = Field(
        None,
        ge=0,
        lt=SEED_MAX,
        description="Equal seeds give equal showers; if missing, it is drawn and returned in X-Seed.",
    )
    first: int = Field(
        0, ge=0, lt=FIRST_MAX, description="Index of the first shower, so that a seed can span several requests."
    )
    precision: str | None = Field(
        None, max_length=20, description="One of the precisions of GET /v1/models; its default if missing."
    )


class ListOrder(_Order):
    """One shower for each energy of a list."""

    energies: list[Energy] = Field(min_length=1, description="Energy of each primary particle, GeV.")

    @property
    def count(self) -> int:
        """Number of requested showers."""
        return len(self.energies)

    def draw(self, start: int, n: int, seed: int, allowed: EnergyRange) -> Floats:  # noqa: ARG002
        """Return the energies of showers start to start + n of this order, shape (n,), GeV."""
        return np.asarray(self.energies[start : start + n], dtype=np.float32)

    def extremes(self) -> tuple[float, float]:
        """Lowest and highest energy, GeV."""
        return min(self.energies), max(self.energies)


class SpectrumOrder(_Order):
    """Showers of one energy, or of energies drawn from a spectrum."""

    energy: Spectrum = Field(description="The energy of all primary particles, GeV, or the spectrum of their energies.")
    n: int = Field(1, ge=1, description="Number of showers.")

    @property
    def count(self) -> int:
        """Number of requested showers."""
        return self.n

    def draw(self, start: int, n: int, seed: int, allowed: EnergyRange) -> Floats:
        """Return the energies of showers start to start + n of this order, shape (n,), GeV."""
        if isinstance(self.energy, float):
            return np.full(n, self.energy, dtype=np.float32)
        return self.energy.draw(n, seed, self.first + start, allowed)

    def extremes(self) -> tuple[float, float]:
        """Lowest and highest energy, GeV; the mean for a Gaussian distribution, which the model's range cuts."""
        match self.energy:
            case Flat():
                return self.energy.low, self.energy.high
            case Gaussian():
                return self.energy.mean, self.energy.mean
            case _:
                return self.energy, self.energy


Order = ListOrder | SpectrumOrder


def parse_order(body: bytes) -> Order:
    """Parse and check the body of a request.

    Raises:
        RequestError: it is not JSON, or not an order; the message names at most three problems in one line.
    """
    try:
        content = from_json(body)
    except ValueError as error:
        raise RequestError(f"Invalid JSON: {error}") from None
    if not isinstance(content, dict):
        raise RequestError('the body should be an object, such as {"energy": 200, "n": 10}')
    if ("energies" in content) == ("energy" in content):
        raise RequestError("give either energies, or energy and n")
    form: type[Order] = ListOrder if "energies" in content else SpectrumOrder
    if form is ListOrder and "n" in content:
        raise RequestError("n goes with energy; with energies, there is one shower for each")
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise RequestError(_flat_message(error, form)) from None


def check_range(order: Order, allowed: EnergyRange) -> None:
    """Check the energies of an order.

    Raises:
        RequestError: one is outside the range of the model.
    """
    for energy in order.extremes():
        if not allowed.low <= energy <= allowed.high:
            raise RequestError(
                f"energy {energy:g} GeV is outside {allowed.low:g} to {allowed.high:g} GeV, the range of this model"
            )


def order_schema(*, allowed: EnergyRange, max_showers: int, max_energies: int, precisions: list[str]) -> dict[str, Any]:
    """JSON schema of the two forms of a request, with the limits of an endpoint."""
    forms = [form.model_json_schema(ref_template="#/components/schemas/{model}") for form in (ListOrder, SpectrumOrder)]
    shared: dict[str, Any] = {}
    for form in forms:
        shared |= form.pop("$defs", {})
        form["properties"]["precision"] = {"enum": [*precisions, None], "description": "Default: the first of these."}
    energies, energy, n = (
        forms[0]["properties"]["energies"],
        forms[1]["properties"]["energy"],
        forms[1]["properties"]["n"],
    )
    limits = {"minimum": allowed.low, "maximum": allowed.high}
    energies["items"] = {"type": "number", **limits}
    energies["maxItems"] = max_energies
    n["maximum"] = max_showers
    spectra = [{"type": "number", **limits}]
    for name in ("Flat", "LogFlat", "Gaussian"):
        schema = shared[name]
        for key, value in schema["properties"].items():
            if key in {"low", "high", "mean"}:
                schema["properties"][key] = {"type": "number", "title": value["title"], **limits}
        spectra.append(schema)
    energy.clear()
    energy.update({"description": "One energy, or a spectrum; GeV. low must not be above high.", "oneOf": spectra})
    return {"oneOf": forms}


def _uniform(n: int, seed: int, first: int) -> NDArray[np.float64]:
    """Uniform numbers of [0, 1), shape (n,), as those of `EnergyRange.draw`: by the seed and the index only."""
    stream = np.random.Philox(key=seed)
    stream.advance(first // 4)
    skip = first % 4
    return np.random.Generator(stream).random(skip + n)[skip:]


def _flat_message(error: ValidationError, form: type[Order]) -> str:
    """Describe the errors of a body in one line, naming at most three places."""
    found: list[str] = []
    for detail in error.errors(include_url=False):
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"] if part != "number"
        ).lstrip(".")[:80]
        unknown_key = f"unknown key; the keys are {', '.join(_keys(form))}"
        message = unknown_key if detail["type"] == "extra_forbidden" else detail["msg"]
        found.append(f"{place}: {message}" if place else message)
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return ("; ".join(found[:3]) + more).replace("\n", " ")


def _keys(form: type[Order]) -> list[str]:
    order = ("energies", "energy", "n", "seed", "first", "precision")
    return [name for name in order if name in form.model_fields]
