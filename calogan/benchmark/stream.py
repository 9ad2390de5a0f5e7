"""A stream: a process of its own with one generator, pinned to some cores, that draws showers when it is asked to.

Requests and answers pass through a pipe. A stream that is not asked waits without using a core, so several can be timed in
turn on the same core, or together on different ones.
"""

import hashlib
import multiprocessing
import os
import signal
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calogan import quiet
from calogan.benchmark import contenders
from calogan.benchmark.contenders import ENERGY, Contender, Draw
from calogan.errors import CaloganError, ServiceError
from calogan.events import Events, Hits

SEED = 1
_WARM = 256  # showers of the first large call
_GOLDEN = (5**0.5 - 1) / 2  # multiples of the golden ratio divide a circle most evenly
_PATIENCE_S = 600.0
_STOP_S = 10.0


@dataclass(frozen=True)
class Start:
    """How a stream started.

    Attributes:
        latency_s: from the start of its process to its first shower.
        memory_mb: resident memory after its first batch, 10^6 bytes.
        added_mb: part of it that came with the model, after the imports.
    """

    latency_s: float
    memory_mb: float
    added_mb: float


@dataclass(frozen=True)
class Span:
    """A timed run.

    Attributes:
        start, end: seconds of the machine's clock, the same for all processes.
        showers: number of showers drawn.
        memory_mb: resident memory at the end, 10^6 bytes.
    """

    start: float
    end: float
    showers: int
    memory_mb: float

    @property
    def ms_per_shower(self) -> float:
        """Wall time per shower, ms."""
        return 1000 * (self.end - self.start) / self.showers


class Stream:
    """The process of a stream, as seen by the one that asks.

    Attributes:
        contender: what it draws.
        start: how it started.
    """

    start: Start

    def __init__(self, contender: Contender, cores: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self.contender = contender
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, contender, list(cores), time.monotonic()), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        """Wait until it has drawn its first showers.

        Raises:
            ServiceError: it ended early.
        """
        try:
            self.start = self.answer()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def request(self, what: str, **arguments: Any) -> None:
        """Ask for one of the functions `draw`, `digest`, `network` and `sample`; `answer` waits for the result."""
        try:
            self._pipe.send((what, arguments))
        except OSError as error:
            raise self._ended() from error

    def answer(self) -> Any:
        """Wait for the result of the request before.

        Raises:
            ServiceError: the stream ended early, or does not answer.
            CaloganError: what the stream could not do.
        """
        try:
            if not self._pipe.poll(_PATIENCE_S):
                raise ServiceError(
                    f"{self.contender.name} did not answer within {_PATIENCE_S:.0f} s; is the machine busy?"
                )
            result = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(result, CaloganError):
            raise result
        return result

    def ask(self, what: str, **arguments: Any) -> Any:
        """Request something and wait for it."""
        self.request(what, **arguments)
        return self.answer()

    def _ended(self) -> ServiceError:
        self._process.join(_STOP_S)
        return ServiceError(
            f"the stream of {self.contender.name} ended early (exit code {self._process.exitcode}); is there enough memory?"
        )


def draw(sampler: Draw, *, batch: int, calls: int, first: int = 0, at: float = 0.0, sparse: bool = False) -> Span:
    """Draw showers in calls of `batch`, from the moment `at` of the machine's clock."""
    energy = energies(calls * batch, first)
    time.sleep(max(0.0, at - time.monotonic()))
    start = time.monotonic()
    for place in range(0, len(energy), batch):
        sampler(energy[place : place + batch], SEED, first + place, sparse)
    return Span(start, time.monotonic(), calls * batch, memory_mb())


def sample(sampler: Draw, *, showers: int, batch: int, sparse: bool = False) -> Events:
    """Draw showers in calls of `batch`, the same for every batch; returns all their cells."""
    energy = energies(showers)
    parts = [sampler(energy[first : first + batch], SEED, first, sparse) for first in range(0, showers, batch)]
    dense = [part.to_dense() if isinstance(part, Hits) else part for part in parts]
    return Events(np.concatenate([part.showers for part in dense]), energy)


def digest(sampler: Draw, *, showers: int, batch: int, sparse: bool = False) -> str:
    """Hash of the cells of `sample`."""
    return hashlib.sha256(sample(sampler, showers=showers, batch=batch, sparse=sparse).showers.tobytes()).hexdigest()


def energies(showers: int, first: int = 0) -> NDArray[np.float32]:
    """Energies of all contenders, GeV: flat over their range, and evenly spread in any number of neighbours."""
    share = np.arange(first, first + showers) * _GOLDEN % 1.0
    return np.asarray(ENERGY.low + (ENERGY.high - ENERGY.low) * share, np.float32)


def memory_mb() -> float:
    """Resident memory of this process, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _serve(pipe: Connection, contender: Contender, cores: list[int], started: float) -> None:
    """Run in the process of the stream until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches it too; the other process decides
    os.sched_setaffinity(0, cores)
    functions: dict[str, Callable[..., Any]] = {each.__name__: each for each in (draw, sample, digest)}
    try:
        try:
            with quiet.silence():
                contenders.prepare(contender)
                before = memory_mb()
                sampler = contenders.load(contender, len(cores))
                sampler(energies(1), SEED, 0, False)
                latency = time.monotonic() - started
                sampler(energies(_WARM), SEED, 0, False)
            pipe.send(Start(latency, memory_mb(), memory_mb() - before))
            network: types.SimpleNamespace | None = None
            while True:
                what, arguments = pipe.recv()
                if what == "network":
                    network = network or _network(contender)
                    pipe.send(_time_network(network, **arguments))
                else:
                    pipe.send(functions[what](sampler, **arguments))
        except CaloganError as error:
            pipe.send(error)
    except (EOFError, OSError):  # the other process has no more requests
        pass


def _network(contender: Contender) -> types.SimpleNamespace:
    """The part that is quantized, with inputs for a batch of generators."""
    from calogan.benchmark import precisions  # noqa: PLC0415 - TensorFlow, after the memory was measured
    from calogan.benchmark.peers import loading  # noqa: PLC0415
    from calogan.generation import model_folder  # noqa: PLC0415

    folder = model_folder.find(contender.folder or "")
    description = model_folder.read(folder)
    if contender.own_precision:
        network = precisions.tensorflow_network(folder, description, contender.precision)
    else:
        network = loading.load(folder, contender.precision).network
    return types.SimpleNamespace(
        run=network.run, size_mb=network.size_mb, features=precisions.network_features(folder, description, _WARM)
    )


def _time_network(network: types.SimpleNamespace, *, calls: int) -> tuple[float, float]:
    """Time per shower of the network alone, ms, and its size, 10^6 bytes."""
    start = time.monotonic()
    for _ in range(calls):
        network.run(network.features)
    return 1000 * (time.monotonic() - start) / (calls * len(network.features)), network.size_mb
