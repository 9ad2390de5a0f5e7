from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Events, Selection, split_events, split_source, splits

SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}
Noise = Callable[..., Events]


class Watched:
    """Showers that can be read in slices only; records the sizes of the slices."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.energy = events.energy
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, which: slice, /) -> Events:
        some = self.events[which]
        self.read.append(len(some))
        return some


def test_parts_are_disjoint_and_complete(noise: Noise) -> None:
    events = noise(60)
    parts = split_events(events, SHARES)
    energies = np.concatenate([part.energy for part in parts.values()])
    assert sorted(energies) == sorted(events.energy)
    assert list(parts) == list(SHARES)


@given(st.permutations(range(40)), st.integers(35, 40))  # the smallest part has 6 of 40 showers: none may be empty
@settings(max_examples=25, deadline=None)
def test_the_part_of_a_shower_does_not_depend_on_its_sample(noise: Noise, order: list[int], n: int) -> None:
    events = noise(40)
    whole = split_events(events, SHARES)
    some = split_events(events[np.array(order[:n])], SHARES)
    for name, part in some.items():
        assert set(part.energy.tolist()) <= set(whole[name].energy.tolist())


def test_parts_have_their_shares_and_another_seed_divides_otherwise(noise: Noise) -> None:
    events = noise(1000)
    parts = split_events(events, SHARES)
    for name, share in SHARES.items():
        assert len(parts[name]) == pytest.approx(1000 * share, abs=5 * np.sqrt(1000 * share * (1 - share)))
    assert parts["train"].energy.tolist() != split_events(events, SHARES, seed=1)["train"].energy.tolist()
    assert parts["train"].energy.tolist() != split_events(events, SHARES, seed=-1)["train"].energy.tolist()


def test_showers_of_one_energy_and_showers_of_one_pattern_are_distinguished(noise: Noise) -> None:
    events = noise(200)
    one_energy = Events(events.showers, np.full(200, 100, np.float32))
    one_pattern = Events(np.repeat(events.showers[:1], 200, axis=0), events.energy)
    for same in (one_energy, one_pattern):
        assert 60 < len(split_events(same, SHARES)["train"]) < 140


@given(st.integers(1, 70), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_a_source_is_divided_as_a_sample_in_memory(noise: Noise, chunk: int, seed: int) -> None:
    sizes: list[int] = []
    events = noise(60)
    source = Watched(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_CHUNK", chunk)
        parts = split_source(source, SHARES, seed=seed, progress=sizes.append)
        assert sizes == source.read
        assert sum(sizes) == 60
        assert max(sizes) <= chunk
        for name, expected in split_events(events, SHARES, seed=seed).items():
            np.testing.assert_array_equal(parts[name].energy, expected.energy)
            np.testing.assert_array_equal(parts[name][:].showers, expected.showers)
            assert len(parts[name]) == len(expected)


def test_showers_without_any_energy_are_in_no_part(noise: Noise) -> None:
    events = noise(80)
    events.showers[::4] = 0
    parts = split_events(events, SHARES)
    energies = np.concatenate([part.energy for part in parts.values()])
    assert sorted(energies) == sorted(events.energy[np.arange(80) % 4 > 0])
    with pytest.raises(EventsError, match="3 showers are too few"):
        split_source(Events(np.zeros((3, 2, 2, 2), np.float32), np.ones(3, np.float32)), SHARES)


def test_a_shower_at_the_very_end_of_the_range_is_in_the_last_part(
    noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "_identity", lambda *_: np.array([0.1, 1.0]))
    parts = split_events(noise(2), {"train": 0.7, "test": 0.3})
    assert [len(part) for part in parts.values()] == [1, 1]


def test_a_division_that_cannot_be_made_is_refused(noise: Noise) -> None:
    for divide in (split_events, split_source):
        with pytest.raises(EventsError, match=r"1 showers are too few: the part '\w+' \(\d+%\) would be empty"):
            divide(noise(1), SHARES)
        with pytest.raises(ValueError, match="do not add up to 1"):
            divide(noise(3), {"train": 0.5, "test": 0.4})
    with pytest.raises(EventsError, match="0 showers are too few"):
        split_events(noise(0), SHARES)


border = st.none() | st.integers(-25, 25)


@given(st.sets(st.integers(0, 49), max_size=20), border, border, st.integers(1, 3), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_slice_of_a_selection_is_the_slice_of_its_rows(
    noise: Noise, indices: set[int], start: int | None, stop: int | None, step: int, chunk: int
) -> None:
    events, rows = noise(50), np.array(sorted(indices), dtype=np.intp)
    selection = Selection(Watched(events), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_CHUNK", chunk)
        some = selection[start:stop:step]
    np.testing.assert_array_equal(some.showers, events.showers[rows[start:stop:step]])
    np.testing.assert_array_equal(some.energy, events.energy[rows[start:stop:step]])
    np.testing.assert_array_equal(selection.energy, events.energy[rows])
    assert len(selection) == len(rows)
    assert some.showers.dtype == np.float32


def test_a_selection_of_a_few_does_not_read_all_that_lies_between(noise: Noise) -> None:
    source = Watched(noise(20_000, shape=(1, 1, 1)))
    some = Selection(source, np.array([3, 9_000, 9_001, 19_999]))[:]
    assert len(some) == 4
    assert max(source.read) <= 1024
    assert sum(source.read) == 4
