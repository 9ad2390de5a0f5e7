import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.events import Hits
from calogan.generation.random_numbers import ALIGNMENT
from calogan.serving.drawing import BATCH, Drawing, Job

Samplers = dict[str, Any]


@pytest.fixture
def drawing() -> Iterator[Drawing]:
    drawing = Drawing()
    yield drawing
    drawing.close()


def constant(start: int, n: int) -> np.ndarray[Any, Any]:
    return np.full(n, 50, dtype=np.float32)


async def drawn(drawing: Drawing, sampler: Any, seed: int, first: int, count: int) -> Hits:
    parts = drawing.draw(sampler, seed=seed, first=first, count=count, energies=constant)
    return Hits.concatenate([part async for part in parts])


def test_requests_together_get_what_each_would_get_alone(drawing: Drawing, samplers: Samplers) -> None:
    orders = [(seed, first, count) for seed in (1, 2) for first in (0, 5, 1000) for count in (1, 17, 600)]

    async def all_together() -> list[Hits]:
        return await asyncio.gather(*(drawn(drawing, samplers["int8"], *order) for order in orders))

    for (seed, first, count), hits in zip(orders, asyncio.run(all_together()), strict=True):
        expected = samplers["int8"].sample(np.full(count, 50), seed=seed, first=first)
        np.testing.assert_array_equal(hits.to_dense().showers, expected.showers)


def test_waiting_requests_share_a_call(drawing: Drawing, samplers: Samplers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.02)
    samplers["int8"].calls.clear()

    async def all_together() -> None:
        await asyncio.gather(*(drawn(drawing, samplers["int8"], seed, 0, 1) for seed in range(16)))

    asyncio.run(all_together())
    assert sum(samplers["int8"].calls) == 16
    assert len(samplers["int8"].calls) <= 3


def test_a_small_request_does_not_wait_for_a_large_one(
    drawing: Drawing, samplers: Samplers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.02)

    async def race() -> list[str]:
        order: list[str] = []

        async def one(name: str, count: int) -> None:
            await drawn(drawing, samplers["int8"], 1, 0, count)
            order.append(name)

        large = asyncio.create_task(one("large", 20 * BATCH))
        await asyncio.sleep(0.03)
        await asyncio.gather(large, one("small", 1))
        return order

    assert asyncio.run(race()) == ["small", "large"]


def test_what_nobody_reads_is_not_drawn(drawing: Drawing, samplers: Samplers) -> None:
    sampler = samplers["int8"]

    async def read_a_little() -> tuple[int, int]:
        sampler.drawn = 0
        parts = drawing.draw(sampler, seed=1, first=0, count=100 * BATCH, energies=constant)
        async with contextlib.aclosing(parts):
            await anext(parts)
            await asyncio.sleep(0.5)
            unread = sampler.drawn
        await asyncio.sleep(0.2)
        return unread, sampler.drawn

    unread, left = asyncio.run(read_a_little())
    assert unread <= 5 * BATCH
    assert left == unread
    assert drawing.waiting == 0


def test_an_error_reaches_its_own_request_only(drawing: Drawing, samplers: Samplers) -> None:
    async def both() -> list[Any]:
        orders = (drawn(drawing, samplers["int8"], seed, 0, 3) for seed in (1, 666, 2))
        return await asyncio.gather(*orders, return_exceptions=True)

    first, bad, second = asyncio.run(both())
    assert isinstance(bad, ZeroDivisionError)
    assert len(first) == len(second) == 3


def test_the_thread_survives_a_loop_that_is_gone(drawing: Drawing, samplers: Samplers) -> None:
    async def leave() -> None:
        parts = drawing.draw(samplers["int8"], seed=1, first=0, count=BATCH, energies=constant)
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        await anext(parts)

    with pytest.raises(RuntimeError), asyncio.Runner() as runner:
        runner.run(leave())
    energy = np.full(3, 50, dtype=np.float32)
    assert len(drawing.draw_all(samplers["int8"], energy, seed=1).result(timeout=10)) == 3


@given(
    first=st.integers(0, 100),
    count=st.integers(1, 2000),
    groups=st.lists(st.integers(1, BATCH // ALIGNMENT), min_size=200, max_size=200),
)
def test_pieces_cover_a_job_once_and_end_at_whole_groups(first: int, count: int, groups: list[int]) -> None:
    job = Job(None, 1, first, count, constant, lambda _: None)  # type: ignore[arg-type]
    for share in groups:
        if not job.groups():
            break
        piece = job.piece(min(share, job.groups()))
        assert piece.first == first + job.drawn
        assert len(piece.energy) >= 1
        job.drawn += len(piece.energy)
        job.taken = job.drawn
        assert job.drawn == count or (first + job.drawn) % ALIGNMENT == 0
    assert job.drawn == count


def test_warming_up_draws_every_size(drawing: Drawing, samplers: Samplers) -> None:
    samplers["int8"].drawn = 0
    drawing.warm_up(samplers["int8"])
    sizes = BATCH // ALIGNMENT
    assert samplers["int8"].drawn == ALIGNMENT * sizes * (sizes + 1) // 2 + BATCH
    assert drawing.wait_s() == 0


def test_closing_ends_the_thread(samplers: Samplers) -> None:
    before = threading.active_count()
    drawing = Drawing()
    assert threading.active_count() == before + 1
    drawing.close()
    time.sleep(0)
    assert threading.active_count() == before
