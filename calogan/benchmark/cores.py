"""A core of this machine for one measurement at a time, whoever else measures on it."""

import contextlib
import os
import socket
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
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        core = _take(held, sorted(allowed), time.monotonic() + patience)
        os.sched_setaffinity(0, {core})
        try:
            yield core
        finally:
            os.sched_setaffinity(0, allowed)


def _take(held: socket.socket, cores: list[int], end: float) -> int:
    while True:
        for core in cores:
            with contextlib.suppress(OSError):  # another process holds it
                held.bind(f"\0calogan/core/{core}")  # a name that is no file: Linux's abstract namespace
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
    """Keep this process, with the threads TensorFlow starts meanwhile, on one core."""
    allowed = os.sched_getaffinity(0)
    _pin({max(allowed)})
    try:
        yield
    finally:
        _pin(allowed)


def _pin(cores: set[int]) -> None:
    # Thread by thread: Linux has no call for a whole process, and a thread keeps the cores it was started with.
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)
