"""A core of this machine for one measurement at a time, whoever else measures on it."""

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
    """Keep this thread, with those it starts, on a core that no other process holds this way; yields its number.

    A core is held by a socket bound to its name, which ends with the process however that ends.

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
                lock.bind(f"\0calogan/core/{core}")  # a name that is no file: Linux's abstract namespace
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
    """Keep this process, with the threads TensorFlow starts meanwhile, on one core; afterwards all is as it was."""
    with _pinned(max(os.sched_getaffinity(0)), _threads()):
        yield


@contextlib.contextmanager
def _pinned(core: int, threads: set[int]) -> Iterator[None]:
    """Keep threads, with those they start, on a core; then each has its cores again, new ones those of this thread."""
    # Thread by thread: Linux has no call for a whole process, and a thread keeps the cores it was started with.
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
    """Numbers of the threads of this process, as Linux calls them."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}
