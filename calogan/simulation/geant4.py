"""Electron showers from Geant4.

Geant4 allows one run per process, reads its environment on import, prints freely and aborts on errors. So each call
here starts its own process, which sends its showers one by one through a pipe; see `geant4_worker`.

Geant4's data sets are used if they are installed. Otherwise the few tables that electromagnetic physics reads are
computed once, see `em_tables`. Nothing is ever downloaded.
"""

import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from io import BufferedReader
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

import calogan
from calogan import provenance
from calogan.errors import RequestError, SimulationError
from calogan.events import Events
from calogan.simulation import em_tables
from calogan.simulation.detector import CLIC_DETECTOR, Detector

PHYSICS_LIST = "G4EmStandardPhysics"
FIELD_TESLA = 4.0
CUT_MM = 0.7
MIN_ENERGY_GEV, MAX_ENERGY_GEV = 0.1, 1000.0
MAX_FIELD_TESLA = 20.0
MIN_CUT_MM, MAX_CUT_MM = 0.01, 100.0

_EMLOW = "G4EMLOW8.8"  # the data set of the Geant4 11.4 release
_UNUSED_DATA = ("G4ENSDFSTATEDATA", "G4LEVELGAMMADATA")  # must be set, but electrons and photons do not need them
_LAST_LINES = 8


@dataclass(frozen=True)
class DataOrigin:
    """Origin of the cross-sections that are not compiled into Geant4.

    Attributes:
        name: the origin in words.
        folder: folder of the installed data set; None for computed tables.
        approximations: omissions and approximations of the computed tables.
    """

    name: str
    folder: Path | None = None
    approximations: tuple[str, ...] = ()


def data_origin() -> DataOrigin:
    """Find the data that a simulation would use.

    The search goes through the folder G4LEDATA, `G4EMLOW8.8` in the folder GEANT4_DATA_DIR, and the folder where
    geant4-pybind stores its downloads. If neither variable is set and there is no download, tables are computed.

    Raises:
        SimulationError: a variable is set, but does not point to the data set.
    """
    for variable, inside in (("G4LEDATA", ""), ("GEANT4_DATA_DIR", _EMLOW)):
        if value := os.environ.get(variable):
            folder = Path(value, inside).absolute()
            if not _has_tables(folder):
                raise SimulationError(
                    f"{variable} is set, but {folder} does not hold the Geant4 data set {_EMLOW}; set it to that data "
                    "set, or unset it to use computed tables"
                )
            return DataOrigin(f"Geant4 data set {folder.name}", folder)
    download = Path(os.path.expanduser("~"), ".geant4_pybind", _EMLOW)  # noqa: PTH111 - Path.home() may raise
    if _has_tables(download):
        return DataOrigin(f"Geant4 data set {_EMLOW}", download)
    return DataOrigin("computed tables", None, em_tables.APPROXIMATIONS)


def notes() -> list[str]:
    """Lines to show the user before a simulation: the data and their approximations.

    Raises:
        SimulationError: see `data_origin`.
    """
    origin = data_origin()
    return [f"interaction data: {origin.name}", *origin.approximations]


def header(
    *, detector: Detector = CLIC_DETECTOR, field_tesla: float = FIELD_TESLA, cut_mm: float = CUT_MM
) -> dict[str, str]:
    """Describe the simulation for the header of a file; arguments as in `simulate`.

    Raises:
        SimulationError: geant4-pybind is not installed; see also `data_origin`.
    """
    origin = data_origin()
    return {
        "generator": "Geant4 simulation",
        "geant4_version": _geant4_version(),
        "geant4_pybind": metadata.version("geant4-pybind"),
        "physics_list": PHYSICS_LIST,
        "interaction_data": origin.name,
        "interaction_data_approximations": "; ".join(origin.approximations) or "none",
        "field_tesla": f"{field_tesla:g} along x",
        "production_cut_mm": f"{cut_mm:g}",
        "detector": detector.model_dump_json(),
    }


def simulate(
    energy: NDArray[np.float32],
    *,
    seed: int,
    first: int = 0,
    detector: Detector = CLIC_DETECTOR,
    field_tesla: float = FIELD_TESLA,
    cut_mm: float = CUT_MM,
    progress: Callable[[int], None] | None = None,
) -> Events:
    """Simulate one shower for each energy: about 10 ms per GeV on one core.

    Shower k depends on its energy, on (seed, first + k) and on the settings, not on the other showers. So a run can be
    divided among processes and machines and gives the same showers.

    Args:
        energy: kinetic energy of each primary electron, shape (n,), GeV.
        seed: seed of the showers, not negative.
        first: index of the first shower within a longer run.
        detector: the calorimeter; the electron enters its centre at normal incidence.
        field_tesla: magnetic field along x, T; 0 for none.
        cut_mm: production cut, mm: secondaries with a shorter range are not tracked.
        progress: called with 1 after each shower.

    Returns:
        The showers, shape (n, *detector.grid.shape), with every deposit kept.

    Raises:
        RequestError: an energy, the seed, the field or the cut is outside its range.
        SimulationError: geant4-pybind is not installed, Geant4 crashed, or a variable points to the wrong data.
    """
    energy = np.asarray(energy, dtype=np.float32)
    _check(energy, seed, first, field_tesla, cut_mm)
    showers = np.empty((len(energy), *detector.grid.shape), dtype=np.float32)
    job = {
        "energy": energy.tolist(),
        "seed": int(seed),
        "first": int(first),
        "detector": detector.model_dump(mode="json"),
        "field_tesla": field_tesla,
        "cut_mm": cut_mm,
    }
    if not len(energy):
        return Events(showers, energy)
    count = 0
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        environment = _environment(Path(scratch))
        with _python(["-m", "calogan.simulation.geant4_worker"], environment, json.dumps(job)) as output:
            for shower in showers:
                if output.readinto(shower.data) < shower.nbytes:
                    break
                count += 1
                if progress is not None:
                    progress(1)
    if count < len(energy):
        raise SimulationError(
            f"Geant4 stopped after {count} of {len(energy)} showers without an error message; try again"
        )
    return Events(showers, energy)


