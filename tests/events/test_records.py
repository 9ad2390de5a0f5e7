import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from calogan.errors import EventsError, RequestError
from calogan.events import (
    EnergyRange,
    Events,
    checked_events,
    packaged_sample,
    parse_energy,
    read_events,
    read_spectrum,
    write_events,
)
from calogan.geometry import CLIC


def showers(n: int = 3, **cells: float) -> np.ndarray:
    """Showers of ones; `cell=value` puts a value into a cell of shower 1."""
    ones = np.ones((n, *CLIC.shape), np.float32)
    for value in cells.values():
        ones[1, 2, 3, 4] = value
    return ones


def test_showers_are_taken_by_slice_by_number_and_by_flag() -> None:
    events = Events(np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1), np.arange(4, dtype=np.float32))
    assert len(events) == 4
    for which, expected in ((slice(1, 3), [1, 2]), (np.array([3, 0]), [3, 0]), (np.array([1, 0, 0, 1]) > 0, [0, 3])):
        some = events[which]
        assert some.energy.tolist() == some.showers.ravel().tolist() == expected


def test_double_precision_is_taken_as_single() -> None:
    events = checked_events(np.ones((1, *CLIC.shape)), [100.0], origin="test")
    assert events.showers.dtype == events.energy.dtype == np.float32


def test_single_precision_is_not_copied() -> None:
    cells, energy = showers(), np.ones(3, np.float32)
    events = checked_events(cells, energy, origin="test")
    assert events.showers is cells
    assert events.energy is energy


def test_a_zero_may_have_a_sign_and_a_view_need_not_be_contiguous() -> None:
    cells = np.moveaxis(showers(cell=-0.0), 3, 1)
    assert checked_events(cells, [1, 1, 1], origin="test").showers is cells


def test_another_shape_is_taken_where_it_is_allowed() -> None:
    cells = np.ones((2, 3, 4, 5))
    assert checked_events(cells, [1, 2], origin="test", shape=None).showers.shape == (2, 3, 4, 5)
    assert checked_events(cells, [1, 2], origin="test", shape=(3, 4, 5)).showers.shape == (2, 3, 4, 5)


OF_SHOWER_9 = "cell is not a finite number (shower 9); expected energies in GeV"


@pytest.mark.parametrize(
    ("cells", "energy", "message"),
    [
        (np.ones((3, 25, 25)), [1, 1, 1], "showers have shape (3, 25, 25); expected (n, 25, 25, 25)"),
        (np.ones((3, 51, 51, 25)), [1, 1, 1], "showers have shape (3, 51, 51, 25); expected (n, 25, 25, 25)"),
        (showers(), [1, 1], "3 showers but energies of shape (2,); expected one energy for each shower"),
        (showers(), [[1], [1], [1]], "3 showers but energies of shape (3, 1); expected one energy for each shower"),
        (showers(0), [], "no showers; expected at least one"),
        (showers(), [1, np.nan, 1], "an energy is not a finite number (shower 9); expected energies in GeV"),
        (showers(), [1, 1, np.inf], "an energy is not a finite number (shower 10)"),
        (showers(), [1, 1, 1e300], "an energy is not a finite number (shower 10)"),
        (showers(), [0, 1, 1], "shower 8 has energy 0.0 GeV; expected more than 0"),
        (showers(), [1, 1, -3], "shower 10 has energy -3.0 GeV; expected more than 0"),
        (showers(cell=np.nan), [1, 1, 1], f"a shower {OF_SHOWER_9}"),
        (showers(cell=np.inf), [1, 1, 1], f"a shower {OF_SHOWER_9}"),
        (showers(cell=-np.inf), [1, 1, 1], f"a shower {OF_SHOWER_9}"),
        (showers().astype(np.float64) * 1e300, [1, 1, 1], "a shower cell is not a finite number (shower 8)"),
        (showers(cell=-0.5), [1, 1, 1], "shower 9 has a cell with negative energy (-0.5 GeV); set cells below"),
    ],
)
def test_invalid_arrays_are_refused_with_the_reason(cells: ArrayLike, energy: ArrayLike, message: str) -> None:
    with pytest.raises(EventsError, match=re.escape(message)) as error:
        checked_events(cells, energy, origin="here", first=8)
    assert str(error.value).startswith("here: ")


def test_the_reported_negative_cell_belongs_to_the_reported_shower() -> None:
    cells = showers(cell=-1)
    cells[2, 0, 0, 0] = -7
    with pytest.raises(EventsError, match=r"shower 1 has a cell with negative energy \(-1\.0 GeV\)"):
        checked_events(cells, [1, 1, 1], origin="here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200", EnergyRange(200, 200)),
        ("2:500", EnergyRange(2, 500)),
        (" 2 : 500 ", EnergyRange(2, 500)),
        ("1e2", EnergyRange(100, 100)),
        ("5:5", EnergyRange(5, 5)),
        ("log:2:500", EnergyRange(2, 500, log=True)),
    ],
)
def test_an_energy_is_parsed(text: str, expected: EnergyRange) -> None:
    assert parse_energy(text) == expected


@pytest.mark.parametrize("text", ["", "GeV", "2:", ":500", "2:500:7", "2-500", "200 GeV", "log:", "log:5", "log:2:3:4"])
def test_an_invalid_energy_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is neither a number nor a range; expected GeV, such as 200, or 2:500"):
        parse_energy(text)


@pytest.mark.parametrize(
    "text", ["0", "-5", "500:2", "-2:500", "nan", "inf", "2:inf", "nan:500", "1e999", "1e39", "2:1e39", "1e-46"]
)
def test_an_impossible_energy_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="must be positive, finite and ascending"):
        parse_energy(text)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_the_energy_of_a_shower_does_not_depend_on_other_showers(n: int, first: int, seed: int) -> None:
    whole = EnergyRange(2, 500).draw(first + n, seed)
    assert ((whole >= 2) & (whole <= 500)).all()
    np.testing.assert_array_equal(EnergyRange(2, 500).draw(n, seed, first=first), whole[first:])


def test_energies_are_spread_flat_over_their_range() -> None:
    energies = EnergyRange(2, 500).draw(100_000, seed=1)
    assert energies.dtype == np.float32
    counts, _ = np.histogram(energies, bins=10, range=(2, 500))
    assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000)
    assert energies.tolist() != EnergyRange(2, 500).draw(100_000, seed=2).tolist()
    assert set(EnergyRange(200, 200).draw(10, seed=1).tolist()) == {200}


def test_energies_flat_in_their_logarithm() -> None:
    energies = EnergyRange(2, 200, log=True).draw(100_000, seed=1)
    assert 2 <= energies.min() < 2.01
    assert 199 < energies.max() <= 200
    np.testing.assert_allclose(np.mean(energies < 20), 0.5, atol=0.01)
    np.testing.assert_array_equal(EnergyRange(2, 200, log=True).draw(10, seed=1, first=7), energies[7:17])


def test_the_energies_of_a_file_are_a_spectrum(tmp_path: Path) -> None:
    events = read_events(packaged_sample())[:5]
    spectrum = read_spectrum(str(write_events(tmp_path / "a.arrow", events)))
    assert (spectrum.low, spectrum.high) == (events.energy.min(), events.energy.max())
    assert spectrum.draw(7, 1, first=4).tolist() == [*events.energy[4:], *events.energy, *events.energy[:1]]
    assert read_spectrum("2:500") == EnergyRange(2, 500)
