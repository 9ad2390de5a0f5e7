import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.events import Events, packaged_sample, read_events
from calogan.validation import spreads
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Observables, observe
from calogan.validation.resampling import Sample, match_energies, replica_counts


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())


@pytest.fixture(scope="module")
def observed(events: Events) -> Observables:
    return observe(events)


def beams(energy: list[float]) -> Sample:
    """Showers of one cell."""
    showers = np.zeros((len(energy), 25, 25, 25), np.float32)
    showers[:, 12, 12, 5] = 1.0
    sample = observe(Events(showers, np.array(energy, np.float32)))
    return Sample(sample, np.ones(len(energy)), replica_counts(0, len(energy), (0, 0)))


@pytest.mark.parametrize(
    ("counts", "bins"),
    [
        ([150] * 6, [(2, 10), (10, 25), (25, 50), (50, 100), (100, 250), (250, 500)]),
        ([50, 50, 50, 150, 150, 150], [(2, 50), (50, 100), (100, 250), (250, 500)]),
        ([150, 0, 0, 0, 0, 150], [(2, 10), (250, 500)]),
        ([150, 0, 0, 0, 0, 149], [(2, 500)]),
        ([0, 0, 30, 0, 0, 0], [(25, 50)]),
        ([0, 0, 30, 0, 10, 0], [(25, 250)]),
        ([0, 0, 0, 0, 0, 0], []),
    ],
)
def test_bins_with_few_showers_are_joined(counts: list[int], bins: list[tuple[int, int]]) -> None:
    centres = (5.0, 20.0, 30.0, 70.0, 200.0, 500.0)  # the last bin includes its upper edge
    energy = [e for e, count in zip(centres, counts, strict=True) for _ in range(count)] or [1000.0]
    many = beams([e for e in centres for _ in range(200)])
    assert spreads.energy_bins(beams(energy), many) == tuple(bins)
    assert spreads.energy_bins(many, beams(energy)) == tuple(bins)


def test_wider_and_shifted_showers_are_found_where_they_are(observed: Observables) -> None:
    high = observed.energy >= 250
    centre = np.log(observed.energy)
    core = observed.core_shares.copy()
    fitted = np.polyval(np.polyfit(centre[high], core[high, 0], 2), centre[high])
    core[high, 0] = fitted + 1.5 * (core[high, 0] - fitted)
    changed = dataclasses.replace(observed, core_shares=core, mean_radius=0.9 * observed.mean_radius)
    r, c = match_energies(observed, changed)
    bins = spreads.energy_bins(r, c)
    assert bins == ((2, 100), (100, 250), (250, 500))
    estimates = spreads.compare(r, c, bins)

    assert estimates["spread_core_share_250_500gev"].value == pytest.approx(0.5, abs=0.02)
    assert estimates["spread_core_share_100_250gev"].value == pytest.approx(0, abs=1e-9)
    worst, error = estimates["spread_core_share"], estimates["spread_core_share_250_500gev"].error
    assert worst.value == estimates["spread_core_share_250_500gev"].value
    assert worst.error == pytest.approx(error * 2.43 / 2, rel=0.01)  # 2.28 % / 3 lie above 2.43 standard deviations
    assert estimates["shift_mean_radius_2_100gev"].value == pytest.approx(-0.1, abs=1e-3)
    assert estimates["spread_mean_radius_2_100gev"].value == pytest.approx(-0.1, abs=1e-3)
    assert estimates["spread_hits"].value == pytest.approx(0, abs=1e-9)
    # 1 / sqrt(2 n) of each sample, if the numbers are normally distributed
    number = np.count_nonzero(high)
    assert estimates["spread_x_mean_250_500gev"].error == pytest.approx(np.sqrt(1 / number), rel=0.4)


def test_halves_of_geant4_agree_within_their_errors(observed: Observables) -> None:
    r, c = match_energies(observed[::2], observed[1::2])
    estimates = spreads.compare(r, c, spreads.energy_bins(r, c))
    assert set(estimates) >= set(spreads.METRICS)
    pulls = np.array([e.value / e.error for e in estimates.values()])
    assert np.abs(pulls).max() < 4
    assert pulls.std() < 1.6


def test_showers_that_are_all_alike_have_no_spread(observed: Observables) -> None:
    alike = dataclasses.replace(observed, mean_radius=np.full(len(observed), 1.2))
    r, c = match_energies(observed, alike)
    bins = ((2, 500),)
    assert spreads.compare(r, c, bins)["spread_mean_radius"].value == pytest.approx(-1)
    assert spreads.compare(c, r, bins)["spread_mean_radius"].value == np.inf
    assert spreads.compare(c, c, bins)["spread_mean_radius"].value == 0


def test_empty_showers_and_bins_with_few_are_left_out(observed: Observables) -> None:
    ecal = np.where(observed.energy < 100, 0, observed.ecal)
    r, c = match_energies(observed, dataclasses.replace(observed, ecal=ecal))
    estimates = spreads.compare(r, c, ((2, 100), (100, 250)))
    assert "spread_x_std_2_100gev" not in estimates
    assert estimates["spread_x_std"].value == estimates["spread_x_std_100_250gev"].value
    assert spreads.compare(r, c, ((2, 100),)) == {}


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_showers_does_not_matter(seed: int, observed: Observables) -> None:
    r, c = match_energies(observed[:500], observed[500:])
    order = np.random.default_rng(seed).permutation(500)
    mixed = Sample(c.observables[order], c.weight[order], c.counts[order])
    bins = spreads.energy_bins(r, c)
    one, other = spreads.compare(r, c, bins), spreads.compare(r, mixed, bins)
    assert [e.value for e in one.values()] == pytest.approx([e.value for e in other.values()], abs=1e-9)


def test_the_table_has_a_row_for_each_quantity_and_a_column_for_each_bin() -> None:
    metrics = {
        "physics/hits_shift": Estimate(0.5, 0.1),
        "physics/shift_hits_2_10gev": Estimate(0.03, 0.01),
        "physics/spread_x_mean": Estimate(-0.2, 0.05),
        "physics/spread_x_mean_10_25gev": Estimate(-0.2, 0.05),
        "physics/spread_x_mean_2_10gev": Estimate(-0.1, 0.06),
    }
    assert spreads.as_columns(metrics) == {
        "metric": ["spread_x_mean", "shift_hits"],
        "2-10 GeV": ["-10.0 ± 6.0 %", "3.0 ± 1.0 %"],
        "10-25 GeV": ["-20.0 ± 5.0 %", ""],
    }
    assert spreads.as_columns({"physics/hits_shift": Estimate(0.5, 0.1)}) == {}
    assert spreads.is_binned("physics/spread_core_share_3x3_2_10gev")
    assert not spreads.is_binned("physics/spread_core_share_3x3")
    assert not spreads.is_binned("physics/sampling_fraction_shift_2_50gev")
