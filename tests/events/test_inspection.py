import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from calogan.errors import EventsError
from calogan.events import Events, write_events
from calogan.events.inspection import inspect


def problems(path: Path | str) -> list[str]:
    return list(inspect(path).problems)


@pytest.fixture
def path(tmp_path: Path, geant4: Events) -> Path:
    return write_events(tmp_path / "geant4.h5", geant4, header={"generator": "Geant4"})


def test_good_showers_are_described(path: Path, geant4: Events) -> None:
    steps: list[int] = []
    contents = inspect(path, progress=steps.append)
    ecal = geant4.showers.sum(axis=(1, 2, 3), dtype=np.float64)
    assert contents.problems == ()
    assert sum(steps) == len(geant4) == contents.histogram.sum()
    np.testing.assert_allclose(contents.sampling_fraction, ecal / geant4.energy, rtol=1e-6)
    np.testing.assert_array_equal(contents.hits, (geant4.showers > 0).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(contents.mean_shower, geant4.showers.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert contents.files[0].origin["generator"] == "Geant4"
    rows = contents.by_energy()
    assert sum(row["showers"] for row in rows) == len(geant4)
    mean = sum(row["showers"] * row["sampling_fraction"] for row in rows) / len(geant4)
    assert mean == pytest.approx((ecal / geant4.energy).mean(), rel=1e-6)
    assert json.loads(json.dumps(contents.to_dict()))["showers"] == len(geant4)


def test_repeated_and_empty_showers_are_counted(tmp_path: Path, geant4: Events) -> None:
    showers = np.concatenate([geant4.showers[:50], geant4.showers[:7], np.zeros_like(geant4.showers[:3])])
    energy = np.concatenate([geant4.energy[:50], geant4.energy[:7], np.array([10, 20, 30], np.float32)])
    lines = problems(write_events(tmp_path / "x.h5", Events(showers, energy)))
    assert [line.split(" showers ")[0] for line in lines] == ["3 of 60", "7 of 60"]


def test_wrong_units_and_wrong_order_are_reported(tmp_path: Path, geant4: Events) -> None:
    lines = problems(write_events(tmp_path / "units.h5", Events(100 * geant4.showers, geant4.energy)))
    assert any("more energy in the cells than their primary particle" in line for line in lines)
    assert any("the sampling fraction is" in line for line in lines)
    lines = problems(write_events(tmp_path / "order.h5", Events(geant4.showers, geant4.energy[::-1].copy())))
    assert any("are energies and showers in the same order?" in line for line in lines)


def test_showers_off_the_entry_cell_are_reported(tmp_path: Path, geant4: Events) -> None:
    lines = problems(write_events(tmp_path / "x.h5", Events(np.roll(geant4.showers, 4, axis=2), geant4.energy)))
    assert [line for line in lines if "along y; expected 12" in line]
    assert not [line for line in lines if "along x" in line]


def test_a_damaged_chunk_is_reported_and_the_rest_is_read(tmp_path: Path, geant4: Events) -> None:
    path = write_events(tmp_path / "x.h5", geant4)
    with h5py.File(path, "a") as file:
        file["ECAL"][3, 2, 2, 2] = np.nan
    again = write_events(tmp_path / "y.h5", geant4[:0:-1])
    contents = inspect([path, again])
    assert any("x.h5: a shower cell is not a finite number (shower 3)" in line for line in contents.problems)
    assert np.isnan(contents.sampling_fraction).all()  # both files lie in one stretch


def test_several_angles_are_reported(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["theta"] = np.linspace(1.0, 2.0, 200)
    assert any("showers of several angles" in line for line in problems(path))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EventsError, match="no such file"):
        inspect(tmp_path / "x.h5")
