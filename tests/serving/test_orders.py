import json
from itertools import pairwise
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.errors import RequestError
from calogan.events import EnergyRange
from calogan.serving.orders import check_range, order_schema, parse_order

ALLOWED = EnergyRange(2.0, 500.0)
SPECTRA = [
    {"law": "flat", "low": 2, "high": 500},
    {"law": "log-flat", "low": 2, "high": 500},
    {"law": "gaussian", "mean": 100, "sigma": 60},
]


def order(**body: Any) -> Any:
    return parse_order(json.dumps(body).encode())


@pytest.mark.parametrize("energy", [50, *SPECTRA])
@given(cuts=st.lists(st.integers(1, 99), unique=True, max_size=5), first=st.integers(0, 1000))
def test_energies_do_not_depend_on_the_parts_they_are_drawn_in(energy: Any, cuts: list[int], first: int) -> None:
    asked = order(energy=energy, n=100, first=first)
    whole = asked.draw(0, 100, 7, ALLOWED)
    bounds = [0, *sorted(cuts), 100]
    parts = [asked.draw(low, high - low, 7, ALLOWED) for low, high in pairwise(bounds)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    shifted = order(energy=energy, n=60, first=first + 40).draw(0, 60, 7, ALLOWED)
    np.testing.assert_array_equal(whole[40:], shifted)


def test_a_flat_spectrum_is_that_of_the_command_line() -> None:
    energies = order(energy={"low": 2, "high": 500}, n=1000).draw(0, 1000, 7, ALLOWED)
    np.testing.assert_array_equal(energies, EnergyRange(2, 500).draw(1000, 7))


def test_a_log_flat_spectrum_has_as_many_showers_in_each_octave() -> None:
    energies = order(energy=SPECTRA[1], n=1).draw(0, 80_000, 7, ALLOWED)
    octaves = np.histogram(np.log2(energies), bins=[1, 2, 3, 4, 5, 6, 7, 8])[0]
    np.testing.assert_allclose(octaves, 80_000 / np.log2(250), rtol=0.04)


def test_a_gaussian_spectrum_is_cut_at_the_range() -> None:
    energies = order(energy={"law": "gaussian", "mean": 100, "sigma": 10}, n=1).draw(0, 40_000, 7, ALLOWED)
    assert energies.mean() == pytest.approx(100, abs=0.2)
    assert energies.std() == pytest.approx(10, abs=0.2)
    wide = order(energy={"law": "gaussian", "mean": 100, "sigma": 1000}, n=1).draw(0, 10_000, 7, ALLOWED)
    assert wide.min() >= 2
    assert wide.max() <= 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"energy": {"law": "flat", "low": 5, "high": 2}, "n": 3}, "low is above high"),
        ({"energy": {"law": "square"}}, "energy"),
        ({"energy": {"low": 5}}, "energy.flat.high: Field required"),
        ({"energy": {"law": "gaussian", "mean": 5, "sigma": 0}}, "energy.gaussian.sigma"),
        ({"energy": "2:500"}, "energy"),
        ({"energy": 5, "first": -1}, "first: "),
        ({"energy": 5, "precision": "x" * 100_000}, "precision: String should have at most 20"),
        ({"energy": 5, "first": 2**48}, "first: "),
    ],
)
def test_what_cannot_be_is_named(body: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        order(**body)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("energy", [1, 501, {"low": 1, "high": 5}, {"low": 5, "high": 501}])
def test_energies_outside_of_the_range_are_refused(energy: Any) -> None:
    with pytest.raises(RequestError, match="outside 2 to 500 GeV"):
        check_range(order(energy=energy).extremes(), ALLOWED)


def test_the_schema_agrees_with_the_check() -> None:
    schema = order_schema(allowed=ALLOWED, max_showers=10, max_energies=3, precisions=["int8", "float32"])
    good: list[Any] = [{"energies": [2, 500]}, {"energy": 2}, {"energy": 7.5, "n": 10, "seed": None, "first": 3}]
    good += [{"energy": spectrum, "precision": "int8"} for spectrum in SPECTRA]
    bad: list[Any] = [{}, [], {"energies": [2], "energy": 2}, {"energies": [2], "n": 1}, {"energy": 2, "n": 11}]
    bad += [{"energies": [1]}, {"energies": [2] * 4}, {"energy": 501}, {"energy": 2, "colour": 1}]
    for body in good:
        jsonschema.validate(body, schema)
        check_range(order(**body).extremes(), ALLOWED)
    for body in bad:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, schema)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_check(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_order(body)
