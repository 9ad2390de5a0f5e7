import numpy as np
import pytest

from calogan.errors import EventsError
from calogan.events import Events
from calogan.validation import resampling
from calogan.validation.observables import Observables, observe
from calogan.validation.resampling import (
    REPLICAS,
    Sample,
    energy_weights,
    folds_by_energy,
    match_energies,
    replica_counts,
    replica_means,
)

ENERGY = np.random.default_rng(0).uniform(2, 500, 1000).astype(np.float32)


def test_folds_never_part_showers_of_one_energy() -> None:
    energy = np.random.default_rng(0).permutation(np.linspace(2, 500, 101))
    one, three = folds_by_energy(energy, np.repeat(energy, 3), folds=2, seed=5)
    np.testing.assert_array_equal(np.repeat(one, 3), three)
    assert np.bincount(one).tolist() == [51, 50]


@pytest.fixture(scope="module")
def observed(geant4: Events) -> Observables:
    return observe(geant4)


def test_equal_energies_keep_weight_one() -> None:
    for weight in energy_weights(ENERGY, ENERGY):
        assert (weight == 1).all()


def test_weights_make_the_spectra_equal() -> None:
    # the candidate flat up to 1000 GeV, and more of it
    candidate = np.random.default_rng(1).uniform(2, 1000, 5000)
    r, c = energy_weights(ENERGY, candidate)
    assert (c[candidate > 500] == 0).all()
    assert c.sum() == pytest.approx(r.sum())
    assert np.average(candidate, weights=c) == pytest.approx(ENERGY.mean(), rel=0.01)


def test_energies_without_counterpart_get_no_weight() -> None:
    r, c = energy_weights(ENERGY, ENERGY[ENERGY > 300])
    # up to the width of the bin that holds 300 GeV
    assert (r[ENERGY < 270] == 0).all()
    assert (r[ENERGY > 330] == 1).all()
    assert c.sum() == pytest.approx(r.sum())


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(EventsError, match="generate the candidate at the energies"):
        energy_weights(ENERGY, np.full(30, 2000.0))


def test_a_dead_model_is_an_error(geant4: Events, observed: Observables) -> None:
    empty = observe(Events(np.zeros_like(geant4.showers), geant4.energy))
    with pytest.raises(EventsError, match="only 0 of 200 candidate showers hold any energy"):
        match_energies(observed, empty)


def test_counts_do_not_depend_on_the_part_they_are_drawn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 16)
    whole = replica_counts(0, 100, (7, 1))
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(replica_counts(32, 60, (7, 1)), whole[32:60])


def test_counts_are_those_of_poisson_and_differ_between_samples_seeds_and_blocks() -> None:
    streams = [replica_counts(0, 2048, stream) for stream in ((0, 0), (0, 1), (1, 0))]
    blocks = [block for counts in streams for block in np.split(counts, 2)]
    for block in blocks:
        assert block.mean() == pytest.approx(1, abs=0.02)
        assert block.var() == pytest.approx(1, abs=0.03)
    correlated = np.corrcoef([block.ravel() for block in blocks])
    assert np.abs(correlated - np.eye(len(blocks))).max() < 0.02


def test_replica_means_are_the_weighted_means(observed: Observables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 64)
    weight = np.random.default_rng(3).uniform(0, 2, len(observed))
    sample = Sample(observed, weight, replica_counts(0, len(observed), (0, 0)))

    means = replica_means(sample, lambda s: s.profiles[:, 2])

    assert means.shape == (1 + REPLICAS, 25)
    np.testing.assert_allclose(means[0], np.average(observed.profiles[:, 2], axis=0, weights=weight))
    for k in (0, 99):
        expected = np.average(observed.profiles[:, 2], axis=0, weights=weight * sample.counts[:, k])
        np.testing.assert_allclose(means[1 + k], expected)


def test_the_spread_of_the_replicas_is_the_standard_error(observed: Observables) -> None:
    sample = Sample(observed, np.ones(len(observed)), replica_counts(0, len(observed), (0, 0)))
    means = replica_means(sample, lambda s: s.sampling_fraction[:, None])
    expected = observed.sampling_fraction.std() / np.sqrt(len(observed))
    assert means[1:].std() == pytest.approx(expected, rel=0.25)


def test_unequal_weights_count_as_fewer_showers(observed: Observables) -> None:
    weight = np.repeat([1.0, 3.0], len(observed) // 2)
    sample = Sample(observed, weight, replica_counts(0, len(observed), (0, 0)))
    assert sample.effective == pytest.approx(len(observed) * 0.8)
