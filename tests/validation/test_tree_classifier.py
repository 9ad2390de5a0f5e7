import numpy as np
import pytest

from calogan.events import Events, packaged_sample, read_events
from calogan.validation import tree_classifier
from calogan.validation.classifiers import Rows, energy_folds, join_folds
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Floats, Observables, observe
from calogan.validation.resampling import Sample, match_energies, replica_counts

AUC = "physics/auc_high_level"


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())


@pytest.fixture(scope="module")
def observed(events: Events) -> Observables:
    return observe(events)


def joined(reference: Floats, candidate: Floats) -> tuple[Rows, Rows]:
    return join_folds(*energy_folds(reference, candidate))


@pytest.mark.parametrize("ratio", [1, 3])
def test_trees_find_real_differences_only(ratio: int) -> None:
    rng = np.random.default_rng(1)
    energy = rng.uniform(2, 500, 400)
    folds = joined(energy, np.repeat(energy, ratio))
    r, c = rng.standard_normal((400, 3)), rng.standard_normal((400 * ratio, 3))

    same = tree_classifier.train(np.vstack([r, c]), *folds)
    assert same.auc.value == pytest.approx(0.5, abs=3 * same.auc.error)
    assert same.jsd.value < 0.05
    apart = tree_classifier.train(np.vstack([r, c + np.array([3, 0, 0])]), *folds)
    # two unit normal distributions three apart: Phi(3 / sqrt 2)
    assert apart.auc.value == pytest.approx(0.983, abs=0.015)
    assert apart.jsd.value > 0.6
    assert len(apart.trainings) == 5
    assert apart.auc_spread > 0
    assert apart.auc.error < apart.trainings[0].auc.error


def test_pairs_of_one_energy_do_not_push_the_area_below_one_half() -> None:
    energy = np.random.default_rng(2).uniform(2, 500, 500)
    separability = tree_classifier.train(np.tile(energy, 2)[:, None], *joined(energy, energy))
    assert separability.auc.value == pytest.approx(0.5, abs=0.01)


def test_a_seed_gives_the_same_again() -> None:
    features = np.random.default_rng(3).standard_normal((200, 2))
    folds = joined(np.arange(100.0), np.arange(100.0))
    first, second = (tree_classifier.train(features, *folds, trainings=1, seed=4) for _ in range(2))
    assert first.auc == second.auc
    assert first.auc_spread == 0


def test_geant4_is_like_geant4_with_the_numbers_of_the_floor(observed: Observables) -> None:
    r, c = match_energies(observed[:400], observed[400:800])
    estimates, showers = tree_classifier.compare(r, c)
    floor = tree_classifier.floor(r, showers)
    assert 150 < showers <= 200
    assert set(estimates) == set(floor) == {f"physics/{name}" for name in tree_classifier.METRICS}
    for values in (estimates, floor):
        assert values[AUC].value == pytest.approx(0.5, abs=4 * values[AUC].error)
    # Ten fifths are tested in one, five in the other.
    assert floor[AUC].error > estimates[AUC].error


def test_a_plain_difference_is_found_and_empty_showers_too(events: Events, observed: Observables) -> None:
    scaled = observe(Events(events.showers[:300] * np.float32(1.1), events.energy[:300]))
    assert tree_classifier.compare(*match_energies(observed[:300], scaled))[0][AUC].value > 0.75
    holes = np.where(np.arange(300)[:, None, None, None] % 2, events.showers[:300], 0)
    emptied = observe(Events(holes, events.energy[:300]))
    assert tree_classifier.compare(*match_energies(observed[:300], emptied))[0][AUC].value > 0.62


def test_the_number_of_showers_is_bounded_by_all_that_bounds_it(
    observed: Observables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def number(reference: int, candidate: int) -> int:
        samples = (
            Sample(some, np.ones(len(some)), replica_counts(0, len(some), (0, of)))
            for of, some in enumerate((observed[:reference], observed[:candidate]))
        )
        return tree_classifier.compare(*samples)[1]

    monkeypatch.setattr(tree_classifier, "separate", lambda *_, **__: _Nothing())
    assert number(40, 400) == 20
    assert number(400, 60) == 60
    assert number(400, 400) == 200
    monkeypatch.setattr(tree_classifier, "TREE_SHOWERS", 50)
    assert number(400, 400) == 50


class _Nothing:
    """A result of no training."""

    auc_with_spread = jsd = calibration_error = Estimate(0.5, 0.1)


def test_no_shower_is_twice_in_a_training(observed: Observables, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[tuple[Observables, Observables]] = []

    def remember(pairs: list[tuple[Observables, Observables]], *, seed: int) -> _Nothing:
        groups.extend(pairs)
        return _Nothing()

    monkeypatch.setattr(tree_classifier, "separate", remember)
    ones = [
        Sample(some, np.ones(len(some)), replica_counts(0, len(some), (0, 0)))
        for some in (observed[:200], observed[:150])
    ]
    assert tree_classifier.compare(*ones)[1] == 100
    assert tree_classifier.floor(ones[0], 100)
    for pair in groups:
        for sample in pair:
            assert len(np.unique(sample.ecal)) == len(sample) == 100
    references = [set(ours.ecal) for ours, _ in groups]
    assert references[0].isdisjoint(references[1])
    assert references[2] == references[0]
    assert set(groups[2][1].ecal) == references[1]


def test_too_few_showers_for_five_parts_give_no_metric(observed: Observables) -> None:
    r, c = (Sample(observed[:15], np.ones(15), replica_counts(0, 15, (0, of))) for of in (0, 1))
    assert tree_classifier.compare(r, c) == ({}, 7)
    assert tree_classifier.floor(r, 7) == {}
