import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.validation.fixed_energy import FARTHEST, Bin, Frame
from calogan.validation.observables import Floats

LIMITS = (10.0, 100.0)


def showers(numbers: Floats, energy: Floats, weights: Floats | None = None) -> Bin:
    """Showers of one number without replicas."""
    weight = np.ones(len(numbers)) if weights is None else weights
    return Bin.of(numbers[:, None], energy, weight[None], LIMITS)


def parabola(energy: Floats) -> Floats:
    return 5 + 2 * np.log(energy) - 0.3 * np.log(energy) ** 2


def test_the_spread_is_that_around_the_parabola() -> None:
    # Pairs at the same energies, one above and one below: residuals of +-1 and +-1.5, and no trend left.
    energy = np.repeat(np.geomspace(10, 99, 40), 2)
    signs = np.tile([1.0, -1], 40)
    reference = showers(parabola(energy) + signs, energy)
    frame = Frame.of(reference)
    (r_mean, r_spread), (c_mean, c_spread) = (
        frame.summarise(each) for each in (reference, showers(parabola(energy) + 1.5 * signs + 0.5, energy))
    )
    assert c_spread[0, 0] / r_spread[0, 0] == pytest.approx(1.5)
    # The width of +-1 is 1; three of 80 degrees of freedom are lost.
    assert r_spread[0, 0] == pytest.approx(np.sqrt(80 / 77))
    assert r_mean[0, 0] == pytest.approx(parabola(energy).mean())
    assert c_mean[0, 0] - r_mean[0, 0] == pytest.approx(0.5)


def test_means_and_spreads_do_not_depend_on_the_energies_in_the_bin() -> None:
    rng = np.random.default_rng(1)
    energy = rng.uniform(10, 100, 4000), np.sort(rng.uniform(10, 100, 8000))[:4000]
    r, c = (showers(parabola(e) * (1 + 0.1 * rng.standard_normal(4000)), e) for e in energy)
    frame = Frame.of(r)
    (r_mean, r_spread), (c_mean, c_spread) = (frame.summarise(each) for each in (r, c))
    assert c_mean / r_mean == pytest.approx(1, abs=0.01)
    assert c_spread / r_spread == pytest.approx(1, abs=0.06)


def test_one_shower_far_off_counts_as_a_few_widths() -> None:
    rng = np.random.default_rng(2)
    energy = rng.uniform(10, 100, 500)
    numbers = rng.standard_normal(500)
    reference = showers(numbers, energy)
    frame = Frame.of(reference)
    before = frame.summarise(reference)[1][0, 0]
    numbers = numbers.copy()
    numbers[7] = 60  # alone, it would make the standard deviation 2.8 times as large
    assert 1 < frame.summarise(showers(numbers, energy))[1][0, 0] / before < np.sqrt(1 + FARTHEST**2 / 500) + 0.02


@pytest.mark.parametrize("energies", [[50.0], [20.0, 50.0]])
def test_showers_of_one_or_two_energies_have_a_spread(energies: list[float]) -> None:
    energy = np.tile(energies, 40 // len(energies))
    numbers = np.random.default_rng(3).standard_normal(40)
    r, c = showers(numbers, energy), showers(2 * numbers, energy)
    frame = Frame.of(r)
    ratio = frame.summarise(c)[1] / frame.summarise(r)[1]
    assert ratio == pytest.approx(2)


def test_a_number_that_does_not_vary_has_no_spread() -> None:
    energy = np.geomspace(10, 99, 50)
    constant = showers(np.full(50, 0.1), energy)
    frame = Frame.of(constant)
    mean, spread = frame.summarise(constant)
    assert (mean[0, 0], spread[0, 0]) == (pytest.approx(0.1), 0)
    assert frame.summarise(showers(0.1 + 0.01 * np.tile([1.0, -1], 25), energy))[1][0, 0] > 0


@given(factor=st.floats(0.2, 5), shift=st.floats(-100, 100), scale=st.floats(1e-3, 1e3))
def test_the_ratio_of_spreads_depends_on_no_unit_and_no_shift(factor: float, shift: float, scale: float) -> None:
    rng = np.random.default_rng(4)
    energy, pulls = rng.uniform(10, 100, 300), rng.uniform(-1, 1, 300)
    r = showers(scale * (parabola(energy) + pulls), energy)
    c = showers(scale * (parabola(energy) + factor * pulls + shift), energy)
    frame = Frame.of(r)
    ratio = frame.summarise(c)[1] / frame.summarise(r)[1]
    assert ratio == pytest.approx(factor, rel=1e-6)


@given(repeats=st.lists(st.integers(0, 4), min_size=40, max_size=40).filter(lambda counts: sum(counts) > 30))
def test_a_weight_is_a_number_of_equal_showers(repeats: list[int]) -> None:
    rng = np.random.default_rng(5)
    energy, numbers = rng.uniform(10, 100, 40), rng.standard_normal(40)
    frame = Frame.of(showers(numbers, energy))
    weighted = frame.summarise(showers(numbers, energy, np.array(repeats, float)))
    repeated = frame.summarise(showers(np.repeat(numbers, repeats), np.repeat(energy, repeats)))
    np.testing.assert_allclose(weighted[0], repeated[0], rtol=1e-9)
    assert 0.8 < (weighted[1] / repeated[1]).item() < 1.5  # the weights have fewer degrees of freedom
