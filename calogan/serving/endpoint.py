"""One process that answers requests for showers: what it accepts, and what its requests share."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from calogan import __version__, provenance
from calogan.errors import RequestError
from calogan.events import Hits
from calogan.generation.random_numbers import SEED_MAX
from calogan.serving.answers import BusyError, SlowUploadError, TooLargeError, id_header, request_id
from calogan.serving.drawing import Drawing, Sampler
from calogan.serving.encodings import ARROW, Encoding
from calogan.serving.keys import KeyHolder, KeyRing
from calogan.serving.metrics import Meter, Metrics
from calogan.serving.orders import FIRST_MAX, Order, check_range
from calogan.serving.streaming import Report, ShowerResponse

_access = logging.getLogger("calogan.access")
BODY = "calogan.body"  # in the scope of a request whose body was read


@dataclass(frozen=True)
class Limits:
    """What one process accepts.

    Attributes:
        max_showers: largest number of showers in one request.
        max_energies: largest number of energies in a list.
        max_requests: requests that are drawn or sent at once.
        max_waiting: requests that wait for one of these places; others are refused at once.
        wait_s: seconds after which a waiting request is refused. Those that do not wait would come back all the
            sooner, and refusing them costs what serving others needs.
        max_uploads: requests whose body is being read at once.
        read_timeout_s: seconds in which the body of a request must arrive.
        send_timeout_s: seconds that a client may take to read what was sent to it before.
        max_production_showers: largest number of showers in a production.
        max_productions: productions of one client that are not finished.
    """

    max_showers: int = 1_000_000
    max_energies: int = 100_000
    max_requests: int = 64
    max_waiting: int = 1000
    wait_s: float = 1.0
    max_uploads: int = 256
    read_timeout_s: float = 10.0
    send_timeout_s: float = 60.0
    max_production_showers: int = 1_000_000_000
    max_productions: int = 16


class Endpoint:
    """What the routes share: generators, limits, and the requests that are running."""

    def __init__(
        self, samplers: Mapping[str, Sampler], *, keys: KeyRing, limits: Limits, meter: Meter, drawing: Drawing
    ) -> None:
        self.samplers, self.keys, self.limits, self.drawing = samplers, keys, limits, drawing
        self.default = "int8" if "int8" in samplers else next(iter(samplers))
        # Looked up once: the versions of six packages take 4 ms.
        self.provenance = provenance.header()
        self.metrics = Metrics(meter)
        self.encoder = ThreadPoolExecutor(limits.max_requests, thread_name_prefix="encoding")
        self.running = self.uploads = self.waiting = 0
        self._places = asyncio.Semaphore(limits.max_requests)
        for sampler in samplers.values():
            self.metrics.serve(model_labels(sampler))

    def sampler(self, precision: str | None) -> Sampler:
        """Return the generator of a precision, or the default one."""
        name = self.default if precision is None else precision
        if name not in self.samplers:
            raise RequestError(f"precision {name!r} is not served here; choose from {', '.join(self.samplers)}")
        return self.samplers[name]

    async def read_body(self, request: Request) -> bytes:
        """Read the body of a request, up to a limit of size and of time.

        Raises:
            TooLargeError: it is longer than that of any valid request.
            SlowUploadError: it did not arrive in time.
            BusyError: too many bodies are being read.
        """
        if BODY in request.scope:
            return bytes(request.scope[BODY])
        limit = 65_536 + 32 * min(self.limits.max_energies, self.limits.max_showers)
        if self.uploads >= self.limits.max_uploads:
            raise BusyError("too many requests are being sent at once; try again", retry_after_s=1)
        self.uploads += 1
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.read_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise TooLargeError(f"the body is longer than {limit} bytes; send several requests")
        except TimeoutError:
            raise SlowUploadError(
                f"the body did not arrive within {self.limits.read_timeout_s:g} s; send it at once"
            ) from None
        finally:
            self.uploads -= 1
        return bytes(body)

    def admit(self, order: Order, holder: KeyHolder, encoding: Encoding) -> None:
        """Check an order against all limits but that of the places.

        Raises:
            RequestError: it can never be met here.
            BusyError: the client must wait.
        """
        check_range(order.extremes(), self.sampler(order.precision).energy_range)
        allowed = {
            "in one request; send several, with the same seed and first": self.limits.max_showers,
            "with this key; send several requests": holder.max_showers,
            f"as {encoding.media_type}; accept {ARROW.media_type} for more": encoding.max_showers,
        }
        largest, reason = min((limit, reason) for reason, limit in allowed.items() if limit is not None)
        if order.count > largest:
            raise RequestError(f"{order.count} showers are more than the {largest} allowed {reason}")
        if order.first + order.count > FIRST_MAX:
            raise RequestError(f"first + n is {order.first + order.count}; expected at most 2^48")
        self.charge(holder, order.count)

    def charge(self, holder: KeyHolder, showers: int) -> None:
        """Count showers against the rate of a client.

        Raises:
            BusyError: it must wait.
        """
        if wait_s := self.keys.wait_s(holder, showers):
            raise BusyError(
                f"this key may ask for {holder.showers_per_s:g} showers/s; try again in {wait_s:.0f} s",
                retry_after_s=wait_s,
            )

    def count(self, sampler: Sampler, energy: NDArray[np.float32]) -> None:
        """Count drawn showers by their energies, shape (n,), GeV."""
        self.metrics.drawn(model_labels(sampler), energy)

    @property
    def precisions(self) -> list[str]:
        """The precisions that are served, the default one first."""
        return [self.default, *(name for name in self.samplers if name != self.default)]

    async def take_place(self) -> None:
        """Take a place for a request, which must give it back.

        Raises:
            BusyError: none becomes free in time.
        """
        if not await self._place():
            raise BusyError(
                f"all {self.limits.max_requests} places are taken; try again later", retry_after_s=self.drawing.wait_s()
            )

    async def _place(self) -> bool:
        if self._places.locked() and self.waiting >= self.limits.max_waiting:
            return False
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.wait_s):
                await self._places.acquire()
        except TimeoutError:
            return False
        finally:
            self.waiting -= 1
        return True

    def give_place_back(self) -> None:
        """Let another request have a place."""
        self._places.release()

    def seed(self, order: Order) -> int:
        """Return the seed of an order, or draw one."""
        return order.seed if order.seed is not None else secrets.randbelow(SEED_MAX)

    def respond(
        self,
        request: Request,
        order: Order,
        encoding: Encoding,
        client: str,
        *,
        seed: int,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make the response to an order that was admitted and has a place."""
        sampler = self.sampler(order.precision)
        ended = self._take(order, encoding, client, seed=seed, name=request_id(request))
        origin = {"model": sampler.name, "model_version": sampler.version, "precision": sampler.precision}
        span = {"seed": str(seed)} | ({"first": str(order.first)} if order.first else {})
        return ShowerResponse(
            self._parts(order, sampler, seed),
            order.count,
            encoding,
            self.provenance | span | origin,
            headers=self._headers(sampler, seed, order, encoding) | id_header(request) | dict(headers or {}),
            encoder=self.encoder,
            send_timeout_s=self.limits.send_timeout_s,
            ended=ended,
        )

    async def draw(self, order: Order, encoding: Encoding, client: str, *, seed: int, name: str) -> Hits:
        """Draw all showers of an order that was admitted and has a place.

        Args:
            order: the order.
            encoding: how its showers are sent, for the metrics.
            client: who asked for it.
            seed: its seed.
            name: ID of the request.
        """
        ended, since, outcome = self._take(order, encoding, client, seed=seed, name=name), time.perf_counter(), "failed"
        try:
            hits = Hits.concatenate([part async for part in self._parts(order, self.sampler(order.precision), seed)])
            outcome = "sent"
        except asyncio.CancelledError:
            outcome = "left"
            raise
        finally:
            ended(Report(outcome, time.perf_counter() - since, None))
        return hits

    async def _parts(self, order: Order, sampler: Sampler, seed: int) -> AsyncGenerator[Hits, None]:
        drawn = self.drawing.draw(
            sampler,
            seed=seed,
            first=order.first,
            count=order.count,
            energies=lambda start, n: order.draw(start, n, seed, sampler.energy_range),
        )
        async with contextlib.aclosing(drawn):
            async for part in drawn:
                self.count(sampler, part.energy)
                yield part

    def _take(self, order: Order, encoding: Encoding, client: str, *, seed: int, name: str) -> Callable[[Report], None]:
        """Count a request that runs; returns what is to be called at its end."""
        precision = self.sampler(order.precision).precision

        def ended(report: Report) -> None:
            self.running -= 1
            if report.first_s is not None:
                self.metrics.began(encoding.media_type, report.first_s)
            self.metrics.ended(client, encoding.media_type, report.outcome, report.seconds)
            facts = {"request_id": name, "client": client, "showers": order.count, "precision": precision}
            facts |= {"seed": seed, "first": order.first, "encoding": encoding.media_type, "outcome": report.outcome}
            facts |= {"seconds": round(report.seconds, 6)}
            _access.info("request %s: %d showers, %s", name, order.count, report.outcome, extra={"facts": facts})

        self.running += 1
        return ended

    def _headers(self, sampler: Sampler, seed: int, order: Order, encoding: Encoding) -> dict[str, str]:
        headers = {
            "X-Seed": str(seed),
            "X-First": str(order.first),
            "X-Showers": str(order.count),
            "X-Precision": sampler.precision,
            "X-Model": sampler.name,
            "X-Model-Version": sampler.version,
            "X-Calogan-Version": __version__,
            "X-Git-Commit": self.provenance["git_commit"],
            "Content-Disposition": f'attachment; filename="showers-{sampler.precision}-{seed}{encoding.suffix}"',
        }
        if encoding.dtype:
            headers |= {"X-Shape": f"{order.count},25,25,25", "X-Dtype": encoding.dtype}
        return headers


def model_labels(sampler: Sampler) -> dict[str, str]:
    """Labels of a generator in metrics."""
    return {"model": sampler.name, "version": sampler.version, "precision": sampler.precision}
