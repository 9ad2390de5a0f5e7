"""Electron showers from Geant4 itself.

Geant4 allows one run in a process, reads its environment when it is imported, prints as it likes and aborts on errors.
So each call here starts a process of its own, which sends its showers one by one through a pipe; see `geant4_worker`.

The data sets of Geant4 are used where they are installed. Where not, the few tables that electromagnetic physics reads
are computed once, see `em_tables`. Nothing is ever downloaded.
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

_EMLOW = "G4EMLOW8.8"  # the data set that Geant4 11.4 was released with
_UNUSED_DATA = ("G4ENSDFSTATEDATA", "G4LEVELGAMMADATA")  # must be there, but electrons and photons do not need them
_LAST_LINES = 8


@dataclass(frozen=True)
class DataOrigin:
    """Where the cross-sections that are not compiled into Geant4 come from.

    Attributes:
        name: what they are, in words.
        folder: folder of the installed data set; None for computed tables.
        approximations: what the computed tables leave out or approximate.
    """

    name: str
    folder: Path | None = None
    approximations: tuple[str, ...] = ()


def data_origin() -> DataOrigin:
    """Find the data that a simulation would use.

    It is looked for in the folder G4LEDATA, then in `G4EMLOW8.8` of the folder GEANT4_DATA_DIR, then where geant4-pybind
    keeps what it was allowed to download. If neither variable is set and nothing is there, tables are computed.

    Raises:
        SimulationError: a variable is set, but what it points to is not the data set.
    """
    for variable, inside in (("G4LEDATA", ""), ("GEANT4_DATA_DIR", _EMLOW)):
        if told := os.environ.get(variable):
            folder = Path(told, inside).absolute()
            if not _has_tables(folder):
                raise SimulationError(
                    f"{variable} is set, but {folder} does not hold the Geant4 data set {_EMLOW}; point it there, "
                    f"or unset it to use computed tables"
                )
            return DataOrigin(f"Geant4 data set {folder.name}", folder)
    downloaded = Path(os.path.expanduser("~"), ".geant4_pybind", _EMLOW)  # noqa: PTH111 - Path.home() may raise
    if _has_tables(downloaded):
        return DataOrigin(f"Geant4 data set {_EMLOW}", downloaded)
    return DataOrigin("computed tables", None, em_tables.APPROXIMATIONS)


def notes() -> list[str]:
    """Lines that a user should see before showers are simulated: the data, and what they approximate.

    Raises:
        SimulationError: as `data_origin`.
    """
    origin = data_origin()
    return [f"interaction data: {origin.name}", *origin.approximations]


def header(
    *, detector: Detector = CLIC_DETECTOR, field_tesla: float = FIELD_TESLA, cut_mm: float = CUT_MM
) -> dict[str, str]:
    """Describe how showers were simulated, for the header of a file; arguments as in `simulate`.

    Raises:
        SimulationError: geant4-pybind is not installed, or as `data_origin`.
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

    Shower k depends on its energy, on (seed, first + k) and on the settings, not on the other showers. So a run may be
    divided among processes and machines: the same showers come out.

    Args:
        energy: kinetic energy of each primary electron, shape (n,), GeV.
        seed: not negative.
        first: index of the first shower in the run it is a part of.
        detector: the calorimeter; the electron enters the middle of it at right angles.
        field_tesla: magnetic field along x, T; 0 for none.
        cut_mm: production cut: secondaries with a shorter range are not followed, mm.
        progress: called after each shower with the number 1.

    Returns:
        The showers, of shape (n, *detector.grid.shape), every deposit kept.

    Raises:
        RequestError: an energy, the seed, the field or the cut is outside its range.
        SimulationError: geant4-pybind is not installed, Geant4 died, or its data are not where they were said to be.
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
    done = 0
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        environment = _environment(Path(scratch))
        with _python(["-m", "calogan.simulation.geant4_worker"], environment, json.dumps(job)) as output:
            for shower in showers:
                if output.readinto(shower.data) < shower.nbytes:
                    break
                done += 1
                if progress is not None:
                    progress(1)
    if done < len(energy):
        raise SimulationError(f"Geant4 ended after {done} of {len(energy)} showers without saying why")
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
            raise RequestError(f"{name} {number} is negative; give a whole number from 0 on")
    if not abs(field_tesla) <= MAX_FIELD_TESLA:
        raise RequestError(f"field {field_tesla} T is not possible; give 0 to {MAX_FIELD_TESLA:g} T")
    if not MIN_CUT_MM <= cut_mm <= MAX_CUT_MM:
        raise RequestError(f"cut {cut_mm} mm is not possible; give {MIN_CUT_MM:g} to {MAX_CUT_MM:g} mm")


@functools.cache
def _geant4_version() -> str:
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        code = "import geant4_pybind; print(geant4_pybind.G4VERSION_NUMBER)"
        with _python(["-c", code], {"GEANT4_DATA_DIR": scratch}) as output:
            number = output.read().decode().strip()
    return f"{number[:-2]}.{number[-2]}.{number[-1]}"


def _environment(scratch: Path) -> dict[str, str]:
    """Variables that Geant4 needs; scratch: a folder that lasts as long as the simulation."""
    (scratch / "ENSDFSTATE.dat").touch()
    unused = {name: os.environ.get(name) or str(scratch) for name in _UNUSED_DATA}
    tables = data_origin().folder or _computed_tables(scratch)
    return unused | {
        "G4LEDATA": str(tables),
        "GEANT4_DATA_DIR": os.environ.get("GEANT4_DATA_DIR") or str(scratch),  # without it the import asks to download
    }


def _has_tables(folder: Path) -> bool:
    return (folder / "brem_SB").is_dir() and (folder / "epics2017" / "phot").is_dir()


def _computed_tables(scratch: Path) -> Path:
    """Folder of the computed tables: from the user's cache, or new ones, which are put there if that is possible."""
    made_by = provenance.sha256(Path(em_tables.__file__)) + _geant4_version()
    name = f"geant4-tables-{provenance.digest(made_by)[:12]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "calogan")  # noqa: PTH111
    if (cache / name).is_dir():
        return cache / name
    fresh = scratch / name
    with _python(["-m", em_tables.__name__, str(fresh)], {"GEANT4_DATA_DIR": str(scratch)}):
        pass
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as part:
            # Renamed when it is whole; fails if another process was faster.
            shutil.copytree(fresh, Path(part, name)).rename(cache / name)
    except OSError:
        return fresh
    return cache / name


@contextmanager
def _python(arguments: Sequence[str], environment: dict[str, str], told: str = "") -> Iterator[BufferedReader]:
    """Run Python with some arguments and give its standard output; nothing of it is left running afterwards.

    Args:
        arguments: of the Python interpreter.
        environment: variables to add to this process's own.
        told: its standard input.

    Raises:
        SimulationError: geant4-pybind is not installed, or the process did not end well.
    """
    if importlib.util.find_spec("geant4_pybind") is None:
        raise SimulationError("Geant4 is not installed: pip install 'calogan[geant4]'")
    # The child must find this package even where it is not installed, and nothing in the folder it happens to run in (-P).
    path = os.pathsep.join([str(Path(calogan.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(told.encode())
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
            raise SimulationError("\n  ".join([f"Geant4 died with {_cause(code)}; its last lines:", *lines]))


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
