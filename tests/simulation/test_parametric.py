"""The parametrisation: results calculated by hand, determinism, and agreement with Geant4."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calogan.errors import RequestError
from calogan.events import Events, packaged_sample, read_events
from calogan.geometry import CLIC
from calogan.simulation.medium import LAYER_EDGES_X0
from calogan.simulation.parametric import MAX_ENERGY_GEV, MIN_ENERGY_GEV, simulate
from calogan.simulation.profiles import PUBLISHED, TUNED, Tuning


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
    """Geant4 showers that were not used for the tuning."""
    return read_events(packaged_sample())


@pytest.fixture(scope="module")
def candidate(reference: Events) -> Events:
    return simulate(np.tile(reference.energy, 3), seed=1)


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
    """With radius 0 all energy is in the central column; with a radius, only the energy off the grid is missing."""
    energy = np.full(64, 50, dtype=np.float32)
    layers = simulate(energy, seed=1).showers.sum(axis=(1, 2), dtype=np.float64)
    needle = simulate(
        energy, seed=1, tuning=TUNED.model_copy(update={"core_radius": 1e-9, "tail_radius": 1e-9})
    ).showers
    column = needle[:, 12, 12].astype(np.float64)
    assert needle.sum(dtype=np.float64) == pytest.approx(column.sum())
    assert (layers <= column * (1 + 1e-5)).all()
    assert 0.95 < layers.sum() / column.sum() < 1


def test_same_seed_gives_the_same_bytes() -> None:
    assert fixed(20, n=40).showers.tobytes() == fixed(20, n=40).showers.tobytes()
    assert fixed(20, n=40, seed=2).showers.tobytes() != fixed(20, n=40).showers.tobytes()


@settings(max_examples=20, deadline=None)
@given(
    start=st.integers(0, 300),
    length=st.integers(0, 40),
    first=st.sampled_from([0, 5, 2**40]),
    seed=st.integers(0, 2**64),
)
def test_a_shower_depends_on_seed_energy_and_index_only(start: int, length: int, first: int, seed: int) -> None:
    energy = np.geomspace(1, 40, 340).astype(np.float32)
    part = slice(start, start + length)
    whole = WHOLE.setdefault((first, seed), simulate(energy, seed=seed, first=first))
    assert simulate(energy[part], seed=seed, first=first + start).showers.tobytes() == whole.showers[part].tobytes()


WHOLE: dict[tuple[int, int], Events] = {}


def test_showers_have_streams_of_their_own() -> None:
    showers = fixed(10, n=200).showers
    assert len({shower.tobytes() for shower in showers}) == 200
    ecal = showers.sum(axis=(1, 2, 3))
    assert abs(np.corrcoef(ecal[:-1], ecal[1:])[0, 1]) < 0.3


def test_progress_adds_up_to_all_showers() -> None:
    steps: list[int] = []
    simulate(np.full(300, 5, dtype=np.float32), seed=1, progress=steps.append)
    assert sum(steps) == 300
    assert len(steps) > 1


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


@pytest.mark.parametrize("first", [-1, 2**63])
def test_impossible_index_is_refused(first: int) -> None:
    with pytest.raises(RequestError, match="index of the first shower"):
        simulate(np.full(1, 10, dtype=np.float32), seed=1, first=first)


def depth(events: Events) -> NDArray[np.float64]:
    """Centre of gravity in depth of each shower, shape (n,), radiation lengths."""
    layers = events.showers.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(layers @ (0.5 * (LAYER_EDGES_X0[1:] + LAYER_EDGES_X0[:-1])) / layers.sum(axis=1))


def resolution(events: Events) -> NDArray[np.float64]:
    """Sampling fraction of each shower, shape (n,)."""
    return np.asarray(events.showers.sum(axis=(1, 2, 3), dtype=np.float64) / events.energy)


def central_share(events: Events) -> NDArray[np.float64]:
    """Share of the energy in the central column of each shower, shape (n,)."""
    return np.asarray(events.showers[:, 12, 12].sum(axis=1) / events.showers.sum(axis=(1, 2, 3)), dtype=np.float64)


def mean_radius(events: Events) -> NDArray[np.float64]:
    """Mean distance from the axis of each shower, shape (n,), cells."""
    columns = events.showers.sum(axis=3, dtype=np.float64)
    distance = np.hypot(*np.meshgrid(np.arange(25) - 12, np.arange(25) - 12))
    return np.asarray(np.tensordot(columns, distance, axes=2) / columns.sum(axis=(1, 2)))


def around_trend(values: NDArray[np.float64], energy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Values minus their linear trend in ln E."""
    ln_e = np.log(energy.astype(np.float64))
    return np.asarray(values - np.polynomial.Polynomial.fit(ln_e, values, 1)(ln_e))


@pytest.mark.parametrize(("low", "high"), [(10, 100), (100, 250), (250, 500)])
def test_averages_agree_with_geant4(reference: Events, candidate: Events, low: float, high: float) -> None:
    """Averages of the parametrisation are accurate to about 1 %, which is also the statistical error of each sample."""
    geant4, ours = (events[(events.energy >= low) & (events.energy < high)] for events in (reference, candidate))
    assert sampling_fraction(ours) == pytest.approx(sampling_fraction(geant4), rel=0.02)
    for half, limit in ((0, 0.02), (1, 0.01), (4, 0.005)):  # 9x9 cells: nearly two Moliere radii
        assert square_share(ours, half) == pytest.approx(square_share(geant4, half), rel=limit)
    profile, expected = longitudinal_profile(ours), longitudinal_profile(geant4)
    assert 0.5 * np.abs(profile - expected).sum() < (0.01 if low >= 100 else 0.02)
    assert abs(int(profile.argmax()) - int(expected.argmax())) <= 1
    assert depth(ours).mean() == pytest.approx(depth(geant4).mean(), rel=0.02)
    assert profile[:3] == pytest.approx(expected[:3], rel=0.3)  # no pure gamma profile comes near there
    filled, filled_geant4 = ((events.showers > 0).sum(axis=(1, 2, 3)).mean() for events in (ours, geant4))
    assert filled == pytest.approx(filled_geant4, rel=0.05)


@pytest.mark.parametrize(("low", "high"), [(50, 200), (200, 350), (350, 500)])
def test_fluctuations_agree_with_geant4(reference: Events, candidate: Events, low: float, high: float) -> None:
    geant4, ours = (events[(events.energy >= low) & (events.energy < high)] for events in (reference, candidate))
    for observable, limit in ((resolution, 0.2), (depth, 0.2), (central_share, 0.2), (mean_radius, 0.25)):
        spread, expected = (around_trend(observable(events), events.energy).std() for events in (ours, geant4))
        assert spread == pytest.approx(expected, rel=limit), observable.__name__
    late = [around_trend(depth(events), events.energy) for events in (ours, geant4)]
    skewness, expected = ((values**3).mean() / values.std() ** 3 for values in late)
    assert skewness > 0.4 < expected  # showers start late, not early


def test_tuning_improves_on_the_published_constants(reference: Events) -> None:
    subset = reference[reference.energy > 250]
    expected = longitudinal_profile(subset)
    distance = {
        tuning: np.abs(longitudinal_profile(simulate(subset.energy, seed=1, tuning=tuning)) - expected).sum()
        for tuning in (PUBLISHED, TUNED)
    }
    assert distance[TUNED] < 0.5 * distance[PUBLISHED]
