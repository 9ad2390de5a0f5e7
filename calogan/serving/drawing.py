"""One thread that draws the showers of all waiting requests, as many together as one call of the network takes.

A shower depends on its request only (`Generator.sample_together`), so requests may share calls in any way. Requests take
turns: a small one waits for one call, not for a large request to end. A request whose client reads slowly, or has left,
is not drawn any further.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calogan.errors import ServiceError
from calogan.events import EnergyRange, Hits
from calogan.generation.random_numbers import ALIGNMENT, Piece

BATCH = 256  # showers of one call at most
_CALL_S = 0.05  # a call is made so small that it ends in about this time, which is how late a cancellation may come
_AHEAD = 2 * BATCH  # showers drawn before the client has read the earlier ones

Floats = NDArray[np.float32]


class Sampler(Protocol):
    """A generator of one precision, ready to draw showers."""

    name: str
    precision: str
    version: str
    energy_range: EnergyRange

    def sample_together(self, pieces: Sequence[Piece]) -> list[Hits]:
        """Draw the showers of several pieces; each shower depends on its own energy, seed and index only."""
        ...


@dataclass(eq=False)
class Job:
    """Showers to draw.

    Attributes:
        sampler: the generator.
        seed: its seed.
        first: index of the first shower.
        count: number of showers.
        energies: function of (start, n) that returns the energies of n showers from number `start` on, GeV.
        deliver: called in the drawing thread with the next showers, or with the exception that ended the job.
        background: whether nobody waits for them.
    """

    sampler: Sampler
    seed: int
    first: int
    count: int
    energies: Callable[[int, int], Floats]
    deliver: Callable[[Hits | Exception], None]
    background: bool = False
    drawn: int = field(default=0, init=False)
    taken: int = field(default=0, init=False)
    ended: bool = field(default=False, init=False)

    def groups(self) -> int:
        """Groups of `ALIGNMENT` showers that can be drawn now."""
        if self.ended or self.drawn == self.count or self.drawn - self.taken >= _AHEAD:
            return 0
        lead = (self.first + self.drawn) % ALIGNMENT
        return -(-(lead + self.count - self.drawn) // ALIGNMENT)

    def piece(self, groups: int) -> Piece:
        """Return the next showers, so many that they lie in this number of groups."""
        first = self.first + self.drawn
        n = min(self.count - self.drawn, groups * ALIGNMENT - first % ALIGNMENT)
        return Piece(self.energies(self.drawn, n), self.seed, first)


class Drawing:
    """The drawing thread and its waiting requests."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._group_s: dict[Sampler, float] = {}
        self.calls = 0
        self._thread = threading.Thread(target=self._run, name="showers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after its present call."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of showers that are asked for and not yet drawn."""
        with self._changed:
            return sum(job.count - job.drawn for job in self._jobs if not job.background)

    def wait_s(self) -> float:
        """Estimate the seconds until all waiting showers are drawn."""
        with self._changed:
            return sum(
                -(-(job.count - job.drawn) // ALIGNMENT) * self._group_s.get(job.sampler, 0.0)
                for job in self._jobs
                if not job.background
            )

    def warm_up(self, sampler: Sampler) -> None:
        """Draw in calls of all sizes: the first one of each size compiles, which takes seconds for all of them."""
        middle = (sampler.energy_range.low * sampler.energy_range.high) ** 0.5
        largest = BATCH // ALIGNMENT
        for groups in (*range(1, largest + 1), largest):
            start = time.perf_counter()
            sampler.sample_together([Piece(np.full(groups * ALIGNMENT, middle, np.float32), 0, 0)])
            cost = (time.perf_counter() - start) / groups
        self._group_s[sampler] = cost

    def submit(self, job: Job) -> None:
        """Add a job."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Draw no more showers of a job."""
        with self._changed:
            job.ended = True
            if job in self._jobs:
                self._jobs.remove(job)

    def draw_all(self, sampler: Sampler, energy: Floats, *, seed: int) -> "Future[Hits]":
        """Draw a few showers, at most `BATCH`, between the requests; any thread may wait for them."""
        future: Future[Hits] = Future()

        def deliver(result: Hits | Exception) -> None:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                parts.append(result)
                if sum(map(len, parts)) == len(energy):
                    future.set_result(Hits.concatenate(parts))

        parts: list[Hits] = []
        self.submit(Job(sampler, seed, 0, len(energy), lambda start, n: energy[start : start + n], deliver))
        return future

    async def draw(
        self, sampler: Sampler, *, seed: int, first: int, count: int, energies: Callable[[int, int], Floats]
    ) -> AsyncGenerator[Hits, None]:
        """Draw showers and yield them in order, in parts of at most `BATCH`; closing the iterator ends the work.

        Raises:
            Exception: what the sampler raised.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        parts: deque[Hits | Exception] = deque()

        def deliver(part: Hits | Exception) -> None:
            parts.append(part)
            with contextlib.suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(arrived.set)

        job = Job(sampler, seed, first, count, energies, deliver)
        self.submit(job)
        try:
            while job.taken < count:
                await arrived.wait()
                arrived.clear()
                while parts:
                    part = parts.popleft()
                    yield self._take(job, part)
        finally:
            self.cancel(job)

    def draw_here(
        self, sampler: Sampler, *, seed: int, first: int, count: int, energies: Callable[[int, int], Floats]
    ) -> Generator[Hits, None, None]:
        """As `draw`, for a thread that waits for the showers itself; no client waits for them.

        Raises:
            Exception: what the sampler raised.
            ServiceError: the drawing thread has ended.
        """
        parts: queue.SimpleQueue[Hits | Exception] = queue.SimpleQueue()
        job = Job(sampler, seed, first, count, energies, parts.put, background=True)
        self.submit(job)
        try:
            while job.taken < count:
                try:
                    part = parts.get(timeout=1.0)
                except queue.Empty:
                    if self._closed:
                        raise ServiceError("the server stops") from None
                    continue
                yield self._take(job, part)
        finally:
            self.cancel(job)

    def _take(self, job: Job, part: Hits | Exception) -> Hits:
        """Count the showers of a part as taken, so that more are drawn; raises what the sampler raised."""
        if isinstance(part, Exception):
            raise part
        with self._changed:
            job.taken += len(part)
            self._changed.notify()
        return part

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or any(job.groups() for job in self._jobs))
                if self._closed:
                    return
                shares = self._share()
            self._draw(shares)

    def _share(self) -> list[tuple[Job, int]]:
        """Choose the jobs of the next call, and the number of groups of each.

        The longest waiting job decides which generator is called. All its jobs get equal shares, and those that come
        first what the others do not need.
        """
        ready = [job for job in self._jobs if job.groups()]
        sampler = ready[0].sampler
        ready = [job for job in ready if job.sampler is sampler]
        budget = BATCH // ALIGNMENT
        if cost := self._group_s.get(sampler):
            budget = min(max(int(_CALL_S / cost), 1), budget)
        ready = ready[:budget]
        shares = {job: min(job.groups(), budget // len(ready)) for job in ready}
        left = budget - sum(shares.values())
        for job in ready:
            more = min(left, job.groups() - shares[job])
            shares[job] += more
            left -= more
        for job in ready:
            self._jobs.remove(job)
            self._jobs.append(job)
        return list(shares.items())

    def _draw(self, shares: list[tuple[Job, int]]) -> None:
        start = time.perf_counter()
        sampler = shares[0][0].sampler
        try:
            pieces = [job.piece(groups) for job, groups in shares]
            results: list[Hits | Exception] = list(sampler.sample_together(pieces))
        except Exception as error:  # noqa: BLE001 - whatever it is, its requests get it
            if len(shares) > 1:  # one of them may be at fault: the others must not suffer
                for share in shares:
                    self._draw([share])
                return
            results = [error]
        else:
            cost = (time.perf_counter() - start) / sum(groups for _, groups in shares)
            before = self._group_s.get(sampler, cost)
            self._group_s[sampler] = before + 0.1 * (cost - before)
        self.calls += 1
        with self._changed:
            for (job, _), result in zip(shares, results, strict=True):
                if isinstance(result, Exception):
                    job.ended = True
                else:
                    job.drawn += len(result)
                    job.ended |= job.drawn == job.count
                if job.ended and job in self._jobs:
                    self._jobs.remove(job)
        for (job, _), result in zip(shares, results, strict=True):
            job.deliver(result)
