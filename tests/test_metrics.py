from collections.abc import Callable

import numpy as np
import pytest

from calogan import metrics
from calogan.errors import EventsError
from calogan.events import Events, packaged_sample, read_events
from calogan.metrics import Estimate
from calogan.observables import Observables, observe

Metric = Callable[[Observables, Observables], Estimate]

DISTANCES: dict[str, Metric] = {
    "composite_mse": metrics.composite_mse,
    "sampling_fraction_shift": metrics.sampling_fraction_shift,
    "resolution_shift": metrics.resolution_shift,
    "worst_layer": metrics.worst_layer,
    "tail": lambda r, c: metrics.tail(r, c, "y", last=True),
    "hits_shift": metrics.hits_shift,
    "empty_showers": metrics.empty_showers,
    "separation": metrics.separation_cell_energy,
    "wasserstein": lambda r, c: metrics.wasserstein(r, c, lambda s: s.sampling_fraction),
    "z_mean_shift": lambda r, c: metrics.profile_moments(r, c, "z")["mean_shift"],
    "z_std_shift": lambda r, c: metrics.profile_moments(r, c, "z")["std_shift"],
}


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())


@pytest.fixture(scope="module")
def reference(events: Events) -> Observables:
    return observe(events)


@pytest.fixture(scope="module")
def scaled(events: Events) -> Observables:
    return observe(Events(events.showers * np.float32(1.1), events.energy))


def beams(energy: list[float], layer: list[int]) -> Observables:
    """Showers of one cell with 2 % of Ep at (12, 12, layer)."""
    showers = np.zeros((len(energy), 25, 25, 25), np.float32)
    showers[np.arange(len(energy)), 12, 12, layer] = 0.02 * np.array(energy)
    return observe(Events(showers, np.array(energy, np.float32)))


@pytest.mark.parametrize("name", DISTANCES)
def test_a_sample_is_at_no_distance_from_itself(name: str, reference: Observables) -> None:
    assert DISTANCES[name](reference, reference).value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_order_of_showers_does_not_matter(name: str, reference: Observables, scaled: Observables) -> None:
    mixed = scaled[np.random.default_rng(1).permutation(len(scaled))]
    value, after = DISTANCES[name](reference, scaled).value, DISTANCES[name](reference, mixed).value
    assert after == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_two_halves_of_geant4_agree_within_a_few_errors(name: str, reference: Observables) -> None:
    found = DISTANCES[name](*metrics.match_energies(reference[:500], reference[500:]))
    assert found.error > 0 or name == "empty_showers"
    # Wasserstein and separation are never negative: their error does not cover their mean.
    assert abs(found.value) <= {"wasserstein": 8, "separation": 8}.get(name, 4) * found.error


def test_ten_percent_more_energy_gives_the_known_numbers(reference: Observables, scaled: Observables) -> None:
    assert metrics.sampling_fraction_shift(reference, scaled).value == pytest.approx(0.1, abs=1e-5)
    assert metrics.worst_layer(reference, scaled).value == pytest.approx(0.1, abs=1e-5)
    assert metrics.tail(reference, scaled, "x", last=False).value == pytest.approx(0.1, abs=1e-4)
    assert metrics.resolution_shift(reference, scaled).value == pytest.approx(0, abs=1e-5)
    # 3 s^2, less what the finite samples account for
    assert metrics.composite_mse(reference, scaled).value == pytest.approx(0.03, rel=0.1)
    shift = reference.sampling_fraction.mean() * 0.1 / reference.sampling_fraction.std()
    found = metrics.wasserstein(reference, scaled, lambda s: s.sampling_fraction)
    assert found.value == pytest.approx(shift, rel=1e-4)


def test_composite_mse_does_not_count_the_noise_of_finite_samples(reference: Observables) -> None:
    order = np.random.default_rng(0).permutation(800).reshape(8, 2, 50)
    found = [metrics.composite_mse(reference[np.sort(r)], reference[np.sort(c)]).value for r, c in order]
    # A plain squared difference is never 0; less than the noise is as likely as more.
    assert found.count(0.0) >= 3


def test_showers_one_layer_deeper_shift_by_one_layer() -> None:
    r, c = beams([100.0] * 40, [5, 9] * 20), beams([100.0] * 40, [6, 10] * 20)
    found = metrics.profile_moments(r, c, "z")

    assert {name: e.value for name, e in found.items()} == pytest.approx(
        {"mean": 8, "std": 2, "mean_shift": 1, "std_shift": 0}, abs=1e-9
    )
    assert found["mean"].error == pytest.approx(2 / np.sqrt(40), rel=0.4)
    assert metrics.composite_mse(r, c).value > 1
    assert np.isinf(metrics.worst_layer(r, c).value)


