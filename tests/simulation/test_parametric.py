"""The parametrisation: answers known by hand, determinism, and agreement with Geant4."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calogan.errors import RequestError
from calogan.events import Events, packaged_sample, read_events
from calogan.geometry import CLIC
from calogan.simulation.parametric import (
    BLOCK_SHOWERS,
    LAYER_EDGES_X0,
    MAX_ENERGY_GEV,
    MIN_ENERGY_GEV,
    PUBLISHED,
    TUNED,
    Tuning,
    effective_medium,
    simulate,
)


def fixed(gev: float, n: int = 300, seed: int = 1) -> Events:
    return simulate(np.full(n, gev, dtype=np.float32), seed=seed)


def sampling_fraction(events: Events) -> float:
    return float((events.showers.sum(axis=(1, 2, 3)) / events.energy).mean())


def longitudinal_profile(events: Events) -> NDArray[np.float32]:
    layers = events.showers.sum(axis=(1, 2))
    return np.asarray((layers / layers.sum(axis=1, keepdims=True)).mean(axis=0))


def square_share(events: Events, half: int) -> float:
    """Share of the energy in the columns at most `half` cells from the entry cell."""
    near = slice(12 - half, 13 + half)
    return float((events.showers[:, near, near].sum(axis=(1, 2, 3)) / events.showers.sum(axis=(1, 2, 3))).mean())


@pytest.fixture(scope="module")
def reference() -> Events:
    """Geant4 showers that the tuning did not see."""
    return read_events(packaged_sample())


@pytest.fixture(scope="module")
def candidate(reference: Events) -> Events:
    return simulate(reference.energy, seed=1)


def test_stack_is_as_deep_as_its_plates() -> None:
    tungsten_only = sum(CLIC.absorber_mm) / 10 * 17.8 / 6.97
    assert LAYER_EDGES_X0[0] == 0
    assert len(LAYER_EDGES_X0) == CLIC.layers + 1
    assert tungsten_only < LAYER_EDGES_X0[-1] < 1.1 * tungsten_only
    assert 21.5 < LAYER_EDGES_X0[-1] < 22.6


def test_medium_of_a_thick_plate_is_tungsten() -> None:
    medium = effective_medium(1e6)
    assert medium.atomic_number == pytest.approx(70.8, rel=1e-4)
    assert medium.critical_energy == pytest.approx(2.66 * (6.97 * 70.8 / 175.4) ** 1.1, rel=1e-4)
    assert medium.moliere_mm == pytest.approx(21.2 * 6.97 / medium.critical_energy / 17.8 * 10, rel=1e-4)
    assert medium.mip_fraction == pytest.approx(0, abs=1e-5)


def test_sampling_fraction_falls_with_energy() -> None:
    fractions = [sampling_fraction(fixed(gev)) for gev in (10, 100, 500)]
    assert all(0.017 < fraction < 0.022 for fraction in fractions)
    assert all(later < earlier for earlier, later in pairwise(fractions))


def test_depth_of_shower_grows_with_the_logarithm_of_energy() -> None:
    # Absorbed energy per radiation length, from the visible one and the plate thickness.
    middle = 0.5 * (LAYER_EDGES_X0[1:] + LAYER_EDGES_X0[:-1])
    absorber = np.array(CLIC.absorber_mm)
    depths = []
    for gev in (5, 25, 125):
        absorbed = longitudinal_profile(fixed(gev)) * absorber
        depths.append((absorbed * middle).sum() / absorbed.sum())
    steps = np.diff(depths) / np.log(5)
    assert steps[0] == pytest.approx(steps[1], rel=0.1)
    assert 0.8 < steps.mean() < 1.2  # about one radiation length for each factor e


def test_showers_are_symmetric_in_x_and_y() -> None:
    column = fixed(50).showers.sum(axis=3)
    total = column.sum(axis=(1, 2))
    cell = np.arange(25) - 12.0
    mean_x = (column.sum(axis=2) * cell).sum(axis=1) / total
    mean_y = (column.sum(axis=1) * cell).sum(axis=1) / total
    width = (column.sum(axis=2) * cell**2).sum(axis=1) / total - (column.sum(axis=1) * cell**2).sum(axis=1) / total
    for difference in (mean_x, mean_y, width):
        assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


def test_spots_add_up_to_the_energy_of_their_layer() -> None:
    """Without radius all energy is in the central column; with one, only what leaves the grid is missing."""
    energy = np.full(64, 50, dtype=np.float32)
    layers = simulate(energy, seed=1).showers.sum(axis=(1, 2), dtype=np.float64)
    needle = simulate(energy, seed=1, tuning=dataclasses.replace(TUNED, core_radius=1e-9, tail_radius=1e-9)).showers
    column = needle[:, 12, 12].astype(np.float64)
    assert needle.sum(dtype=np.float64) == pytest.approx(column.sum())
    assert (layers <= column * (1 + 1e-5)).all()
    assert 0.95 < layers.sum() / column.sum() < 1


def test_same_seed_gives_the_same_bytes() -> None:
    assert fixed(20, n=40).showers.tobytes() == fixed(20, n=40).showers.tobytes()
    assert fixed(20, n=40, seed=2).showers.tobytes() != fixed(20, n=40).showers.tobytes()


@settings(max_examples=10, deadline=None)
@given(blocks=st.integers(0, 3), more=st.integers(0, 40), seed=st.integers(0, 2**64))
def test_longer_request_begins_with_the_shorter_one(blocks: int, more: int, seed: int) -> None:
    n = blocks * BLOCK_SHOWERS
    energy = np.linspace(1, 30, n + more, dtype=np.float32)
    longer = simulate(energy, seed=seed)
    assert longer.showers[:n].tobytes() == simulate(energy[:n], seed=seed).showers.tobytes()


def test_blocks_have_streams_of_their_own() -> None:
    showers = fixed(10, n=2 * BLOCK_SHOWERS).showers
    assert not np.array_equal(showers[:BLOCK_SHOWERS], showers[BLOCK_SHOWERS:])


def test_progress_adds_up_to_all_showers() -> None:
    done: list[int] = []
    simulate(np.full(70, 5, dtype=np.float32), seed=1, progress=done.append)
    assert done == [BLOCK_SHOWERS, BLOCK_SHOWERS, 70 - 2 * BLOCK_SHOWERS]


@pytest.mark.parametrize("gev", [MIN_ENERGY_GEV, MAX_ENERGY_GEV])
@pytest.mark.parametrize("tuning", [PUBLISHED, TUNED])
def test_cells_are_empty_or_above_threshold(gev: float, tuning: Tuning) -> None:
    events = simulate(np.full(20, gev, dtype=np.float32), seed=1, tuning=tuning)
    assert events.showers.dtype == np.float32
    assert events.showers.shape == (20, *CLIC.shape)
    assert ((events.showers == 0) | (events.showers >= CLIC.threshold_gev)).all()
    assert 0.01 < sampling_fraction(events) < 0.03


def test_no_energies_give_no_showers() -> None:
    assert len(simulate(np.empty(0, dtype=np.float32), seed=1)) == 0


@pytest.mark.parametrize("gev", [0.0, -5.0, 0.4, 1001.0, float("nan"), float("inf")])
def test_energy_outside_the_range_is_refused(gev: float) -> None:
    with pytest.raises(RequestError, match="outside the range"):
        simulate(np.array([10, gev], dtype=np.float32), seed=1)


def test_wrong_shape_and_negative_seed_are_refused() -> None:
    with pytest.raises(RequestError, match="one number for each shower"):
        simulate(np.full((2, 2), 10, dtype=np.float32), seed=1)
    with pytest.raises(RequestError, match="seed -1 is negative"):
        fixed(10, seed=-1)


@pytest.mark.parametrize(("low", "high"), [(10, 100), (100, 250), (250, 500)])
def test_averages_agree_with_geant4(reference: Events, candidate: Events, low: float, high: float) -> None:
    """Averages of a parametrisation are good to about 2 %, more than the statistical error of either sample."""
    chosen = (reference.energy >= low) & (reference.energy < high)
    geant4, ours = reference[chosen], candidate[chosen]
    assert sampling_fraction(ours) == pytest.approx(sampling_fraction(geant4), rel=0.02)
    assert square_share(ours, 0) == pytest.approx(square_share(geant4, 0), rel=0.03)
    assert square_share(ours, 1) == pytest.approx(square_share(geant4, 1), rel=0.02)
    profile, expected = longitudinal_profile(ours), longitudinal_profile(geant4)
    assert 0.5 * np.abs(profile - expected).sum() < 0.015
    assert profile[:3] == pytest.approx(expected[:3], rel=0.3)  # no pure gamma profile comes near there


def test_tuning_improves_on_the_published_constants(reference: Events) -> None:
    chosen = reference[reference.energy > 250]
    expected = longitudinal_profile(chosen)
    distance = {
        tuning: np.abs(longitudinal_profile(simulate(chosen.energy, seed=1, tuning=tuning)) - expected).sum()
        for tuning in (PUBLISHED, TUNED)
    }
    assert distance[TUNED] < 0.5 * distance[PUBLISHED]
