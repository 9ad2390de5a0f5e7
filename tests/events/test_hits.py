import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Events, Hits, checked_hits
from calogan.events.hits import regroup
from calogan.geometry import CLIC


def three() -> Hits:
    """Two hits, none, one hit."""
    return Hits(
        np.array([0, 2, 2, 3]),
        np.array([0, 15624, 7805], np.uint16),
        np.array([1, 2, 3], np.float32),
        np.array([10, 20, 30], np.float32),
    )


@st.composite
def samples(draw: st.DrawFn) -> Events:
    """Up to five showers with a few hits each."""
    n = draw(st.integers(0, 5))
    showers = np.zeros((n, *CLIC.shape), np.float32)
    place = st.tuples(st.integers(0, max(n - 1, 0)), *(st.integers(0, 24) for _ in range(3)))
    for index in draw(st.lists(place, max_size=20 if n else 0)):
        showers[index] = draw(st.integers(1, 10**6)) / np.float32(1e6)
    return Events(showers, np.arange(1, n + 1, dtype=np.float32))


def equal(one: Hits, other: Hits) -> bool:
    return all(
        array.dtype == getattr(other, name).dtype and array.tobytes() == getattr(other, name).tobytes()
        for name, array in vars(one).items()
    )


def test_cells_count_along_z_first_then_y_then_x() -> None:
    dense = three().to_dense()
    assert dense.showers.shape == (3, 25, 25, 25)
    assert dense.showers[0, 0, 0, 0] == 1
    assert dense.showers[0, 24, 24, 24] == 2
    assert dense.showers[2, 12, 12, 5] == 3  # (12 * 25 + 12) * 25 + 5
    assert np.count_nonzero(dense.showers) == 3
    assert dense.energy.tolist() == [10, 20, 30]


def test_numbers_and_sums_of_hits() -> None:
    assert three().counts.tolist() == [2, 0, 1]
    assert three().sums.tolist() == [3, 0, 3]


@given(samples())
@settings(max_examples=30, deadline=None)
def test_dense_and_back_is_the_same(events: Events) -> None:
    hits = Hits.from_dense(events)
    dense = hits.to_dense()
    assert dense.showers.tobytes() == events.showers.tobytes()
    assert equal(Hits.from_dense(dense), hits)
    if len(hits):
        checked_hits(hits, origin="test")


@given(samples(), st.data())
@settings(max_examples=30, deadline=None)
def test_slices_are_slices_of_the_showers_and_join_to_the_whole(events: Events, data: st.DataObject) -> None:
    hits = Hits.from_dense(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    parts = [hits[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(hits)], strict=True)]
    for part, start in zip(parts, [0, *cuts], strict=True):
        assert part.to_dense().showers.tobytes() == events.showers[start : start + len(part)].tobytes()
    assert equal(Hits.concatenate(parts), hits)


def test_only_slices_of_neighbours_can_be_taken() -> None:
    assert len(three()[2:1]) == 0
    with pytest.raises(ValueError, match="step of the slice is 2"):
        three()[::2]


def test_showers_of_another_detector_have_no_hits() -> None:
    with pytest.raises(EventsError, match=r"showers of shape \(5, 5, 5\)"):
        Hits.from_dense(Events(np.ones((2, 5, 5, 5), np.float32), np.ones(2, np.float32)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"energy": np.empty(0, np.float32)}, "no showers"),
        ({"offsets": np.array([0, 2, 3])}, "offsets do not divide"),
        ({"offsets": np.array([1, 2, 2, 3])}, "offsets do not divide"),
        ({"offsets": np.array([0, 2, 2, 4])}, "offsets do not divide"),
        ({"offsets": np.array([0, 3, 2, 3])}, "offsets do not divide"),
        ({"offsets": np.array([0, 3, -1, 3])}, "offsets do not divide"),
        ({"cell_energy": np.ones(2, np.float32)}, "offsets do not divide"),
        ({"cell": np.array([0, 15625, 1], np.uint16)}, "not in ascending order from 0 to 15624"),
        ({"cell": np.array([5, 5, 1], np.uint16)}, "not in ascending order"),
        ({"cell_energy": np.array([1, 0, 1], np.float32)}, "energy of a hit is not a number above 0"),
        ({"cell_energy": np.array([1, np.nan, 1], np.float32)}, "energy of a hit"),
        ({"energy": np.array([1, np.inf, 1], np.float32)}, "energy of a primary particle"),
    ],
)
def test_impossible_hits_are_refused(changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(EventsError, match=f"^there: .*{message}"):
        checked_hits(Hits(**vars(three()) | changed), origin="there")


def test_the_first_hit_of_a_shower_may_lie_before_the_last_one_of_the_shower_before() -> None:
    assert checked_hits(three(), origin="test").cell[2] < 15624


def test_showers_without_hits_at_both_ends_are_possible() -> None:
    hits = Hits(np.array([0, 0, 1, 1]), np.array([4], np.uint16), np.ones(1, np.float32), np.ones(3, np.float32))
    assert checked_hits(hits, origin="test").counts.tolist() == [0, 1, 0]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 4), (7,), (3, 4), (2, 0, 5)])
def test_samples_are_regrouped_without_changing_a_shower(geant4: Events, sizes: tuple[int, ...]) -> None:
    ends = np.cumsum([0, *sizes])
    dense = [geant4[start:stop] for start, stop in itertools.pairwise(ends)]
    groups = list(regroup(dense, 3))
    assert [len(group) for group in groups] == [3, 3, 1]
    np.testing.assert_array_equal(Events.concatenate(groups).showers, geant4.showers[:7])
    of_hits = list(regroup([Hits.from_dense(part) for part in dense], 3))
    for group, hits in zip(groups, of_hits, strict=True):
        np.testing.assert_array_equal(hits.to_dense().showers, group.showers)
