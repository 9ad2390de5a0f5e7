"""Reserve a core of this machine for one measurement at a time, across processes."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calogan.errors import ServiceError

_POLL_S = 0.1


@contextlib.contextmanager
def own_core(*, patience: float = 900) -> Iterator[int]:
    """Pin this thread, and the threads it starts, to a core that no other process has reserved; yields its number.

    The reservation is a socket bound to the core's name: the kernel releases it even if the process is killed.

    Args:
        patience: seconds to wait for a core to become free.

    Raises:
        ServiceError: none became free.
    """
    allowed = os.sched_getaffinity(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        core = _take(lock, sorted(allowed), time.monotonic() + patience)
        with _pinned(core, {threading.get_native_id()}):
            yield core


def _take(lock: socket.socket, cores: list[int], end: float) -> int:
    while True:
        for core in cores:
            with contextlib.suppress(OSError):  # another process holds it
                lock.bind(f"\0calogan/core/{core}")  # Linux's abstract namespace: the name is no file
                return core
        if time.monotonic() > end:
            raise ServiceError(
                f"all {len(cores)} cores this process may use are taken by other measurements; try again when they "
                "have ended, or run fewer at once (--parallel)"
            )
        time.sleep(_POLL_S)


def elapsed_ms(call: Callable[[], Any]) -> float:
    """Wall time of a call, ms."""
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Pin this process, and the threads TensorFlow starts meanwhile, to one core; restores the affinities on exit."""
    with _pinned(max(os.sched_getaffinity(0)), _threads()):
        yield


@contextlib.contextmanager
def _pinned(core: int, threads: set[int]) -> Iterator[None]:
    """Pin threads, and those they start, to a core; on exit each gets its cores back, new ones those of this thread."""
    # One thread at a time: Linux has no call for a whole process, and a thread inherits the cores of its parent.
    earlier = _threads()
    allowed = os.sched_getaffinity(0)
    before: dict[int, set[int]] = {}
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, {core})
    try:
        yield
    finally:
        for thread in _threads():
            with contextlib.suppress(ProcessLookupError):
                if thread in before:
                    os.sched_setaffinity(thread, before[thread])
                elif thread not in earlier and os.sched_getaffinity(thread) == {core}:
                    os.sched_setaffinity(thread, allowed)


def _threads() -> set[int]:
    """Linux thread IDs of this process."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}
