"""What a client can ask of productions, and what it is told of them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from calogan.events import WRITTEN_FORMATS, EnergyRange
from calogan.generation.random_numbers import SEED_MAX
from calogan.generation.shards import SHARD_SHOWERS
from calogan.serving.orders import Spectrum, spectrum_schema

MAX_SHARDS = 100_000
FORMATS = [name for name in WRITTEN_FORMATS if name != "npz"]  # which would be in memory as a whole


class ProductionOrder(BaseModel):
    """A production that a client asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    energy: Spectrum = Field(description="The energy of all primary particles, GeV, or the spectrum of their energies.")
    n: int = Field(ge=1, description="Number of showers.")
    seed: int | None = Field(None, ge=0, lt=SEED_MAX, description="Equal seeds give equal bytes; drawn if missing.")
    precision: str | None = Field(
        None, max_length=20, description="One of the precisions of GET /v1/models; its default if missing."
    )
    format: str = Field("arrow", max_length=20, description="Format of the shards.")
    shard_showers: int = Field(SHARD_SHOWERS, ge=1, le=1_000_000, description="Showers in a shard.")

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.n // self.shard_showers)


class ProductionStatus(BaseModel):
    """A production, and how far it is; energies in GeV."""

    id: str
    state: str = Field(description="`running`, `finished`, or `waiting` for what the message says.")
    message: str | None = Field(description="What a waiting production waits for.")
    model: str
    model_version: str
    precision: str
    energy: Any = Field(description="The spectrum: two ends of a flat one, or an object with its law.")
    seed: int
    format: str
    shard_showers: int
    showers: int = Field(description="Number of showers that were asked for.")
    showers_finished: int = Field(description="Number of showers in finished shards.")
    shards: int
    shards_finished: int
    showers_per_s: float | None = Field(description="Rate of the last shards; null before there are two.")
    seconds_left: float | None = Field(description="Estimated time to the end; null before there is a rate.")
    created: str = Field(description="When it was asked for, ISO 8601.")


class ProductionList(BaseModel):
    """The productions of a client, in the order of their creation."""

    productions: list[ProductionStatus]


class ShardInfo(BaseModel):
    """A finished shard."""

    number: int
    file: str = Field(description="Name of the file in a folder of the production.")
    first: int = Field(description="Number of its first shower in the production.")
    showers: int
    bytes: int
    sha256: str


class ShardList(BaseModel):
    """Finished shards in their order."""

    shards: list[ShardInfo]


def production_schema(*, allowed: EnergyRange, max_showers: int, precisions: list[str]) -> dict[str, Any]:
    """JSON schema of a `ProductionOrder`, with the limits of an endpoint."""
    schema = spectrum_schema(ProductionOrder, allowed=allowed, max_showers=max_showers, precisions=precisions)
    schema["properties"]["format"]["enum"] = FORMATS
    return schema
