"""Geant4 showers: physics against published and measured numbers, reproducibility, data, and crashing processes."""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from calogan.errors import RequestError, SimulationError
from calogan.events import Events, packaged_sample, read_events
from calogan.geometry import CLIC
from calogan.simulation import em_tables, geant4
from calogan.simulation.detector import CLIC_DETECTOR, Detector, Plates

needs_geant4 = pytest.mark.skipif(
    importlib.util.find_spec("geant4_pybind") is None, reason="geant4-pybind is not installed"
)
CELL = np.arange(25) - 12.0
RADIUS_MM = CLIC.cell_mm * np.hypot(CELL[:, None], CELL)
PLATE_X0 = np.array(CLIC.absorber_mm) * 17.8 / 69.7  # tungsten alloy
GAP_X0 = 0.052


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", autouse=True)
def _fresh_home(folder: Path) -> Iterator[None]:
    """Nothing installed, nothing cached, and a continuous integration where geant4-pybind downloads unasked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("CI", "true")
        for name in ("XDG_CACHE_HOME", "G4LEDATA", "GEANT4_DATA_DIR", "G4ENSDFSTATEDATA", "G4LEVELGAMMADATA"):
            patch.delenv(name, raising=False)
        yield


def fixed(gev: float, n: int, **settings: object) -> Events:
    return geant4.simulate(np.full(n, gev, dtype=np.float32), seed=5, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def one() -> bytes:
    """The cells of one shower of 1 GeV."""
    return fixed(1, 1).showers.tobytes()


@pytest.fixture(scope="module")
def at_10_gev() -> Events:
    return fixed(10, 30, field_tesla=0)


@pytest.fixture(scope="module")
def at_10_gev_in_field() -> Events:
    return fixed(10, 30)


@pytest.fixture(scope="module")
def reference() -> Events:
    """The Geant4 showers below 15 GeV that come with the package."""
    events = read_events(packaged_sample())
    return events[events.energy < 15]


def near(values: NDArray[np.floating], expected: float, *, relative: float = 0) -> bool:
    """Whether the mean is within four standard errors plus the tolerance of the expected value."""
    error = values.std() / np.sqrt(len(values))
    return bool(abs(values.mean() - expected) < 4 * error + relative * abs(expected))


def sampling_fraction(events: Events) -> NDArray[np.float64]:
    return np.asarray(events.showers.sum(axis=(1, 2, 3), dtype=np.float64) / events.energy)


def central_share(events: Events) -> NDArray[np.float64]:
    central = events.showers[:, 12, 12].sum(axis=1, dtype=np.float64)
    return np.asarray(central / events.showers.sum(axis=(1, 2, 3)))


def mean_index(events: Events, axis: int) -> NDArray[np.float64]:
    """Mean cell index of each shower along x, y or z."""
    others = tuple(other for other in (1, 2, 3) if other != axis + 1)
    profile = events.showers.sum(axis=others, dtype=np.float64)
    return np.asarray(profile @ np.arange(profile.shape[1]) / profile.sum(axis=1))


def maximum_x0(events: Events) -> float:
    """Depth of the maximum of the mean profile, radiation lengths."""
    visible = events.showers.sum(axis=(0, 1, 2)) / PLATE_X0
    near_top = int(visible.argmax()) + np.arange(-2, 3)
    square, slope, _ = np.polyfit(near_top, np.log(visible[near_top]), 2)
    middle = np.cumsum(PLATE_X0 + GAP_X0) - PLATE_X0 / 2
    return float(np.interp(-slope / (2 * square), np.arange(CLIC.layers), middle))


def share_within(events: Events, radius_mm: float) -> float:
    column = events.showers.sum(axis=(0, 3))
    return float(column[radius_mm > RADIUS_MM].sum() / column.sum())


@needs_geant4
def test_shower_of_2_gev() -> None:
    events = fixed(2, 100, field_tesla=0)
    assert events.showers.shape == (100, *CLIC.shape)
    assert events.showers.dtype == np.float32
    assert (events.showers >= 0).all()
    assert near(sampling_fraction(events), 0.0212, relative=0.005)
    assert sampling_fraction(events).std() / 0.0212 == pytest.approx(0.117, rel=0.3)
    assert maximum_x0(events) == pytest.approx(4.35, abs=0.6)


@needs_geant4
def test_shower_of_10_gev(at_10_gev: Events) -> None:
    assert near(sampling_fraction(at_10_gev), 0.0206, relative=0.005)
    assert sampling_fraction(at_10_gev).std() / 0.0206 == pytest.approx(0.065, rel=0.4)
    assert near(central_share(at_10_gev), 0.473, relative=0.01)
    assert maximum_x0(at_10_gev) == pytest.approx(6.06, abs=0.5)
    # Nine tenths within one Moliere radius: 16.4 mm for this stack.
    assert share_within(at_10_gev, 16.0) < 0.9 < share_within(at_10_gev, 16.4)


@needs_geant4
def test_field_raises_the_signal_and_bends_electrons(at_10_gev: Events, at_10_gev_in_field: Events) -> None:
    assert near(sampling_fraction(at_10_gev_in_field), 0.0214, relative=0.005)
    assert sampling_fraction(at_10_gev_in_field).mean() > 1.015 * sampling_fraction(at_10_gev).mean()
    assert near(mean_index(at_10_gev, 0), 12)
    assert near(mean_index(at_10_gev, 1), 12)
    assert near(mean_index(at_10_gev_in_field, 0), 12)
    # Field along x, flight along z: the force on a negative charge is along -y.
    turned = fixed(1, 50, field_tesla=20)
    assert mean_index(turned, 1).mean() < 11.8
    assert near(mean_index(turned, 0), 12)


@needs_geant4
def test_agrees_with_the_packaged_showers(reference: Events) -> None:
    ours = geant4.simulate(reference.energy, seed=3)
    for observable in (
        sampling_fraction,
        central_share,
        lambda events: mean_index(events, 1),
        lambda events: mean_index(events, 2),
        lambda events: (events.showers > CLIC.threshold_gev).sum(axis=(1, 2, 3)),
    ):
        assert near(observable(ours) - observable(reference), 0)


@needs_geant4
def test_equal_plates_sample_less() -> None:
    """25 plates of 3 mm tungsten show 1.83 % of 10 GeV, where the thin plates in front show 2.06 %."""
    uniform = CLIC_DETECTOR.model_copy(update={"plates": (Plates(count=25, absorber_mm=3.0),)})
    assert near(sampling_fraction(fixed(10, 20, detector=uniform, field_tesla=0)), 0.0183, relative=0.005)


@needs_geant4
@pytest.mark.slow
@pytest.mark.parametrize(
    ("gev", "n", "field", "fraction", "resolution", "depth", "share"),
    [
        (50, 30, 0, 0.0193, 0.046, 7.73, 0.487),
        (100, 20, 0, 0.0186, 0.052, 8.52, 0.492),
        (100, 20, 4, 0.0193, 0.052, None, None),
    ],
)
def test_high_energy(
    gev: float, n: int, field: float, fraction: float, resolution: float, depth: float | None, share: float | None
) -> None:
    events = fixed(gev, n, field_tesla=field)
    assert near(sampling_fraction(events), fraction, relative=0.005)
    assert sampling_fraction(events).std() / fraction == pytest.approx(resolution, rel=0.5)
    if depth is not None and share is not None:
        assert maximum_x0(events) == pytest.approx(depth, abs=0.7)
        assert near(central_share(events), share, relative=0.01)


@needs_geant4
def test_a_shower_does_not_depend_on_the_others() -> None:
    energy = np.array([3, 8, 1, 5], dtype=np.float32)
    run = geant4.simulate(energy, seed=2**70, first=40)
    for k in (1, 3):
        alone = geant4.simulate(energy[k : k + 1], seed=2**70, first=40 + k)
        assert alone.showers.tobytes() == run.showers[k].tobytes()
    after_others = geant4.simulate(energy[[3, 2, 1]], seed=2**70, first=39)
    assert after_others.showers[2].tobytes() == run.showers[1].tobytes()
    assert len({shower.tobytes() for shower in run.showers}) == len(run)


@needs_geant4
@pytest.mark.parametrize("changed", [{"seed": 6}, {"field_tesla": 3.9}, {"cut_mm": 3}])
def test_seed_field_and_cut_decide(one: bytes, changed: dict[str, object]) -> None:
    arguments = {"seed": 5} | changed
    assert geant4.simulate(np.array([1], dtype=np.float32), **arguments).showers.tobytes() != one  # type: ignore[arg-type]


@needs_geant4
def test_other_cells_and_layers() -> None:
    changed = {"cells": (8, 5), "cell_mm": 10.0, "plates": (Plates(count=4, absorber_mm=5.0),)}
    detector = Detector.model_validate(CLIC_DETECTOR.model_dump() | changed)
    steps: list[int] = []
    showers = fixed(5, 10, detector=detector, field_tesla=0, progress=steps.append).showers
    assert steps == [1] * 10
    assert showers.shape == (10, 8, 5, 4)
    columns = showers.sum(axis=(0, 3))
    assert np.unravel_index(columns.argmax(), columns.shape) == detector.grid.entry_cell == (4, 2)
    assert max(columns[3, 2], columns[5, 2], columns[4, 1], columns[4, 3]) < 0.3 * columns[4, 2]
    assert 0.003 < showers.sum() / 50 < 0.02


@needs_geant4
def test_computed_tables_are_kept_and_nothing_is_downloaded(folder: Path, one: bytes) -> None:
    assert [path.name for path in folder.iterdir()] == [".cache"]
    (tables,) = (folder / ".cache" / "calogan").iterdir()
    before = {path: path.stat().st_mtime_ns for path in tables.rglob("*")}
    assert fixed(1, 1).showers.tobytes() == one
    assert {path: path.stat().st_mtime_ns for path in tables.rglob("*")} == before


@needs_geant4
def test_no_cache_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one: bytes) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fixed(1, 1).showers.tobytes() == one


@needs_geant4
@pytest.mark.parametrize(("variable", "inside"), [("G4LEDATA", "G4EMLOW8.8"), ("GEANT4_DATA_DIR", "")])
def test_installed_data_are_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: bytes, variable: str, inside: str
) -> None:
    (tables,) = (folder / ".cache" / "calogan").iterdir()
    (tmp_path / "G4EMLOW8.8").symlink_to(tables)
    monkeypatch.setenv(variable, str(tmp_path / inside))
    assert geant4.data_origin() == geant4.DataOrigin("Geant4 data set G4EMLOW8.8", tmp_path / "G4EMLOW8.8")
    assert geant4.notes() == ["interaction data: Geant4 data set G4EMLOW8.8"]
    assert fixed(1, 1).showers.tobytes() == one


def test_data_downloaded_earlier_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert geant4.data_origin().name == "computed tables"
    data = tmp_path / ".geant4_pybind" / "G4EMLOW8.8"
    (data / "brem_SB").mkdir(parents=True)
    (data / "epics2017" / "phot").mkdir(parents=True)
    assert geant4.data_origin().folder == data


@pytest.mark.parametrize("variable", ["G4LEDATA", "GEANT4_DATA_DIR"])
def test_a_variable_that_points_elsewhere_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(SimulationError, match=rf"{variable} is set, but .* does not hold .* G4EMLOW8\.8; set it"):
        geant4.data_origin()


@needs_geant4
def test_the_header_describes_the_simulation() -> None:
    header = geant4.header(field_tesla=0, cut_mm=1.5)
    assert header["geant4_version"] == "11.4.1"
    assert header["physics_list"] == "G4EmStandardPhysics"
    assert header["field_tesla"] == "0 along x"
    assert header["production_cut_mm"] == "1.5"
    assert header["interaction_data"] == "computed tables"
    for approximation in em_tables.APPROXIMATIONS:
        assert approximation in header["interaction_data_approximations"]
        assert approximation in geant4.notes()
    assert Detector.model_validate_json(header["detector"]) == CLIC_DETECTOR


def children() -> list[psutil.Process]:
    """Running simulations started by this process."""
    return [child for child in psutil.Process().children() if "calogan.simulation.geant4_worker" in child.cmdline()]


@needs_geant4
def test_fatal_error_shows_the_last_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "brem_SB").mkdir()
    (tmp_path / "epics2017" / "phot").mkdir(parents=True)
    monkeypatch.setenv("G4LEDATA", str(tmp_path))
    with pytest.raises(SimulationError, match=r"(?s)Geant4 ended with .*; its last lines:.*(brem_SB|Exception)"):
        fixed(1, 1)


@needs_geant4
def test_a_killed_simulation_is_reported() -> None:
    with pytest.raises(SimulationError, match="Geant4 ended with SIGKILL"):
        fixed(2, 1000, progress=lambda _: children()[0].kill())
    assert not children()


@needs_geant4
def test_an_error_of_the_caller_leaves_nothing_running() -> None:
    def stop(_: int) -> None:
        assert len(children()) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fixed(2, 1000, progress=stop)
    assert not children()


@needs_geant4
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_caller_ends_the_simulation(number: signal.Signals) -> None:
    code = (
        # A job in the background of a shell has SIGINT ignored, and hands that on.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import numpy as np; from calogan.simulation import geant4;"
        "geant4.simulate(np.full(100_000, 1, np.float32), seed=1, progress=lambda n: print(n, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"1\n"
        (worker,) = psutil.Process(caller.pid).children()
        caller.send_signal(number)
        caller.communicate(timeout=30)
    assert caller.returncode == -number
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SimulationError, match=r"pip install 'calogan\[geant4\]'"):
        fixed(1, 1)


def test_worker_cannot_be_imported_by_mistake() -> None:
    """The import would make geant4-pybind offer a download."""
    code = "import calogan.simulation.geant4_worker"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert answer.returncode == 1
    assert "call geant4.simulate" in answer.stderr
    assert "download the missing ones" not in answer.stdout


def test_no_energies_give_no_showers() -> None:
    assert geant4.simulate(np.empty(0, dtype=np.float32), seed=1).showers.shape == (0, 25, 25, 25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"energy": [10, 0.01]},
            r"energy 0\.01 GeV is outside the range of the simulation; ask for 0\.1 to 1000 GeV",
        ),
        ({"energy": [float("nan")]}, "energy nan GeV is outside"),
        ({"energy": [[1.0]]}, r"shape \(1, 1\); expected \(n,\)"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"first": -1}, "first -1 is negative"),
        ({"field_tesla": 21.0}, r"field 21\.0 T is out of range"),
        ({"field_tesla": float("nan")}, "field nan T is out of range"),
        ({"cut_mm": 0.0}, r"cut 0\.0 mm is out of range"),
    ],
)
def test_impossible_requests_are_refused(settings: dict[str, object], message: str) -> None:
    arguments = {"energy": [1.0], "seed": 1} | settings
    with pytest.raises(RequestError, match=message):
        geant4.simulate(np.array(arguments.pop("energy"), dtype=np.float32), **arguments)  # type: ignore[arg-type]


@pytest.mark.slow
@needs_geant4
def test_the_last_layer_is_that_of_the_packaged_showers() -> None:
    """The world ends behind the last layer: the field would bend electrons back from a gap, with a third more hits."""
    packaged = read_events(packaged_sample())
    subset = packaged[np.flatnonzero((packaged.energy > 80) & (packaged.energy < 150))]
    simulated = geant4.simulate(subset.energy[:40], seed=6)

    def ratio(showers: NDArray[np.float32]) -> float:
        last, other = (showers[..., layer] >= CLIC.threshold_gev for layer in (24, 23))
        return float(last.sum() / other.sum())

    assert ratio(simulated.showers) == pytest.approx(ratio(subset.showers), rel=0.15)
