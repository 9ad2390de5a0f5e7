"""Ask a running endpoint for any number of showers.

A client sends a seed with every request, so that a request can be sent again: showers depend on their model, energy, seed
and index only. What arrived before a connection broke is kept, and the rest asked for.
"""

import contextlib
import io
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import httpx
import pyarrow as pa

from calogan.errors import EventsError, RequestError, ServiceError
from calogan.events import Events, Hits, hit_tables
from calogan.serving.client_orders import ClientOrder, Energy, client_order
from calogan.serving.encodings import ARROW
from calogan.serving.keys import read_key

_REFUSED_REQUEST = frozenset({406, 413, 422})
_REFUSED_KEY = frozenset({401, 403})
_LATER = frozenset({408, 429, 502, 503, 504})
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.1, 30.0
_BUFFER = 1 << 20  # bytes

Progress = Callable[[int], None]


class _TryAgainError(Exception):
    """The request may succeed later; its cause says why it did not."""

    def __init__(self, problem: ServiceError, *, wait_s: float | None = None) -> None:
        super().__init__(str(problem))
        self.problem, self.wait_s = problem, wait_s


class Client:
    """A connection to an endpoint.

    Example:
        with Client("http://127.0.0.1:8000", key) as client:
            for events in client.showers(energy="2:500", n=1_000_000, seed=1, progress=True):
                ...
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 60.0, patience_s: float = 120.0) -> None:
        """Prepare a client; nothing is sent before it is asked for something.

        Args:
            url: address of the endpoint, for example http://127.0.0.1:8000.
            key: key of the endpoint; that of the environment variable CALOGAN_API_KEY if None.
            timeout_s: seconds to wait for a connection, and for the next bytes.
            patience_s: seconds without a shower after which a busy or broken endpoint is given up; 0 for no retries.
        """
        self.url = url.rstrip("/")
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._headers = {b"Authorization": f"Bearer {read_key() if key is None else key}".encode()}
        self._http = httpx.Client(timeout=timeout_s, limits=httpx.Limits(max_keepalive_connections=1))
        self._known: list[dict[str, Any]] = []
        self._largest = 1
        self._server: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def describe(self, precision: str | None = None) -> dict[str, str]:
        """Return the provenance of the showers of a precision: model, version, and the software of the endpoint.

        Raises:
            RequestError: the precision is not served.
            ServiceError: see `hits`.
        """
        if not self._known:
            self._patiently(self._read_models)
        served = [str(model["precision"]) for model in self._known]
        for model in self._known:
            if model["precision"] == precision or (precision is None and model["default"]):
                origin = {"generator": model["name"], "model_version": model["version"]}
                return self._server | origin | {"precision": model["precision"], "endpoint": self.url}
        raise RequestError(f"precision {precision!r} is not served at {self.url}; choose from {', '.join(served)}")

    def hits(
        self,
        *,
        energy: Energy,
        n: int | None = None,
        seed: int | None = None,
        first: int = 0,
        precision: str | None = None,
        progress: bool | Progress = False,
    ) -> Iterator[Hits]:
        """Ask for showers and yield their hits in order, a few hundred showers at a time.

        Args:
            energy: GeV: one number; a list with one for each shower; or a spectrum, as `2:500`, `log:2:500`,
                or an object of the API such as {"law": "gaussian", "mean": 100, "sigma": 10}.
            n: number of showers; 1 by default, or the length of the list.
            seed: equal seeds give equal showers; None draws one.
            first: index of the first shower, so that a seed can span several calls.
            precision: the precision of the model; None for the endpoint's default.
            progress: True for a progress bar, or a function called with the number of showers of each part.

        Raises:
            RequestError: the endpoint rejects the request, for example because an energy is out of range.
            ServiceError: the endpoint cannot be reached, refuses the key, stays busy, changes its model, or sends
                something else than showers.
        """
        order = client_order(energy, n, seed, first, precision)
        parts = self._parts(order)
        yield from _with_bar(parts, order.n) if progress is True else _with_progress(parts, progress or None)

    def showers(self, **arguments: Any) -> Iterator[Events]:
        """Ask for showers with all their cells; arguments and errors are those of `hits`."""
        for hits in self.hits(**arguments):
            yield hits.to_dense()

    def sample(self, **arguments: Any) -> Events:
        """Ask for showers and return them all at once; arguments and errors are those of `hits`."""
        return Hits.concatenate(list(self.hits(**arguments))).to_dense()

    def _parts(self, order: ClientOrder) -> Iterator[Hits]:
        version = self.describe(order.precision)["model_version"]
        done, waits = 0, _Waits(self._patience_s)
        while done < order.n:
            try:
                for hits in self._request(order, done, version):
                    order.check(hits, done)
                    done += len(hits)
                    waits = _Waits(self._patience_s)
                    yield hits
            except _TryAgainError as error:
                waits.wait(error)

    def _request(self, order: ClientOrder, done: int, version: str) -> Iterator[Hits]:
        """Send one request and yield what arrives."""
        body, expected = order.body(done, self._largest)
        with self._sent("POST", "/v1/showers", body) as response:
            media_type = response.headers.get("content-type", "")
            if media_type != ARROW.media_type:
                raise ServiceError(f"{self._stranger(media_type)} instead of showers; {_IS_IT_CALOGAN}")
            served = response.headers.get("x-model-version", version)
            if served != version:
                raise ServiceError(
                    f"{self.url} now serves version {served} of the model, not {version} as before; "
                    "its showers do not belong together: start again"
                )
            body_file = io.BufferedReader(_Body(response.iter_raw()), _BUFFER)
            try:
                with pa.ipc.open_stream(body_file) as stream:
                    for batch in stream:
                        hits = hit_tables.to_hits(batch, origin="Arrow")
                        expected -= len(hits)
                        yield hits
            except (EventsError, pa.ArrowException) as error:
                raise ServiceError(f"{self.url} sent something else than showers: {error}") from error
        if expected > 0:
            raise _TryAgainError(ServiceError(f"{self.url} sent {expected} showers too few"))
        if expected < 0:
            raise ServiceError(f"{self.url} sent {-expected} showers too many")

    def _read_models(self) -> None:
        with self._sent("GET", "/v1/models", None) as response:
            media_type = response.headers.get("content-type", "")
            try:
                response.read()
                content = response.json()
                self._known, self._server = list(content["models"]), dict(content["server"])
                self._largest = int(content["max_showers"])
            except (ValueError, KeyError, TypeError) as error:
                raise ServiceError(f"{self._stranger(media_type)} instead of its models; {_IS_IT_CALOGAN}") from error

    def _stranger(self, media_type: str) -> str:
        return f"{self.url} answered {media_type or 'no content type'}"

    @contextlib.contextmanager
    def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> Iterator[httpx.Response]:
        """Send a request; yields its successful response."""
        headers = self._headers | {b"Accept": ARROW.media_type.encode() if body else b"application/json"}
        try:
            with self._http.stream(method, self.url + path, json=body, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                yield response
        except httpx.TimeoutException as error:
            problem = ServiceError(f"{self.url} did not answer within {self._timeout_s:g} s; is it overloaded?")
            raise _TryAgainError(problem) from error
        except httpx.TransportError as error:
            problem = ServiceError(
                f"{self.url} cannot be reached ({error}); check the address, and whether the endpoint is running"
            )
            if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
                raise problem from error
            raise _TryAgainError(problem) from error
        except httpx.InvalidURL as error:
            raise ServiceError(
                f"{self.url!r} is not an address ({error}); expected one like http://127.0.0.1:8000"
            ) from error

    def _refusal(self, response: httpx.Response) -> Exception:
        status, message = response.status_code, _message(response)
        if status in _REFUSED_REQUEST and message is not None:
            return RequestError(message)
        if status in _REFUSED_KEY:
            return ServiceError(f"{self.url} refused the key: {message or response.reason_phrase}")
        if status in _LATER or (status == 500 and message is None):  # Ray's own answer when a replica dies
            wait = response.headers.get("retry-after", "")
            problem = ServiceError(f"{self.url} is busy or not ready ({message or response.reason_phrase})")
            return _TryAgainError(problem, wait_s=float(wait) if wait.isdecimal() else None)
        text = message or response.text[:200].strip()
        return ServiceError(f"{self.url} answered {status} {response.reason_phrase}: {text}")

    def _patiently(self, call: Callable[[], None]) -> None:
        waits = _Waits(self._patience_s)
        while True:
            try:
                return call()
            except _TryAgainError as error:
                if isinstance(error.__cause__, httpx.ConnectError):  # nothing listens there: likely a wrong address
                    raise error.problem from error.__cause__
                waits.wait(error)


_IS_IT_CALOGAN = "is it the address of a calogan endpoint?"


class _Waits:
    """Waits that grow, until patience ends."""

    def __init__(self, patience_s: float) -> None:
        self._until, self._next_s = time.monotonic() + patience_s, _SHORTEST_WAIT_S

    def wait(self, error: _TryAgainError) -> None:
        """Wait before the next attempt, or raise what is wrong."""
        # Random, so that clients that were refused together do not come back together.
        wait_s = max(error.wait_s or 0.0, self._next_s) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
        self._next_s = min(2 * self._next_s, _LONGEST_WAIT_S)
        if time.monotonic() + wait_s > self._until:
            raise error.problem from error
        time.sleep(wait_s)


class _Body(io.RawIOBase):
    """The body of a response as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        n = min(len(target), len(self._left))
        target[:n] = self._left[:n]
        self._left = self._left[n:]
        return n


def _with_progress(parts: Iterator[Hits], progress: Progress | None) -> Iterator[Hits]:
    for hits in parts:
        yield hits
        if progress:
            progress(len(hits))


def _with_bar(parts: Iterator[Hits], n: int) -> Iterator[Hits]:
    from rich.progress import Progress as Bars  # noqa: PLC0415 - most calls show no bar

    with Bars() as bars:
        task = bars.add_task("showers", total=n)
        yield from _with_progress(parts, lambda count: bars.advance(task, count))


def _message(response: httpx.Response) -> str | None:
    """Return the message of an error in the endpoint's format, or None if it has another format."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
