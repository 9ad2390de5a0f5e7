import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError, RequestError
from calogan.events import (
    EnergyRange,
    Events,
    checked_events,
    packaged_sample,
    parse_energy,
    read_events,
    split_events,
    write_events,
)
from calogan.geometry import CLIC

HEADER = {"seed": "1"}
SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}


def few(n: int = 3, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    showers = rng.random((n, *CLIC.shape), dtype=np.float32) * (rng.random((n, *CLIC.shape)) < 0.01)
    return Events(showers.astype(np.float32), rng.uniform(2, 500, n).astype(np.float32))


def test_the_packaged_sample_holds_a_thousand_geant4_showers() -> None:
    events = read_events(packaged_sample())
    assert events.showers.shape == (1000, *CLIC.shape)
    assert events.showers.dtype == events.energy.dtype == np.float32
    assert 2 <= events.energy.min() < 10
    assert 490 < events.energy.max() <= 500


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    events = few()
    path = write_events(tmp_path / "showers.h5", events, header=HEADER)
    again = read_events(str(path))
    np.testing.assert_array_equal(again.showers, events.showers)
    np.testing.assert_array_equal(again.energy, events.energy)
    with h5py.File(path) as file:
        assert dict(file.attrs) == HEADER
        np.testing.assert_array_equal(file["target"][:, 0], 11)
        np.testing.assert_array_equal(file["target"][:, 1], events.energy)


def test_equal_showers_give_equal_bytes(tmp_path: Path) -> None:
    first = write_events(tmp_path / "first.h5", few(), header=HEADER).read_bytes()
    second = write_events(tmp_path / "second.h5", few(), header=HEADER).read_bytes()
    assert first == second


def test_without_a_header_provenance_is_written(tmp_path: Path) -> None:
    with h5py.File(write_events(tmp_path / "showers.h5", few(1))) as file:
        assert "calogan_version" in file.attrs


def damage(**changes: Any) -> Callable[[Path], None]:
    """Write a good file of three showers, but for the datasets given; None leaves one out."""

    def write(path: Path) -> None:
        cells = np.zeros((3, *CLIC.shape), np.float32)
        cells[:, 12, 12, 5] = 1.0
        target = np.tile(np.float32([11, 100, 0, 0, 100]), (3, 1))
        with h5py.File(path, "w") as file:
            for name, data in ({"ECAL": cells, "target": target} | changes).items():
                if isinstance(data, str):
                    file.create_group(name)
                elif data is not None:
                    file[name] = data

    return write


def one_cell(value: float) -> np.ndarray[Any, Any]:
    cells = np.ones((3, *CLIC.shape), np.float32)
    cells[1, 2, 3, 4] = value
    return cells


def one_energy(value: float) -> np.ndarray[Any, Any]:
    target = np.full((3, 5), 100, np.float32)
    target[2, 1] = value
    return target


def truncate(path: Path) -> None:
    damage()(path)
    path.write_bytes(path.read_bytes()[:-5000])


def corrupt(path: Path) -> None:
    write_events(path, few(), header=HEADER)
    with h5py.File(path) as file:
        chunk = file["ECAL"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\x55" * chunk.size
    path.write_bytes(data)


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", Path.absolute, "no such file"),
    ("folder", Path.mkdir, "is a folder; name an HDF5 file"),
    ("nothing in it", Path.touch, "is not a readable HDF5 file"),
    ("text", lambda path: path.write_text("energy"), "is not a readable HDF5 file"),
    ("truncated", truncate, "is truncated"),
    ("corrupt chunk", corrupt, "is not a readable HDF5 file"),
    ("no datasets", damage(ECAL=None, target=None), "has no dataset 'ECAL' (it has: nothing)"),
    ("no ECAL", damage(ECAL=None), "has no dataset 'ECAL' (it has: target)"),
    ("no target", damage(target=None), "has no dataset 'target' (it has: ECAL)"),
    ("group", damage(ECAL="group"), "has no dataset 'ECAL'"),
    ("single number", damage(ECAL=np.float32(1)), "dataset 'ECAL' is a single number"),
    ("rank of ECAL", damage(ECAL=np.ones((3, 25, 25), np.float32)), "shape (3, 25, 25); expected (n, 25, 25, 25)"),
    ("shape of ECAL", damage(ECAL=np.ones((3, 51, 51, 25), np.float32)), "shape (3, 51, 51, 25); expected"),
    ("rank of target", damage(target=np.ones(3)), "target has shape (3,); expected (n, 2 or more)"),
    ("columns of target", damage(target=np.ones((3, 1))), "target has shape (3, 1); expected (n, 2 or more)"),
    ("strings", damage(target=np.full((3, 5), b"100 GeV")), "dataset 'target' holds |S7; expected numbers"),
    ("cell not a number", damage(ECAL=one_cell(np.nan)), "a shower cell is not a finite number (shower 1)"),
    ("infinite cell", damage(ECAL=one_cell(np.inf)), "a shower cell is not a finite number (shower 1)"),
    ("negative cell", damage(ECAL=one_cell(-1e-3)), "shower 1 has a cell with negative energy"),
    ("energy not a number", damage(target=one_energy(np.nan)), "a energy is not a finite number (shower 2)"),
    ("negative energy", damage(target=one_energy(-3)), "shower 2 has energy -3.0 GeV; expected more than 0"),
    ("no energy", damage(target=one_energy(0)), "shower 2 has energy 0.0 GeV; expected more than 0"),
    ("lengths", damage(target=np.ones((4, 5))), "3 showers but energies of shape (4,)"),
    ("no showers", damage(ECAL=np.ones((0, *CLIC.shape)), target=np.ones((0, 5))), "no showers; expected at least one"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_a_damaged_file_is_told_what_is_wrong(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    make(path)
    with pytest.raises(EventsError, match=re.escape(message)) as caught:
        read_events(path)
    assert str(caught.value).startswith(str(path))


def test_an_undamaged_file_of_that_making_is_read(tmp_path: Path) -> None:
    damage()(tmp_path / "good.h5")
    assert read_events(tmp_path / "good.h5").energy.tolist() == [100, 100, 100]


def test_double_precision_is_taken_as_single() -> None:
    events = checked_events(np.ones((1, *CLIC.shape)), [100.0], origin="test")
    assert events.showers.dtype == events.energy.dtype == np.float32


def test_a_write_that_fails_leaves_the_file_before_it_and_nothing_else(tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", few(), header=HEADER)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_events(path, few(seed=1), header={"seed": object()})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(EventsError, match=r"gone: no such folder; make it first"):
        write_events(tmp_path / "gone" / "showers.h5", few())
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(EventsError, match=r"folder\.h5: cannot be written"):
        write_events(tmp_path / "folder.h5", few())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.h5"]


def test_parts_are_disjoint_and_complete() -> None:
    events = few(60)
    parts = split_events(events, SHARES)
    energies = np.concatenate([part.energy for part in parts.values()])
    assert sorted(energies) == sorted(events.energy)
    assert list(parts) == list(SHARES)


@given(st.permutations(range(40)), st.integers(20, 40))
@settings(max_examples=25, deadline=None)
def test_a_shower_falls_into_its_part_in_whatever_sample_it_is_met(order: list[int], n: int) -> None:
    events = few(40)
    whole = split_events(events, SHARES)
    some = split_events(events[np.array(order[:n])], SHARES)
    for name, part in some.items():
        assert set(part.energy.tolist()) <= set(whole[name].energy.tolist())


def test_parts_have_their_shares_and_another_seed_divides_otherwise() -> None:
    events = read_events(packaged_sample())
    parts = split_events(events, SHARES)
    for name, share in SHARES.items():
        assert len(parts[name]) == pytest.approx(1000 * share, abs=5 * np.sqrt(1000 * share * (1 - share)))
    assert parts["train"].energy.tolist() != split_events(events, SHARES, seed=1)["train"].energy.tolist()


def test_a_division_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(EventsError, match=r"1 showers are too few: the part '\w+' \(\d+%\) would be empty"):
        split_events(few(1), SHARES)
    with pytest.raises(ValueError, match="do not add up to 1"):
        split_events(few(), {"train": 0.5, "test": 0.4})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200", EnergyRange(200, 200)),
        ("2:500", EnergyRange(2, 500)),
        (" 2 : 500 ", EnergyRange(2, 500)),
        ("1e2", EnergyRange(100, 100)),
        ("5:5", EnergyRange(5, 5)),
    ],
)
def test_an_energy_is_read(text: str, expected: EnergyRange) -> None:
    assert parse_energy(text) == expected


@pytest.mark.parametrize("text", ["", "GeV", "2:", ":500", "2:500:7", "2-500", "200 GeV"])
def test_a_text_that_is_no_energy_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not understood; give GeV as 200, or as 2:500"):
        parse_energy(text)


@pytest.mark.parametrize("text", ["0", "-5", "500:2", "-2:500", "nan", "inf", "2:inf", "nan:500", "1e999"])
def test_an_impossible_energy_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="must be positive, finite and rising"):
        parse_energy(text)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_the_energy_of_a_shower_does_not_depend_on_how_many_are_drawn(n: int, m: int, seed: int) -> None:
    drawn = EnergyRange(2, 500).draw(n, seed)
    assert ((drawn >= 2) & (drawn <= 500)).all()
    np.testing.assert_array_equal(drawn[:m], EnergyRange(2, 500).draw(m, seed)[:n])
