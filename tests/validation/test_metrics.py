from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from calogan.events import Events, packaged_sample, read_events
from calogan.validation import metrics
from calogan.validation.metrics import Estimate, Projections
from calogan.validation.observables import Floats, Observables, observe
from calogan.validation.parts import Part, energy_difference, merge, observe_part
from calogan.validation.resampling import Sample, energy_weights, replica_counts


class Prepared(NamedTuple):
    """A sample prepared for comparison."""

    sample: Sample
    planes: Projections


Metric = Callable[[Prepared, Prepared], Estimate]

DISTANCES: dict[str, Metric] = {
    "composite_mse": lambda r, c: metrics.composite_mse(r.planes, c.planes),
    "sampling_fraction_shift": lambda r, c: metrics.sampling_fraction_shift(r.sample, c.sample),
    "resolution_shift": lambda r, c: metrics.resolution_shift(r.sample, c.sample),
    "worst_layer": lambda r, c: metrics.worst_layer(r.sample, c.sample),
    "tail": lambda r, c: metrics.tail(r.sample, c.sample, "y", last=True),
    "hits_shift": lambda r, c: metrics.hits_shift(r.sample, c.sample),
    "empty_showers": lambda r, c: metrics.empty_showers(r.sample, c.sample),
    "separation": lambda r, c: metrics.separation_cell_energy(r.sample, c.sample),
    "wasserstein": lambda r, c: metrics.wasserstein(r.sample, c.sample, lambda s: s.sampling_fraction),
    "z_mean_shift": lambda r, c: metrics.profile_moments(r.sample, c.sample, "z")["mean_shift"],
    "z_std_shift": lambda r, c: metrics.profile_moments(r.sample, c.sample, "z")["std_shift"],
}


def process(events: Events, of: int, weight: Floats | None = None) -> Prepared:
    """Measure a sample, the reference (0) or the candidate (1)."""
    n = len(events)
    weights = np.ones(n) if weight is None else weight
    whole = merge([observe_part(events, Part(of, 0, n, weights[None], seed=0))], n)
    sample = Sample(whole.observables, weights, replica_counts(0, n, (0, of)))
    return Prepared(sample, metrics.projections(sample, whole.planes[0]))


def matched(reference: Events, candidate: Events) -> tuple[Prepared, Prepared]:
    """Measure two samples with the weights that match their energies."""
    r, c = energy_weights(reference.energy, candidate.energy)
    return process(reference, 0, r), process(candidate, 1, c)


def plain(observed: Observables, of: int = 0) -> Sample:
    """Give all showers the weight 1."""
    return Sample(observed, np.ones(len(observed)), replica_counts(0, len(observed), (0, of)))


def beams(energy: list[float], layer: list[int], of: int) -> Prepared:
    """Showers of one cell with 2 % of Ep at (12, 12, layer)."""
    showers = np.zeros((len(energy), 25, 25, 25), np.float32)
    showers[np.arange(len(energy)), 12, 12, layer] = 0.02 * np.array(energy)
    return process(Events(showers, np.array(energy, np.float32)), of)


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())


@pytest.fixture(scope="module")
def scaled_events(events: Events) -> Events:
    return Events(events.showers * np.float32(1.1), events.energy)


@pytest.fixture(scope="module")
def reference(events: Events) -> Prepared:
    return process(events, 0)


@pytest.fixture(scope="module")
def scaled(scaled_events: Events) -> Prepared:
    return process(scaled_events, 1)


@pytest.fixture(scope="module")
def mixed(scaled_events: Events) -> Prepared:
    return process(scaled_events[np.random.default_rng(1).permutation(len(scaled_events))], 1)


@pytest.fixture(scope="module")
def halves(events: Events) -> tuple[Prepared, Prepared]:
    return matched(events[:500], events[500:])


