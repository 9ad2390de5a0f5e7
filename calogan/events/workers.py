"""Make the shards of a production on all cores of this machine, in processes that are pinned to a core each."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue

from calogan.errors import OutputError
from calogan.events.productions import Shard

DEATHS = 3  # of workers, one after another, without a shard in between


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def make_all(shards: Sequence[Shard], make: Callable[[Shard], Shard], *, workers: int) -> Iterator[Shard]:
    """Make shards in parallel; yields each when it is finished.

    The shards of a worker that dies are made again by others.

    Args:
        shards: the shards to make.
        make: makes one; it is sent to other processes, so it must be a function of a module or a partial of one.
        workers: number of processes.

    Raises:
        OutputError: worker after worker died.
        CaloganError: a shard could not be made.
    """
    missing, deaths = {shard.file: shard for shard in shards}, 0
    while missing:
        try:
            for shard in _make_some(list(missing.values()), make, min(workers, len(missing))):
                del missing[shard.file]
                deaths = 0
                yield shard
        except BrokenProcessPool as error:
            deaths += 1
            if deaths > DEATHS:
                raise OutputError(
                    f"{deaths} workers died one after another, for want of memory or killed; run the command again, "
                    "with fewer workers (--workers)"
                ) from error


def _make_some(shards: list[Shard], make: Callable[[Shard], Shard], workers: int) -> Iterator[Shard]:
    context = multiprocessing.get_context("spawn")
    places: Queue[int] = context.Queue()
    allowed = sorted(os.sched_getaffinity(0))
    for number in range(workers):
        places.put(allowed[number % len(allowed)])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(places,))
    waiting, running = iter(shards), set[Future[Shard]]()
    try:
        while True:
            # Not all at once: those that have not begun are not there to be cancelled.
            running |= {pool.submit(_made, make, shard) for _, shard in zip(range(2 * workers - len(running)), waiting)}  # noqa: B905
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BaseException:
        _stop(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _stop(pool: ProcessPoolExecutor) -> None:
    """Stop the workers, which remove what they have half written."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


def _start(places: "Queue[int]") -> None:
    """Prepare a worker: pin it, and let it end with the process that started it."""
    os.sched_setaffinity(0, {places.get()})
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one stops the others
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _made(make: Callable[[Shard], Shard], shard: Shard) -> Shard:
    try:
        return make(shard)
    except SystemExit:  # the pool would take it for an error of this shard and go on with the next
        os._exit(128 + signal.SIGTERM)


def _end(number: int, _: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
