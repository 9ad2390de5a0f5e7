"""What a client can ask for: energies, number, seed, first index and precision, checked against what is served."""

from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from calogan import events
from calogan.errors import RequestError
from calogan.events import EnergyGaussian, EnergyRange
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

    def within(self, allowed: EnergyRange) -> events.Spectrum:  # noqa: ARG002
        """Return the spectrum itself."""
        return EnergyRange(self.low, self.high)


class LogFlat(Flat):
    """Energies whose logarithm is drawn uniformly, from [low, high] GeV."""

    law: Literal["log-flat"]  # type: ignore[assignment]

    def within(self, allowed: EnergyRange) -> events.Spectrum:  # noqa: ARG002
        """Return the spectrum itself."""
        return EnergyRange(self.low, self.high, log=True)


class Gaussian(BaseModel):
    """Energies drawn from a Gaussian distribution, GeV, cut at the ends of the model's range."""

    model_config = _STRICT

    law: Literal["gaussian"]
    mean: Energy
    sigma: Energy

    def within(self, allowed: EnergyRange) -> events.Spectrum:
        """Return the spectrum, cut at the ends of the model's range."""
        return EnergyGaussian(self.mean, self.sigma, allowed.low, allowed.high)


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


def spectrum_of(energy: Any, allowed: EnergyRange) -> events.Spectrum:
    """The spectrum that a number or a form of this module stands for.

    Args:
        energy: a `Spectrum`.
        allowed: range of the model, which cuts a Gaussian distribution.
    """
    return EnergyRange(energy, energy) if isinstance(energy, float) else energy.within(allowed)


def extremes_of(energy: Any) -> tuple[float, float]:
    """Lowest and highest energy of a `Spectrum`, GeV; the mean for a Gaussian distribution, which the range cuts."""
    match energy:
        case Flat():
            return energy.low, energy.high
        case Gaussian():
            return energy.mean, energy.mean
        case _:
            return energy, energy


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
        return spectrum_of(self.energy, allowed).draw(n, seed, first=self.first + start)

    def extremes(self) -> tuple[float, float]:
        """Lowest and highest energy, GeV; the mean for a Gaussian distribution, which the model's range cuts."""
        return extremes_of(self.energy)


Order = ListOrder | SpectrumOrder
_Form = TypeVar("_Form", bound=BaseModel)


def parse_order(body: bytes) -> Order:
    """Parse and check the body of a request.

    Raises:
        RequestError: it is not JSON, or not an order; the message names at most three problems in one line.
    """
    content = read_object(body)
    if ("energies" in content) == ("energy" in content):
        raise RequestError("give either energies, or energy and n")
    form: type[Order] = ListOrder if "energies" in content else SpectrumOrder
    if form is ListOrder and "n" in content:
        raise RequestError("n goes with energy; with energies, there is one shower for each")
    return validated(form, content)


def read_object(body: bytes) -> dict[str, Any]:
    """Read a body that is a JSON object.

    Raises:
        RequestError: it is something else.
    """
    try:
        content = from_json(body)
    except ValueError as error:
        raise RequestError(f"Invalid JSON: {error}") from None
    if not isinstance(content, dict):
        raise RequestError('the body should be an object, such as {"energy": 200, "n": 10}')
    return content


def validated(form: type[_Form], content: dict[str, Any]) -> _Form:
    """Check an object against a form.

    Raises:
        RequestError: it does not fit; the message names at most three problems in one line.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise RequestError(_flat_message(error, form)) from None


def check_range(extremes: tuple[float, float], allowed: EnergyRange) -> None:
    """Check the lowest and the highest energy of an order, GeV.

    Raises:
        RequestError: one is outside the range of the model.
    """
    for energy in extremes:
        if not allowed.low <= energy <= allowed.high:
            raise RequestError(
                f"energy {energy:g} GeV is outside {allowed.low:g} to {allowed.high:g} GeV, the range of this model"
            )


def order_schema(*, allowed: EnergyRange, max_showers: int, max_energies: int, precisions: list[str]) -> dict[str, Any]:
    """JSON schema of the two forms of a request, with the limits of an endpoint."""
    energies = ListOrder.model_json_schema()
    _limit_precision(energies, precisions)
    energies["properties"]["energies"] |= {"items": _within(allowed), "maxItems": max_energies}
    spectrum = spectrum_schema(SpectrumOrder, allowed=allowed, max_showers=max_showers, precisions=precisions)
    return {"oneOf": [energies, spectrum]}


def spectrum_schema(
    form: type[BaseModel], *, allowed: EnergyRange, max_showers: int, precisions: list[str]
) -> dict[str, Any]:
    """JSON schema of a form with `energy`, `n` and `precision`, with the limits of an endpoint and no references."""
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    shared = schema.pop("$defs")
    _limit_precision(schema, precisions)
    schema["properties"]["n"]["maximum"] = max_showers
    spectra = [_within(allowed)]
    for name in ("Flat", "LogFlat", "Gaussian"):
        properties = shared[name]["properties"]
        for key in {"low", "high", "mean"} & set(properties):
            properties[key] = _within(allowed) | {"title": properties[key]["title"]}
        spectra.append(shared[name])
    text = "One energy, or a spectrum; GeV. low must not be above high."
    schema["properties"]["energy"] = {"description": text, "oneOf": spectra}
    return schema


def _limit_precision(schema: dict[str, Any], precisions: list[str]) -> None:
    schema["properties"]["precision"] = {"enum": [*precisions, None], "description": "Default: the first of these."}


def _within(allowed: EnergyRange) -> dict[str, Any]:
    return {"type": "number", "minimum": allowed.low, "maximum": allowed.high}


def _flat_message(error: ValidationError, form: type[BaseModel]) -> str:
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


def _keys(form: type[BaseModel]) -> list[str]:
    order = ("energies", "energy", "n", "seed", "first", "precision", "format", "shard_showers")
    return [name for name in order if name in form.model_fields]
