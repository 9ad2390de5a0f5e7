import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest

from calogan import provenance
from calogan.errors import ConfigError, RequestError
from calogan.events import EnergyRange, open_events, productions, read_events
from calogan.simulation import engines, parametric
from calogan.simulation.engines import Engine, load_engine
from calogan.simulation.profiles import PUBLISHED

ABSENT = importlib.util.find_spec("geant4_pybind") is None
GEANT4 = pytest.param("geant4", marks=pytest.mark.skipif(ABSENT, reason="geant4-pybind is not installed"))


def produce(folder: Path, engine: Engine, n: int, size: int) -> Path:
    plan = engines.plan(engine, EnergyRange(2, 4), showers=n, seed=5, shard_showers=size)
    for shard in reversed(productions.begin(folder, plan)):  # the order in which they are made does not matter
        engines.make_shard(folder, plan, shard, engine)
    productions.finish(folder, plan)
    return folder


@pytest.mark.parametrize("name", ["parametric", GEANT4])
def test_shards_hold_the_showers_of_one_long_run(tmp_path: Path, name: str) -> None:
    engine = load_engine(name)
    parts = read_events(produce(tmp_path / "p", engine, 7, 3))
    (whole,) = engine.simulate(EnergyRange(2, 4).draw(7, 5), seed=5)
    np.testing.assert_array_equal(parts.energy, whole.energy)
    np.testing.assert_array_equal(parts.showers, whole.showers)


def test_the_same_production_twice_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = (produce(tmp_path / name, Engine(), 70, 32) for name in "ab")
    for path in first.iterdir():
        assert provenance.sha256(path) == provenance.sha256(second / path.name)


def test_a_long_run_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = EnergyRange(2, 10).draw(50, 1)
    counts: list[int] = []
    monkeypatch.setattr(engines, "_PART", 20)
    parts = list(Engine().simulate(energy, seed=1, first=30, progress=counts.append))
    assert [len(part) for part in parts] == [20, 20, 10]
    assert sum(counts) == 50
    whole = parametric.simulate(energy, seed=1, first=30)
    np.testing.assert_array_equal(np.concatenate([part.showers for part in parts]), whole.showers)


@pytest.mark.parametrize("name", ["parametric", GEANT4])
def test_a_shard_of_default_size_is_minutes_of_work(name: str) -> None:
    plan = engines.plan(load_engine(name), EnergyRange(2, 500), showers=10**6, seed=1)
    assert plan.shard_showers == engines.SHARD_SHOWERS[name]
    assert sum(shard.showers for shard in plan.shards) == 10**6


def test_files_name_their_simulation(tmp_path: Path) -> None:
    folder = produce(tmp_path / "p", Engine(tuning=PUBLISHED), 3, 3)
    with h5py.File(folder / "showers-00000.h5") as file:
        assert file.attrs["generator"] == "parametric simulation"
        assert file.attrs["seed"] == "5"
        assert '"onset":0.0' in file.attrs["tuning"]


def test_other_settings_are_another_production(tmp_path: Path) -> None:
    produce(tmp_path / "p", Engine(), 3, 3)
    with pytest.raises(Exception, match="holds another production"):
        produce(tmp_path / "p", Engine(tuning=PUBLISHED), 3, 3)
    assert len(open_events(tmp_path / "p")) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"field_tesla": -1.0}, "field_tesla"),
        ({"cut_mm": 0.0}, "cut_mm"),
        ({"field_tesla": float("nan")}, "field_tesla"),
    ],
)
def test_impossible_settings_are_reported(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine("geant4", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("energy", [EnergyRange(0.01, 5), EnergyRange(2, 5000)])
def test_energies_outside_the_range_are_reported_before_the_start(energy: EnergyRange) -> None:
    with pytest.raises(
        RequestError, match=r"is outside the range of the parametric simulation; ask for 0\.5 to 1000 GeV"
    ):
        engines.plan(Engine(), energy, showers=10, seed=1)


def test_a_missing_detector_is_reported() -> None:
    with pytest.raises(ConfigError, match="no detector 'none': give a TOML file or one of clic"):
        load_engine("geant4", detector="none")
