"""The simulations that need no network, behind one call, and the productions they make."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calogan.errors import ConfigError, RequestError, problems
from calogan.events import EnergyRange, Events
from calogan.events.productions import Production, Shard, write_shard
from calogan.simulation import geant4, parametric
from calogan.simulation.detector import CLIC_DETECTOR, Detector, load_detector
from calogan.simulation.profiles import TUNED, Tuning
from calogan.simulation.tuning import read_tuning

# Showers of a shard: some minutes of work, which is what a kill can cost.
SHARD_SHOWERS = {"parametric": 8192, "geant4": 256}
_PART = 1024  # showers in memory at a time


class Engine(BaseModel):
    """A simulation with everything that decides about its showers, besides energies and seed.

    Attributes:
        name: `parametric` or `geant4`.
        tuning: fitted constants of the parametrisation.
        detector: what Geant4 simulates.
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
        """Say what makes the showers, for the files and the screen."""
        if self.name == "geant4":
            return geant4.header(detector=self.detector, field_tesla=self.field_tesla, cut_mm=self.cut_mm)
        return {"generator": "parametric simulation", "tuning": self.model_dump_json(include={"tuning"})}

    def notes(self) -> list[str]:
        """Lines the user should see before it starts: what a result of this engine rests on."""
        return geant4.notes() if self.name == "geant4" else []

    def simulate(
        self, energy: NDArray[np.float32], *, seed: int, first: int = 0, progress: Callable[[int], None] | None = None
    ) -> Iterator[Events]:
        """Simulate one shower for each energy, in parts that fit into memory.

        Args:
            energy: energy of each primary electron, shape (n,), GeV.
            seed: equal seeds, equal bytes.
            first: number of the first of these showers in the whole production.
            progress: called with numbers of showers as they are done.

        Raises:
            RequestError: an energy, the seed or `first` cannot be used.
            SimulationError: Geant4 is not installed, or a simulation died.
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
    """Make an engine of names and files.

    Args:
        name: `parametric` or `geant4`.
        tuning: file of constants for the parametrisation.
        detector: packaged name or TOML file, for Geant4.
        field_tesla: magnetic field, T.
        cut_mm: production cut, mm.

    Raises:
        ConfigError: a file cannot be used, or a value is impossible.
    """
    constants = read_tuning(tuning) if tuning else TUNED
    described = load_detector(detector)
    try:
        return Engine.model_validate(
            {"name": name, "tuning": constants, "detector": described, "field_tesla": field_tesla, "cut_mm": cut_mm}
        )
    except ValidationError as error:
        raise ConfigError(f"the simulation cannot be set up so: {problems(error)}") from error


def plan(
    engine: Engine,
    energy: EnergyRange,
    *,
    showers: int,
    seed: int,
    shard_showers: int | None = None,
    format: str = "clic",
) -> Production:
    """Describe a production of an engine.

    Raises:
        RequestError: the engine cannot do such energies.
        SimulationError: Geant4 is not installed, or its data are not where they were said to be.
    """
    module = geant4 if engine.name == "geant4" else parametric
    if not module.MIN_ENERGY_GEV <= energy.low <= energy.high <= module.MAX_ENERGY_GEV:
        raise RequestError(
            f"energy {energy.low:.12g}:{energy.high:.12g} GeV is outside the range of the {engine.name} simulation; "
            f"ask for {module.MIN_ENERGY_GEV:g} to {module.MAX_ENERGY_GEV:g} GeV"
        )
    size = shard_showers or SHARD_SHOWERS[engine.name]
    header = engine.header()
    return Production(
        generator=header.pop("generator"),
        showers=showers,
        shard_showers=size,
        energy=energy,
        seed=seed,
        settings=header,
        format=format,
    )


def make_shard(
    folder: Path,
    production: Production,
    shard: Shard,
    engine: Engine,
    *,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Simulate and write one shard of a production; the same bytes wherever and whenever it is done.

    Raises:
        EventsError: the file cannot be written.
        SimulationError: Geant4 is not installed, or the simulation died.
    """
    energies = production.energy.draw(shard.showers, production.seed, first=shard.first)
    parts = engine.simulate(energies, seed=production.seed, first=shard.first, progress=progress)
    return write_shard(folder, production, shard, parts)