def _check(energy: NDArray[np.float32], seed: int, first: int, field_tesla: float, cut_mm: float) -> None:
    if energy.ndim != 1:
        raise RequestError(f"energies have shape {energy.shape}; expected (n,), one number for each shower")
    outside = ~((energy >= np.float32(MIN_ENERGY_GEV)) & (energy <= np.float32(MAX_ENERGY_GEV)))
    if outside.any():
        raise RequestError(
            f"energy {energy[outside][0]:g} GeV is outside the range of the simulation; "
            f"ask for {MIN_ENERGY_GEV:g} to {MAX_ENERGY_GEV:g} GeV"
        )
    for name, number in (("seed", seed), ("first", first)):
        if number < 0:
            raise RequestError(f"{name} {number} is negative; give a whole number of at least 0")
    if not abs(field_tesla) <= MAX_FIELD_TESLA:
        raise RequestError(f"field {field_tesla} T is out of range; give 0 to {MAX_FIELD_TESLA:g} T")
    if not MIN_CUT_MM <= cut_mm <= MAX_CUT_MM:
        raise RequestError(f"cut {cut_mm} mm is out of range; give {MIN_CUT_MM:g} to {MAX_CUT_MM:g} mm")


@functools.cache
def _geant4_version() -> str:
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        code = "import geant4_pybind; print(geant4_pybind.G4VERSION_NUMBER)"
        with _python(["-c", code], {"GEANT4_DATA_DIR": scratch}) as output:
            number = output.read().decode().strip()
    return f"{number[:-2]}.{number[-2]}.{number[-1]}"


def _environment(scratch: Path) -> dict[str, str]:
    """Environment variables that Geant4 needs; the scratch folder must last as long as the simulation."""
    (scratch / "ENSDFSTATE.dat").touch()
    unused = {name: os.environ.get(name) or str(scratch) for name in _UNUSED_DATA}
    tables = data_origin().folder or _computed_tables(scratch)
    return unused | {
        "G4LEDATA": str(tables),
        "GEANT4_DATA_DIR": os.environ.get("GEANT4_DATA_DIR") or str(scratch),  # without it the import offers a download
    }


def _has_tables(folder: Path) -> bool:
    return (folder / "brem_SB").is_dir() and (folder / "epics2017" / "phot").is_dir()


def _computed_tables(scratch: Path) -> Path:
    """Folder of the computed tables: from the user's cache, or newly computed and then cached if possible."""
    version = provenance.sha256(Path(em_tables.__file__)) + _geant4_version()
    name = f"geant4-tables-{provenance.digest(version)[:12]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "calogan")  # noqa: PTH111
    if (cache / name).is_dir():
        return cache / name
    fresh = scratch / name
    with _python(["-m", em_tables.__name__, str(fresh)], {"GEANT4_DATA_DIR": str(scratch)}):
        pass
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as part:
            # Renamed once it is complete; fails if another process was faster.
            shutil.copytree(fresh, Path(part, name)).rename(cache / name)
    except OSError:
        return fresh
    return cache / name


@contextmanager
def _python(arguments: Sequence[str], environment: dict[str, str], message: str = "") -> Iterator[BufferedReader]:
    """Run a Python process and yield its standard output; the process has ended when the context exits.

    Args:
        arguments: command-line arguments of the interpreter.
        environment: variables to add to those of this process.
        message: standard input of the process.

    Raises:
        SimulationError: geant4-pybind is not installed, or the process failed.
    """
    if importlib.util.find_spec("geant4_pybind") is None:
        raise SimulationError("Geant4 is not installed: pip install 'calogan[geant4]'")
    # The child must find this package even if it is not installed, and import nothing from the working directory (-P).
    path = os.pathsep.join([str(Path(calogan.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(message.encode())
        stdin.seek(0)
        with subprocess.Popen(  # noqa: S603 - the interpreter itself
            [sys.executable, "-P", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ | environment | {"PYTHONPATH": path.rstrip(os.pathsep)},
        ) as process:
            try:
                yield cast("BufferedReader", process.stdout)
                code = process.wait()
            finally:
                process.kill()
        if code:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise SimulationError("\n  ".join([f"Geant4 ended with {_cause(code)}; its last lines:", *lines]))


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
