"""Description of a calorimeter for Geant4: plates, gaps, materials and cells, read from TOML."""

import math
import os
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calogan.errors import ConfigError, problems
from calogan.geometry import Grid
from calogan.packaged import data_file

# Elements with computed interaction tables, see `em_tables`: symbol and atomic number.
ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "Si": 14, "Cl": 17, "Ar": 18, "Ni": 28, "Cu": 29, "W": 74}
SENSITIVE = "silicon"  # the material whose energy deposits are read out
MAX_LAYERS, MAX_CELLS = 200, 2_000_000

_Millimetres = Annotated[float, Field(ge=0.01, le=1000)]
_Count = Annotated[int, Field(ge=1, le=500)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Plates(_Record):
    """Consecutive absorber plates of equal thickness.

    Attributes:
        count: number of plates.
        absorber_mm: thickness of each, mm.
    """

    count: int = Field(ge=1, le=MAX_LAYERS)
    absorber_mm: _Millimetres


class Slab(_Record):
    """One slice of the gap between two plates.

    Attributes:
        material: `silicon` or a name under `materials`.
        mm: thickness, mm.
    """

    material: str
    mm: _Millimetres


class Material(_Record):
    """A mixture of elements.

    Attributes:
        density: g/cm3.
        elements: mass fraction of each element, by its symbol; the fractions add up to 1.
    """

    density: float = Field(ge=1e-4, le=25)
    elements: dict[str, Annotated[float, Field(gt=0, le=1)]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = sorted(set(self.elements) - set(ELEMENTS))
        if unknown:
            raise ValueError(f"no interaction tables for {', '.join(unknown)}; expected {', '.join(ELEMENTS)}")
        if not math.isclose(sum(self.elements.values()), 1, abs_tol=1e-3):
            raise ValueError(f"the fractions add up to {sum(self.elements.values()):g}; expected 1")
        return self


class Detector(_Record):
    """A stack of absorber plates, each followed by the same gap with one silicon layer divided into cells.

    Attributes:
        name: name of the detector.
        cells: number of cells along x and y, centred on the plates.
        cell_mm: side of a cell, mm.
        plate_mm: side of the plates in x and y, mm.
        absorber: material of the plates.
        medium: material around the stack, usually air.
        plates: the plates, in the order the shower meets them.
        gap: the slices behind each plate; exactly one is silicon.
        materials: mixtures by name.
        threshold_gev: read-out threshold for readers of the showers; the simulation keeps every deposit, GeV.
    """

    name: str = Field(min_length=1)
    cells: tuple[_Count, _Count]
    cell_mm: _Millimetres
    plate_mm: float = Field(gt=0, le=10_000)
    absorber: str
    medium: str
    plates: tuple[Plates, ...] = Field(min_length=1)
    gap: tuple[Slab, ...]
    materials: dict[str, Material]
    threshold_gev: float = Field(1e-6, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = {self.absorber, self.medium, *(slab.material for slab in self.gap)} - {SENSITIVE, *self.materials}
        if unknown:
            raise ValueError(f"no material {', '.join(sorted(unknown))} under materials; add it there")
        if SENSITIVE in self.materials or SENSITIVE in (self.absorber, self.medium):
            raise ValueError(f"{SENSITIVE} is the built-in read-out material; use it in gap only")
        if sum(slab.material == SENSITIVE for slab in self.gap) != 1:
            raise ValueError(f"gap must contain exactly one slice of {SENSITIVE}")
        if max(self.cells) * self.cell_mm > self.plate_mm + 1e-9:
            raise ValueError(
                f"{max(self.cells)} cells of {self.cell_mm} mm are wider than plates of {self.plate_mm} mm"
            )
        layers = sum(plates.count for plates in self.plates)
        if layers > MAX_LAYERS or layers * math.prod(self.cells) > MAX_CELLS:
            raise ValueError(
                f"{layers} layers of {self.cells[0]} x {self.cells[1]} cells are too many; "
                f"expected at most {MAX_LAYERS} layers and {MAX_CELLS} cells"
            )
        return self

    @property
    def grid(self) -> Grid:
        """The read-out grid; the electron enters the cell in the middle."""
        absorber_mm = tuple(plates.absorber_mm for plates in self.plates for _ in range(plates.count))
        return Grid(
            shape=(*self.cells, len(absorber_mm)),
            cell_mm=self.cell_mm,
            absorber_mm=absorber_mm,
            gap_mm=math.fsum(slab.mm for slab in self.gap),
            entry_cell=(self.cells[0] // 2, self.cells[1] // 2),
            threshold_gev=self.threshold_gev,
        )


def packaged_detectors() -> list[str]:
    """Names of the detectors that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load_detector(name_or_path: str | os.PathLike[str]) -> Detector:
    """Read a detector by its packaged name, such as `clic`, or from a TOML file.

    Raises:
        ConfigError: the file is missing or not TOML, or it has an unknown key or an invalid value.
    """
    text = os.fspath(name_or_path)
    path = _folder() / f"{text}.toml" if text in packaged_detectors() else Path(text)
    if not path.is_file():
        raise ConfigError(f"no detector {text!r}: give a TOML file or one of {', '.join(packaged_detectors())}")
    try:
        return Detector.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error)}") from error


def _folder() -> Path:
    return data_file("detectors")


CLIC_DETECTOR = load_detector("clic")
