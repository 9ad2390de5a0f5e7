"""One thread that makes the shards of all productions, by the drawing thread that also serves requests.

Productions take turns, a shard each. Replicas that share the folder divide the shards by claims, and each of them goes on
with what another one left, after a restart as well.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any

from calogan.errors import OutputError
from calogan.events import Hits, productions
from calogan.events.hits import regroup
from calogan.events.productions import MANIFEST, Production, Shard
from calogan.generation.shards import PART
from calogan.serving.drawing import Drawing, Sampler
from calogan.serving.production_store import Claim, Entry, Store

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # how often a producer without work looks for productions of other replicas
_RETRY_S = 30.0  # after a shard that could not be made

Count = Callable[[Sampler, Any], None]


class _Stopped(Exception):  # noqa: N818 - not an error
    """The server stops, or the production was removed."""


class Producer:
    """The thread, and the productions it works on."""

    def __init__(self, store: Store, samplers: Mapping[str, Sampler], drawing: Drawing) -> None:
        """Prepare a producer.

        Args:
            store: the productions.
            samplers: the generators, by precision.
            drawing: draws the showers.
        """
        self.store = store
        self.count: Count = lambda *_: None  # called with the energies of the showers of each part
        self._samplers, self._drawing = samplers, drawing
        self._missing: dict[str, deque[Shard]] = {}
        self._resting: dict[str, float] = {}  # until when
        self._stop, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="productions", daemon=True)

    def start(self) -> None:
        """Start to make shards."""
        self._thread.start()

    def stop(self) -> None:
        """Give up the shard that is being made, and end."""
        self._stop.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look for new productions now."""
        self._changed.set()

    def serves(self, plan: Production) -> bool:
        """Whether the model of a production is here, in its version."""
        sampler = self._samplers.get(plan.settings["precision"])
        return sampler is not None and (sampler.name, sampler.version) == (
            plan.generator,
            plan.settings["model_version"],
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            self._changed.clear()
            try:
                worked = [self._advance(entry) for entry in self.store.entries(unfinished=True)]
            except Exception:  # noqa: BLE001 - the thread must live on
                _log.exception("the productions cannot be read")
                worked = []
            if not any(worked):
                self.store.sweep()
                self._changed.wait(_LOOK_S)

    def _advance(self, entry: Entry) -> bool:
        """Make one shard of a production, or its manifest; returns whether there was something to do."""
        if self._stop.is_set() or not self.serves(entry.plan) or time.monotonic() < self._resting.get(entry.id, 0.0):
            return False
        try:
            return self._make_next(entry)
        except _Stopped:
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            if not entry.folder.exists() or (entry.folder / MANIFEST).exists():
                return False  # removed, or finished by another replica
            self._resting[entry.id] = time.monotonic() + _RETRY_S
            _log.exception("production %s: a shard cannot be made", entry.id)
            self.store.report(entry, _public(error))
            return False

    def _make_next(self, entry: Entry) -> bool:
        missing = self._missing.get(entry.id)
        if not missing:
            missing = self._missing[entry.id] = deque(productions.begin(entry.folder, entry.plan))
            if not missing:
                with self.store.claim(entry, MANIFEST) as claim:
                    if claim:
                        productions.finish(entry.folder, entry.plan)
                        self.store.settle(entry)
                        _log.info("production %s: finished", entry.id)
                self._missing.pop(entry.id)
                return claim is not None
        while missing:
            shard = missing.popleft()
            if not self.store.is_missing(entry, shard):
                continue
            with self.store.claim(entry, shard.file) as claim:
                if claim:
                    self._make(entry, shard, claim)
                    return True
        return False  # the others are being made by other replicas

    def _make(self, entry: Entry, shard: Shard, claim: Claim) -> None:
        with contextlib.closing(self._draw(entry.plan, shard, claim)) as parts:
            try:
                productions.write_shard(entry.folder, entry.plan, shard, regroup(parts, PART))
            except BaseException:
                self._missing[entry.id].appendleft(shard)
                raise
        self.store.report(entry, None)

    def _draw(self, plan: Production, shard: Shard, claim: Claim) -> Generator[Hits, None, None]:
        sampler = self._samplers[plan.settings["precision"]]
        parts = self._drawing.draw_here(
            sampler,
            seed=plan.seed,
            first=shard.first,
            count=shard.showers,
            energies=lambda start, n: plan.energy.draw(n, plan.seed, first=shard.first + start),
        )
        with contextlib.closing(parts):
            for hits in parts:
                if self._stop.is_set() or not claim.renew():
                    raise _Stopped
                self.count(sampler, hits.energy)
                yield hits


def _public(error: Exception) -> str:
    """Say what went wrong, without paths of the server."""
    cause = error.__cause__
    if isinstance(error, OutputError) and isinstance(cause, OSError):
        return f"a shard cannot be written ({cause.strerror or 'input or output failed'}); it is tried again"
    return "a shard cannot be made; the log of the server says why, and it is tried again"