@pytest.mark.parametrize("name", DISTANCES)
def test_the_distance_of_a_sample_to_itself_is_zero(name: str, reference: Prepared) -> None:
    assert DISTANCES[name](reference, reference).value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_order_of_showers_does_not_matter(
    name: str, reference: Prepared, scaled: Prepared, mixed: Prepared
) -> None:
    value, after = (DISTANCES[name](reference, candidate).value for candidate in (scaled, mixed))
    assert after == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_two_halves_of_geant4_agree_within_a_few_errors(name: str, halves: tuple[Prepared, Prepared]) -> None:
    estimate = DISTANCES[name](*halves)
    assert estimate.error > 0 or name == "empty_showers"
    # Wasserstein and separation are never negative: their error does not cover their mean.
    assert abs(estimate.value) <= {"wasserstein": 8, "separation": 8}.get(name, 4) * estimate.error


def test_ten_percent_more_energy_gives_the_known_numbers(reference: Prepared, scaled: Prepared) -> None:
    r, c = reference.sample, scaled.sample
    assert metrics.sampling_fraction_shift(r, c).value == pytest.approx(0.1, abs=1e-5)
    assert metrics.worst_layer(r, c).value == pytest.approx(0.1, abs=1e-5)
    assert metrics.tail(r, c, "x", last=False).value == pytest.approx(0.1, abs=1e-4)
    assert metrics.resolution_shift(r, c).value == pytest.approx(0, abs=1e-5)
    # 3 s^2, less what the finite samples account for
    assert metrics.composite_mse(reference.planes, scaled.planes).value == pytest.approx(0.03, rel=0.1)
    fraction = r.observables.sampling_fraction
    estimate = metrics.wasserstein(r, c, lambda s: s.sampling_fraction)
    assert estimate.value == pytest.approx(fraction.mean() * 0.1 / fraction.std(), rel=1e-4)


def test_composite_mse_does_not_count_the_noise_of_finite_samples(events: Events) -> None:
    order = np.random.default_rng(0).permutation(800).reshape(8, 2, 50)
    values = [
        metrics.composite_mse(process(events[np.sort(r)], 0).planes, process(events[np.sort(c)], 1).planes).value
        for r, c in order
    ]
    # A plain squared difference is never 0; less than the noise is as likely as more.
    assert values.count(0.0) >= 3


def test_the_error_of_composite_mse_is_its_spread_over_samples(events: Events) -> None:
    parts = [process(events[k::10], k % 2).planes for k in range(10)]
    off = process(Events(events.showers * np.float32(1.3), events.energy), 0).planes
    estimates = [metrics.composite_mse(off, part) for part in parts]
    assert np.mean([e.error for e in estimates]) == pytest.approx(np.std([e.value for e in estimates]), rel=0.6)


def test_showers_one_layer_deeper_shift_by_one_layer() -> None:
    r, c = beams([100.0] * 40, [5, 9] * 20, 0), beams([100.0] * 40, [6, 10] * 20, 1)
    estimates = metrics.profile_moments(r.sample, c.sample, "z")

    assert {name: e.value for name, e in estimates.items()} == pytest.approx(
        {"mean": 8, "std": 2, "mean_shift": 1, "std_shift": 0}, abs=1e-9
    )
    assert estimates["mean"].error == pytest.approx(2 / np.sqrt(40), rel=0.4)
    assert metrics.composite_mse(r.planes, c.planes).value > 1
    assert np.isinf(metrics.worst_layer(r.sample, c.sample).value)


def test_disjoint_spectra_have_separation_one() -> None:
    r, c = beams([10.0] * 30, [5] * 30, 0), beams([400.0] * 30, [5] * 30, 1)
    assert metrics.separation_cell_energy(r.sample, c.sample).value == pytest.approx(1)


def test_the_error_shrinks_with_the_root_of_the_number(reference: Prepared) -> None:
    observed = reference.sample.observables
    few, many = ((plain(observed[:n], 0), plain(observed[:n], 1)) for n in (250, 1000))
    errors = [metrics.sampling_fraction_shift(*samples).error for samples in (few, many)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.35)


