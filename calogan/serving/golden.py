"""The golden request: the same few showers again and again, to find a generator that does not work any more."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future

import numpy as np

from calogan.errors import ServiceError
from calogan.events import Hits
from calogan.serving.drawing import Drawing, Sampler

_SHOWERS, _SEED = 4, 0


class Golden:
    """The golden request of each generator; made, and answered for the first time, when an endpoint starts."""

    def __init__(self, drawing: Drawing, samplers: Mapping[str, Sampler]) -> None:
        """Draw the showers of every generator twice.

        Raises:
            ServiceError: they differ, or are not showers.
        """
        self._drawing, self._samplers = drawing, samplers
        self.checksums = {name: self._ask(sampler).result() for name, sampler in samplers.items()}
        self._trials: dict[str, Future[str]] = {}
        self._problem: Exception | None = None
        self._start()
        for future in self._trials.values():
            future.exception()
        self.check()

    def check(self) -> None:
        """Raise the error of the last trial, if any, and start another.

        A trial waits behind the requests, so that a busy endpoint is not mistaken for a broken one.

        Raises:
            ServiceError: the showers of a generator are not those of the start, or not showers.
        """
        if all(future.done() for future in self._trials.values()):
            self._problem = next(filter(None, map(self._problem_of, self._trials.items())), None)
            self._start()
        if self._problem:
            raise self._problem

    def _start(self) -> None:
        self._trials = {name: self._ask(sampler) for name, sampler in self._samplers.items()}

    def _problem_of(self, trial: tuple[str, Future[str]]) -> Exception | None:
        name, future = trial
        error = future.exception()
        if isinstance(error, Exception):
            return error
        if future.result() != self.checksums[name]:
            return ServiceError(f"the {name} generator gives other showers than at its start; restart this server")
        return None

    def _ask(self, sampler: Sampler) -> "Future[str]":
        allowed = sampler.energy_range
        energy = np.geomspace(allowed.low, allowed.high, _SHOWERS).clip(allowed.low, allowed.high).astype(np.float32)
        answer: Future[str] = Future()

        def finish(drawn: "Future[Hits]") -> None:
            try:
                answer.set_result(_checksum(drawn.result(), sampler))
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the answer gets it
                answer.set_exception(error)

        self._drawing.draw_all(sampler, energy, seed=_SEED).add_done_callback(finish)
        return answer


def _checksum(hits: Hits, sampler: Sampler) -> str:
    """SHA-256 of showers, as hexadecimal digits."""
    if not np.isfinite(hits.cell_energy).all():
        raise ServiceError(
            f"the {sampler.precision} generator {sampler.name} generates cells that are not finite numbers"
        )
    if not ((hits.sums > 0) & (hits.sums < hits.energy)).all():
        raise ServiceError(
            f"the {sampler.precision} generator {sampler.name} generates showers of impossible energies "
            f"({hits.sums} GeV for {hits.energy} GeV)"
        )
    digest = hashlib.sha256()
    for array in (hits.offsets, hits.cell, hits.cell_energy):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