def test_disjoint_spectra_have_separation_one() -> None:
    r, c = beams([10.0] * 30, [5] * 30), beams([400.0] * 30, [5] * 30)
    assert metrics.separation_cell_energy(r, c).value == pytest.approx(1)


def test_the_error_shrinks_with_the_root_of_the_number(reference: Observables) -> None:
    few, many = reference[:250], reference
    errors = [metrics.sampling_fraction_shift(sample, sample).error for sample in (few, many)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.35)


def test_lost_showers_are_counted(reference: Observables, events: Events) -> None:
    showers = events.showers.copy()
    showers[:50] = 0
    lossy = observe(Events(showers, events.energy))
    assert metrics.empty_showers(reference, lossy).value == pytest.approx(0.05)
    assert metrics.sampling_fraction_shift(reference, lossy).value == pytest.approx(-0.05, abs=0.005)


def test_equal_energies_keep_weight_one(reference: Observables, scaled: Observables) -> None:
    r, c = metrics.match_energies(reference, scaled)
    assert (r.weight == 1).all()
    assert (c.weight == 1).all()


def test_a_different_spectrum_is_weighted_away(reference: Observables) -> None:
    # Showers of high energy twice as often: the mean depth would shift by a large part of a layer.
    twice = np.concatenate([np.arange(len(reference)), np.flatnonzero(reference.energy > 250)])
    candidate = reference[twice]
    unmatched = metrics.profile_moments(reference, candidate, "z")["mean_shift"].value
    matched = metrics.profile_moments(*metrics.match_energies(reference, candidate), "z")["mean_shift"].value
    assert unmatched > 0.2
    assert abs(matched) < 0.02


def test_energies_without_counterpart_get_no_weight(reference: Observables) -> None:
    r, c = metrics.match_energies(reference, reference[np.flatnonzero(reference.energy > 300)])
    # up to the width of the bin that holds 300 GeV
    assert (r.weight[r.energy < 270] == 0).all()
    assert (r.weight[r.energy > 330] == 1).all()
    assert c.weight.sum() == pytest.approx(r.weight.sum())


def test_nothing_in_common_is_an_error(reference: Observables) -> None:
    with pytest.raises(EventsError, match="generate the candidate at the energies"):
        metrics.match_energies(reference, beams([2000.0] * 30, [5] * 30))


def test_a_dead_model_is_an_error(events: Events, reference: Observables) -> None:
    with pytest.raises(EventsError, match="hold any energy"):
        metrics.match_energies(reference, observe(Events(np.zeros_like(events.showers), events.energy)))


def test_the_classifier_sees_nothing_between_a_sample_and_itself(reference: Observables) -> None:
    found = metrics.auc_high_level(reference[:300], reference[:300])
    assert found.value == pytest.approx(0.5, abs=max(3 * found.error, 0.02))


def test_the_classifier_sees_what_is_plain(reference: Observables, scaled: Observables) -> None:
    assert metrics.auc_high_level(reference[:300], scaled[:300]).value > 0.75


def test_training_draws_showers_by_their_weight() -> None:
    weights = np.array([1.0, 0.0, 2.0, 0.5, 0.5, 1.0])
    drawn = metrics._drawn_by_weight(weights, np.array([True] * 5 + [False]))
    assert np.bincount(drawn, minlength=6).tolist() in ([1, 0, 2, 1, 0, 0], [1, 0, 2, 0, 1, 0])


def test_halves_never_part_showers_of_one_energy() -> None:
    energy = np.random.default_rng(0).permutation(np.linspace(2, 500, 101))
    half = metrics._halves(energy, np.repeat(energy, 3), seed=5)
    np.testing.assert_array_equal(np.repeat(half[:101], 3), half[101:])
    assert half[:101].sum() == 51


def test_pixelwise_difference_of_known_showers() -> None:
    energy = np.array([10.0, 10.0], np.float32)
    float32 = np.zeros((2, 25, 25, 25), np.float32)
    float32[:, 12, 12, 5] = 2.0
    candidate = float32.copy()
    candidate[0, 12, 12, 5] = 1.5
    candidate[1, 0, 0, 0] = 1.5
    found = metrics.pixelwise_difference(Events(float32, energy), Events(candidate, energy))
    assert {name: e.value for name, e in found.items()} == pytest.approx({"mean": 1.0, "std": 0.5, "relative": 0.5})


def test_pixelwise_difference_needs_the_same_energies(events: Events) -> None:
    with pytest.raises(EventsError, match="same energies and seed"):
        metrics.pixelwise_difference(events[:10], events[10:20])