def test_lost_showers_are_counted(reference: Prepared, events: Events) -> None:
    showers = events.showers.copy()
    showers[:50] = 0
    lossy = plain(observe(Events(showers, events.energy)), 1)
    assert metrics.empty_showers(reference.sample, lossy).value == pytest.approx(0.05)
    assert metrics.sampling_fraction_shift(reference.sample, lossy).value == pytest.approx(-0.05, abs=0.005)


def test_a_different_spectrum_is_weighted_away(events: Events, reference: Prepared) -> None:
    # Showers of high energy twice as often: the mean depth would shift by a large part of a layer.
    candidate = events[np.concatenate([np.arange(len(events)), np.flatnonzero(events.energy > 250)])]
    unmatched = DISTANCES["z_mean_shift"](reference, process(candidate, 1)).value
    assert unmatched > 0.2
    assert abs(DISTANCES["z_mean_shift"](*matched(events, candidate)).value) < 0.02


def test_an_energy_bin_holds_its_showers_and_no_others(reference: Prepared) -> None:
    inside = metrics.in_energy_bin(reference.sample, 50, 150)
    energy = reference.sample.observables.energy
    np.testing.assert_array_equal(inside.used, np.flatnonzero((energy >= 50) & (energy < 150)))


@given(
    values=st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 3), st.booleans()), min_size=4, max_size=30),
    seed=st.integers(0, 10),
)
def test_wasserstein_is_that_of_scipy(values: list[tuple[float, float, bool]], seed: int) -> None:
    number, weight, in_candidate = (np.array(column) for column in zip(*values, strict=True))
    in_candidate[:3] = [False, False, True]
    number[:2] = [0.0, 1.0]
    empty = observe(Events(np.zeros((len(number), 25, 25, 25), np.float32), np.ones(len(number), np.float32)))
    counts = replica_counts(0, len(number), (seed, 0))
    counts[:3] = 1
    samples = [Sample(empty, np.where(in_candidate == of, weight, 0.0), counts) for of in (False, True)]

    estimate = metrics.wasserstein(samples[0], samples[1], lambda _: number)

    r, c = number[~in_candidate], number[in_candidate]
    spread = np.sqrt(np.cov(r, aweights=weight[~in_candidate], ddof=0))
    distances = [
        wasserstein_distance(r, c, (weight * k)[~in_candidate], (weight * k)[in_candidate]) / spread
        for k in np.vstack([np.ones_like(number), counts.T])
    ]
    assert estimate.value == pytest.approx(distances[0], abs=1e-9)
    assert estimate.error == pytest.approx(np.std(distances[1:]), abs=1e-9)


def test_wasserstein_leaves_out_undefined_values(reference: Prepared, scaled: Prepared) -> None:
    r, c = reference.sample, scaled.sample

    def holed(sample: Observables) -> Floats:
        return np.where(np.arange(len(sample)) < 500, np.nan, sample.sampling_fraction)

    rest = [Sample(s.observables[500:], s.weight[500:], s.counts[500:]) for s in (r, c)]
    expected = metrics.wasserstein(rest[0], rest[1], lambda s: s.sampling_fraction)
    assert metrics.wasserstein(r, c, holed) == expected


def test_pixelwise_difference_of_known_showers() -> None:
    float32 = np.zeros((2, 25, 25, 25), np.float32)
    float32[:, 12, 12, 5] = 2.0
    candidate = float32.copy()
    candidate[0, 12, 12, 5] = 1.5
    candidate[1, 0, 0, 0] = 1.5
    estimates = metrics.pixelwise_difference(energy_difference(float32, candidate))
    assert {name: e.value for name, e in estimates.items()} == pytest.approx({"mean": 1.0, "std": 0.5, "relative": 0.5})
