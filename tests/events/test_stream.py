import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Events, batches, load_if_small, open_events, stream, write_events

SHOWER = (10, 10, 10)  # 4 kB
Write = Callable[[str, Path, Events], Path]


class OnDisk:
    """Showers made on demand; the energy of shower k is k + 1, and so is each of its cells."""

    def __init__(self, n: int, shape: tuple[int, int, int] = (1, 1, 1)) -> None:
        self.energy = np.arange(1, n + 1, dtype=np.float32)
        self.shape = shape
        self.read: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, which: slice, /) -> Events:
        energy = self.energy[which]
        self.read.append((which.start, which.stop))
        showers = np.empty((len(energy), *self.shape), np.float32)
        showers[:] = energy[:, None, None, None]
        return Events(showers, energy.copy())


def order(source: Events | OnDisk, size: int, seed: int = 0, **options: int) -> list[list[float]]:
    return [batch.energy.tolist() for batch in batches(source, size, np.random.default_rng(seed), **options)]


@given(st.integers(1, 900), st.integers(1, 80), st.integers(160, 400), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_shower_is_given_once_but_for_the_rest(n: int, size: int, buffer: int, in_memory: bool) -> None:
    source = OnDisk(n)[0:n] if in_memory else OnDisk(n)
    energies = []
    for batch in batches(source, size, np.random.default_rng(0), buffer=buffer):
        assert len(batch) == size
        np.testing.assert_array_equal(batch.showers[:, 0, 0, 0], batch.energy)
        energies += batch.energy.tolist()
    assert len(energies) == n // size * size
    assert len(set(energies)) == len(energies)
    assert set(energies) <= set(range(1, n + 1))


@pytest.mark.parametrize("source", [OnDisk(1000), OnDisk(1000)[0:1000]], ids=["disk", "memory"])
def test_the_generator_decides_the_order(source: Events | OnDisk) -> None:
    first = order(source, 32, buffer=256)
    assert first == order(source, 32, buffer=256)
    assert first != order(source, 32, seed=1, buffer=256)
    rng = np.random.default_rng(0)
    epochs = [[batch.energy.tolist() for batch in batches(source, 32, rng, buffer=256)] for _ in range(2)]
    assert epochs[0] == first
    assert epochs[1] != first


def test_batches_that_were_given_stay_as_they_are() -> None:
    copies = list(batches(OnDisk(2000), 32, np.random.default_rng(0), buffer=256))
    assert len(np.unique(np.concatenate([batch.energy for batch in copies]))) == 1984
    assert len(np.unique(np.concatenate([batch.showers.ravel() for batch in copies]))) == 1984


@pytest.mark.parametrize(("buffer", "size"), [(128, 1), (128, 64), (256, 32), (512, 100), (512, 256)])
def test_memory_is_bounded_by_the_buffer(buffer: int, size: int) -> None:
    source = OnDisk(4000, SHOWER)
    tracemalloc.start()
    try:
        for batch in batches(source, size, np.random.default_rng(0), buffer=buffer):
            assert len(batch) == size
        peak = tracemalloc.get_traced_memory()[1] / (4 * np.prod(SHOWER))
    finally:
        tracemalloc.stop()
    # Beside the buffer: the stretch that is used, the one before it, those read ahead, the batch and the one before it.
    assert peak < buffer + (3 + stream._AHEAD) * 64 + 2 * size + 50
    assert max(stop - start for start, stop in source.read) <= 64


def test_a_pass_reads_everything_once() -> None:
    source = OnDisk(1000)
    order(source, 32, buffer=256)
    reads = sorted((start, stop) for start, stop in source.read if stop > start)
    assert reads == [(start, start + 64) for start in range(0, 1000, 64)]


def test_stretches_are_read_while_a_batch_is_used() -> None:
    source = OnDisk(6400)
    stream_of_batches = batches(source, 64, np.random.default_rng(0), buffer=128)
    next(stream_of_batches)
    end = time.monotonic() + 10
    # One for the shape, two that fill the buffer, one for which the batch made room, and those ahead of it.
    while len(source.read) < 4 + stream._AHEAD and time.monotonic() < end:
        time.sleep(0.001)
    assert len(source.read) == 4 + stream._AHEAD > 4
    stream_of_batches.close()  # type: ignore[attr-defined]  # it is a generator
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("calogan-read")]


def test_an_error_of_the_reading_thread_comes_out() -> None:
    class Damaged(OnDisk):
        def __getitem__(self, which: slice, /) -> Events:
            if len(self.read) == 5:
                raise EventsError("damaged.h5: cannot be read")
            return super().__getitem__(which)

    with pytest.raises(EventsError, match=r"damaged\.h5: cannot be read"):
        order(Damaged(1000), 32, buffer=256)


def test_a_batch_mixes_many_stretches_of_a_source_that_is_too_large_for_memory() -> None:
    batch_size, n = 256, 60_000
    rows = np.array(order(OnDisk(n), batch_size)) - 1
    stretches = [len(set((row // 64).astype(int))) for row in rows]
    # The default buffer holds 256 stretches: of 256 showers drawn from them, 162 different ones are expected.
    assert np.mean(stretches) > 155
    assert min(stretches) > 130
    # No batch is of one end of the source only.
    assert rows.mean(axis=1).std() < 3 * n / np.sqrt(12 * batch_size)


def test_a_sample_in_memory_is_shuffled_exactly() -> None:
    n, counts = 6, np.zeros((6, 6))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        for place, batch in enumerate(batches(OnDisk(n)[0:n], 1, rng)):
            counts[int(batch.energy[0]) - 1, place] += 1
    assert abs(counts - 2000 / n).max() < 5 * np.sqrt(2000 / n)


def test_a_buffer_too_small_to_mix_is_refused() -> None:
    for buffer, size, least in ((127, 1, 128), (100, 64, 128), (199, 100, 200)):
        with pytest.raises(
            ValueError, match=f"a buffer of {buffer} showers is too small to mix .* give at least {least}"
        ):
            order(OnDisk(1000), size, buffer=buffer)
        assert order(OnDisk(1000), size, buffer=least)


def test_a_source_is_held_in_memory_if_it_fits() -> None:
    source = OnDisk(100)
    events = load_if_small(source, buffer=100)
    assert isinstance(events, Events)
    np.testing.assert_array_equal(events.energy, source.energy)
    assert load_if_small(source, buffer=99) is source


def test_files_are_streamed(geant4: Events, write_as: Write, tmp_path: Path) -> None:
    files = [
        write_events(tmp_path / "a.h5", geant4[:90], header={}),
        write_as("x50", tmp_path / "b.h5", geant4[90:]),
    ]
    parts = list(batches(open_events(files), 50, np.random.default_rng(0), buffer=130))
    energy = np.concatenate([batch.energy for batch in parts])
    place = {float(e): i for i, e in enumerate(geant4.energy)}
    rows = [place[float(e)] for e in energy]
    assert sorted(rows) == list(range(200))
    showers = np.concatenate([batch.showers for batch in parts])
    np.testing.assert_allclose(showers, geant4.showers[rows], rtol=1e-6)
