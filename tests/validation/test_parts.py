from pathlib import Path

import numpy as np
import pytest

from calogan.errors import EventsError
from calogan.events import Events, open_events, write_events
from calogan.validation import parts, resampling
from calogan.validation.observables import observe, projection
from calogan.validation.parts import Part, SampleSummary, divide, merge, observe_part


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 32)


@pytest.fixture
def plan(geant4: Events) -> parts.Plan:
    return parts.plan(geant4.energy, geant4.energy[:90], floor=True, seed=5)


def process(events: Events, plan: parts.Plan, of: int, blocks: int) -> SampleSummary:
    partials = (observe_part(events, part, events) for part in divide(plan, of, blocks=blocks))
    return merge(partials, len(events))


def test_the_plan_has_a_weighting_for_each_comparison(geant4: Events, plan: parts.Plan) -> None:
    reference, candidate = plan.weights
    assert (reference.shape, candidate.shape) == ((3, 200), (1, 90))
    _, first, second = reference
    assert not np.any((first > 0) & (second > 0))
    assert np.count_nonzero(first) == pytest.approx(100, abs=5)
    assert first.sum() == pytest.approx(second.sum())
    without = parts.plan(geant4.energy, geant4.energy[:90], floor=False, seed=5)
    np.testing.assert_array_equal(without.weights[0], reference[:1])


def test_too_few_showers_have_no_floor() -> None:
    assert len(parts.plan(np.ones(39), np.ones(39), floor=True, seed=0).weights[0]) == 1


def test_parts_cover_a_sample_once(plan: parts.Plan) -> None:
    cover = list(divide(plan, 0, blocks=2))
    assert [(part.start, part.stop) for part in cover] == [(0, 64), (64, 128), (128, 192), (192, 200)]
    np.testing.assert_array_equal(np.hstack([part.weights for part in cover]), plan.weights[0])


@pytest.mark.parametrize("blocks", [2, 3, 100])
@pytest.mark.parametrize("of", [0, 1])
def test_every_division_gives_the_same_bits(blocks: int, of: int, geant4: Events, plan: parts.Plan) -> None:
    events = geant4[: plan.weights[of].shape[1]]
    one, other = process(events, plan, of, 1), process(events, plan, of, blocks)
    np.testing.assert_array_equal(one.planes, other.planes)
    np.testing.assert_array_equal(one.difference, other.difference)
    for name, array in one.observables.arrays().items():
        np.testing.assert_array_equal(array, getattr(other.observables, name), err_msg=name)
        np.testing.assert_array_equal(array, getattr(observe(events), name), err_msg=name)


def test_files_give_the_same_bits_as_memory(geant4: Events, plan: parts.Plan, tmp_path: Path) -> None:
    for name, some in (("a", geant4[:70]), ("b", geant4[70:])):  # not the edges of blocks
        write_events(tmp_path / f"{name}.h5", some, header={})
    files = open_events(tmp_path)
    whole = merge((observe_part(files, part) for part in divide(plan, 0)), len(files))
    np.testing.assert_array_equal(whole.planes, process(geant4, plan, 0, 1).planes)


def test_sums_are_those_of_the_projections_over_ep(geant4: Events, plan: parts.Plan) -> None:
    block_sums = process(geant4, plan, 0, 1).planes
    planes = np.stack([projection(geant4.showers, plane) for plane in ("xy", "xz", "yz")], axis=1)
    over_ep = planes.reshape(200, -1) / geant4.energy[:, None].astype(np.float64)
    counts = resampling.replica_counts(0, 200, (5, 0))
    for sums, weight in zip(block_sums, plan.weights[0], strict=True):
        np.testing.assert_allclose(sums[0], weight @ over_ep, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(sums[100], (weight * counts[:, 99]) @ over_ep, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(sums[101], weight @ over_ep**2, rtol=1e-5, atol=1e-9)


def test_merging_refuses_missing_and_unordered_parts(geant4: Events, plan: parts.Plan) -> None:
    partials = [observe_part(geant4, part) for part in divide(plan, 0, blocks=4)]
    assert len(partials) == 2
    with pytest.raises(EventsError, match="starts at shower 128 instead of 0"):
        merge(partials[::-1], 200)
    with pytest.raises(EventsError, match="hold 128 of 200"):
        merge(partials[:1], 200)


def test_a_part_is_read_a_block_at_a_time(geant4: Events, plan: parts.Plan) -> None:
    sizes: list[int] = []

    class Watched:
        energy = geant4.energy

        def __len__(self) -> int:
            return len(geant4)

        def __getitem__(self, which: slice, /) -> Events:
            sizes.append(which.stop - which.start)
            return geant4[which]

    (part,) = divide(plan, 0, blocks=100)
    observe_part(Watched(), part)
    assert sizes == [32] * 6 + [8]


def test_energy_difference_of_known_showers() -> None:
    float32 = np.zeros((1, 25, 25, 25), np.float32)
    float32[0, 1, 2, 3] = 2.0
    candidate = np.zeros_like(float32)
    candidate[0, 1, 2, 3], candidate[0, 0, 0, 0] = 1.5, 0.25
    np.testing.assert_array_equal(parts.energy_difference(float32, candidate), [[0.75, 2.0]])


def test_without_float32_showers_nothing_moved(geant4: Events) -> None:
    assert observe_part(geant4[:20], Part(1, 0, 20, np.ones((1, 20)), seed=0)).difference.shape == (20, 0)
