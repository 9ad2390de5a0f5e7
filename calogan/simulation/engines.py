"""A common interface to the simulations without a network, and their productions."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calogan.errors import ConfigError, problems
from calogan.events import EnergyRange, Events, require_within
from calogan.events.productions import Production, Shard, write_shard
from calogan.simulation import geant4, parametric
from calogan.simulation.detector import CLIC_DETECTOR, Detector, load_detector
from calogan.simulation.profiles import TUNED, Tuning
from calogan.simulation.tuning import read_tuning

# Showers of a shard: a few minutes of work, which is the most that a killed job loses.
SHARD_SHOWERS = {"parametric": 8192, "geant4": 256}
_PART = 1024  # showers in memory at a time


class Engine(BaseModel):
    """A simulation with all settings that its showers depend on, except energies and seed.

    Attributes:
        name: `parametric` or `geant4`.
        tuning: fitted constants of the parametrisation.
        detector: the calorimeter; Geant4 only.
        field_tesla: magnetic field, T; Geant4 only.
        cut_mm: production cut, mm; Geant4 only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["parametric", "geant4"] = "parametric"
    tuning: Tuning = TUNED
    detector: Detector = CLIC_DETECTOR
    field_tesla: float = Field(4.0, ge=0, le=20)
    cut_mm: float = Field(0.7, gt=0, le=100)

    def header(self) -> dict[str, str]:
        """Describe the simulation, for file headers and for display."""
        if self.name == "geant4":
            return geant4.header(detector=self.detector, field_tesla=self.field_tesla, cut_mm=self.cut_mm)
        return {"generator": "parametric simulation", "tuning": self.model_dump_json(include={"tuning"})}

    def notes(self) -> list[str]:
        """Lines to show the user before the start: the data and approximations behind the results."""
        return geant4.notes() if self.name == "geant4" else []

    def simulate(
        self, energy: NDArray[np.float32], *, seed: int, first: int = 0, progress: Callable[[int], None] | None = None
    ) -> Iterator[Events]:
        """Simulate one shower for each energy, in parts that fit into memory.

        Args:
            energy: energy of each primary electron, shape (n,), GeV.
            seed: seed of the showers; the same seed gives the same bytes.
            first: index of the first of these showers in the whole production.
            progress: called with the number of showers finished since the last call.

        Raises:
            RequestError: an energy, the seed or `first` is outside its range.
            SimulationError: Geant4 is not installed, or it crashed.
        """
        for start in range(0, len(energy), _PART):
            part = energy[start : start + _PART]
            if self.name == "geant4":
                yield geant4.simulate(
                    part,
                    seed=seed,
                    first=first + start,
                    detector=self.detector,
                    field_tesla=self.field_tesla,
                    cut_mm=self.cut_mm,
                    progress=progress,
                )
            else:
                yield parametric.simulate(part, seed=seed, first=first + start, tuning=self.tuning, progress=progress)


def load_engine(
    name: str, *, tuning: Path | None = None, detector: str = "clic", field_tesla: float = 4.0, cut_mm: float = 0.7
) -> Engine:
    """Make an engine from names and files.

    Args:
        name: `parametric` or `geant4`.
        tuning: file with the constants of the parametrisation.
        detector: packaged name or TOML file, for Geant4.
        field_tesla: magnetic field, T.
        cut_mm: production cut, mm.

    Raises:
        ConfigError: a file cannot be used, or a value is invalid.
    """
    settings = {
        "name": name,
        "tuning": read_tuning(tuning) if tuning else TUNED,
        "detector": load_detector(detector),
        "field_tesla": field_tesla,
        "cut_mm": cut_mm,
    }
    try:
        return Engine.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"invalid settings of the simulation: {problems(error)}") from error


def plan(
    engine: Engine,
    energy: EnergyRange,
    *,
    showers: int,
    seed: int,
    shard_showers: int | None = None,
    format: str | None = None,
) -> Production:
    """Plan a production of an engine.

    Raises:
        RequestError: the energies are outside the range of the engine.
        SimulationError: Geant4 is not installed, or an environment variable points to the wrong data.
    """
    module = geant4 if engine.name == "geant4" else parametric
    low, high = module.MIN_ENERGY_GEV, module.MAX_ENERGY_GEV
    require_within(energy, low, high, whose=f"the {engine.name} simulation")
    size = shard_showers or SHARD_SHOWERS[engine.name]
    header = engine.header()
    return Production(
        generator=header.pop("generator"),
        showers=showers,
        shard_showers=size,
        energy=energy,
        seed=seed,
        settings=header,
        format=format or "clic",
    )


def make_shard(
    folder: Path,
    production: Production,
    shard: Shard,
    engine: Engine,
    *,
    progress: Callable[[int], None] | None = None,
) -> Shard:
    """Simulate and write one shard of a production; its bytes do not depend on the machine or the order of the work.

    Raises:
        EventsError: the file cannot be written.
        SimulationError: Geant4 is not installed, or it crashed.
    """
    energies = production.energy.draw(shard.showers, production.seed, first=shard.first)
    parts = engine.simulate(energies, seed=production.seed, first=shard.first, progress=progress)
    return write_shard(folder, production, shard, parts)
