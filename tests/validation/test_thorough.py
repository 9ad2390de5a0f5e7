from types import SimpleNamespace

import numpy as np
import pytest

from calogan.events import Events
from calogan.validation import thorough
from calogan.validation.metrics import Estimate
from calogan.validation.observables import observe
from calogan.validation.resampling import Sample, match_energies


@pytest.fixture(scope="module")
def halves(geant4: Events) -> tuple[Sample, Sample]:
    return match_energies(observe(geant4[::2]), observe(geant4[1::2]))


def test_halves_of_geant4_are_alike_and_every_metric_is_there(halves: tuple[Sample, Sample]) -> None:
    estimates = thorough.similarity(*halves)
    left_out = {"physics/auc_low_level", "physics/jsd_low_level"}
    assert set(estimates) == {f"physics/{name}" for name in thorough.METRICS} - left_out
    assert abs(estimates["physics/kernel_distance"].value) < 5 * estimates["physics/kernel_distance"].error
    assert estimates["physics/coverage"].value > 0.8
    assert all(np.isfinite(estimate.error) for estimate in estimates.values())


def test_the_floor_on_cells_has_the_numbers_of_the_candidate(geant4: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Events, ...]] = []

    def separate(*samples: Events, trainings: int, seed: int) -> SimpleNamespace:
        seen.append(samples)
        return SimpleNamespace(auc_with_spread=Estimate(0.5, 0.1), jsd=Estimate(0.0, 0.1))

    monkeypatch.setattr(thorough, "auc_low_level", separate)
    one = np.ones(len(geant4))
    assert thorough.cell_similarity(geant4, geant4, (one, one), trainings=1)
    assert thorough.cell_floor(geant4, (one, one), trainings=1)
    assert [len(sample) for samples in seen for sample in samples] == [len(geant4) // 2] * 4
    np.testing.assert_array_equal(seen[0][0].energy, seen[1][0].energy)
    assert set(seen[1][0].energy).isdisjoint(seen[1][1].energy)


def test_identical_showers_are_detected(geant4: Events) -> None:
    # The mean shower of neighbouring energies, scaled: right on average, without fluctuation.
    order = np.argsort(geant4.energy)
    smooth = geant4.showers.copy()
    for rows in np.array_split(order, 10):
        share = geant4.showers[rows] / geant4.energy[rows, None, None, None]
        smooth[rows] = share.mean(axis=0) * geant4.energy[rows, None, None, None]
    estimates = thorough.similarity(*match_energies(observe(geant4), observe(Events(smooth, geant4.energy))))
    assert estimates["physics/frechet_distance"].value > 10 * estimates["physics/frechet_distance"].error


def test_showers_without_a_counterpart_do_not_count(geant4: Events) -> None:
    r, c = match_energies(observe(geant4), observe(geant4))
    high = Sample(r.observables, np.where(geant4.energy > 250, 1.0, 0.0), r.counts)
    estimates = thorough.similarity(high, Sample(c.observables, high.weight, c.counts))
    assert estimates["physics/ks_depth"].value == 0
    assert thorough.similarity(high, Sample(c.observables, high.weight * 0, c.counts)) == {}


def test_cells_are_not_compared_without_trainings_or_showers(geant4: Events) -> None:
    one = np.ones(len(geant4))
    assert thorough.cell_similarity(geant4, geant4, (one, one), trainings=0) == {}
    assert thorough.cell_similarity(geant4, geant4, (one, 0 * one), trainings=1) == {}


@pytest.mark.slow
def test_doubled_cells_are_distinguished(geant4: Events) -> None:
    one = np.ones(len(geant4))
    estimates = thorough.cell_similarity(geant4, Events(2 * geant4.showers, geant4.energy), (one, one), trainings=1)
    assert estimates["physics/auc_low_level"].value > 0.9
