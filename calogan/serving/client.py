"""Ask a running endpoint for any number of showers.

A client sends a seed with every request, so that a request can be sent again: showers depend on their model, energy, seed
and index only. What arrived before a connection broke is kept, and the rest asked for.
"""

import io
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import pyarrow as pa

from calogan.errors import EventsError, RequestError, ServiceError
from calogan.events import Events, Hits, hit_tables
from calogan.serving.client_connection import IS_IT_CALOGAN, Connection, TryAgainError, Waits
from calogan.serving.client_orders import ClientOrder, Energy, client_order
from calogan.serving.client_productions import RemoteProduction
from calogan.serving.encodings import ARROW

_BUFFER = 1 << 20  # bytes

Progress = Callable[[int], None]


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
        self._connection = Connection(url, key, timeout_s=timeout_s, patience_s=patience_s)
        self.url = self._connection.url
        self._known: list[dict[str, Any]] = []
        self._largest = 1
        self._server: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def describe(self, precision: str | None = None) -> dict[str, str]:
        """Return the provenance of the showers of a precision: model, version, and the software of the endpoint.

        Raises:
            RequestError: the precision is not served.
            ServiceError: see `hits`.
        """
        if not self._known:
            self._connection.patiently(self._read_models)
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

    def production(
        self,
        *,
        energy: float | str | Mapping[str, Any],
        n: int,
        seed: int | None = None,
        precision: str | None = None,
        format: str = "arrow",
        shard_showers: int | None = None,
        key: str | None = None,
    ) -> RemoteProduction:
        """Let the endpoint make a large sample on its own, as shards to fetch.

        Args:
            energy: GeV: one number, or a spectrum as in `hits`.
            n: number of showers.
            seed: equal seeds give equal bytes; None lets the endpoint draw one.
            precision: the precision of the model; None for the endpoint's default.
            format: format of the shards, see `calogan.events`.
            shard_showers: showers in a shard; None for the endpoint's default.
            key: name of this production among this client's: a call with the same one finds the production of the
                first call instead of making another one. None for a new production.

        Raises:
            RequestError: the endpoint rejects the order, or makes no productions.
            ServiceError: see `hits`.
        """
        order = client_order(energy, n, seed, 0, precision)
        if not isinstance(order.energy, float | dict):
            raise RequestError("the energy of a production is a number or a spectrum, not a list")
        body = {"energy": order.energy, "n": n, "format": format}
        optional = {"seed": seed, "precision": precision, "shard_showers": shard_showers}
        body |= {name: value for name, value in optional.items() if value is not None}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}  # so that it may be sent again
        return RemoteProduction(
            self._connection, self._connection.ask("POST", "/v1/productions", body, headers=headers)["id"]
        )

    def productions(self) -> list[RemoteProduction]:
        """The productions of this client at the endpoint, in the order of their creation."""
        listed = self._connection.ask("GET", "/v1/productions")["productions"]
        return [RemoteProduction(self._connection, production["id"]) for production in listed]

    def _parts(self, order: ClientOrder) -> Iterator[Hits]:
        version = self.describe(order.precision)["model_version"]
        done, waits = 0, Waits(self._connection.patience_s)
        while done < order.n:
            try:
                for hits in self._request(order, done, version):
                    order.check(hits, done)
                    done += len(hits)
                    waits = Waits(self._connection.patience_s)
                    yield hits
            except TryAgainError as error:
                waits.wait(error)

    def _request(self, order: ClientOrder, done: int, version: str) -> Iterator[Hits]:
        """Send one request and yield what arrives."""
        body, expected = order.body(done, self._largest)
        with self._connection.sent("POST", "/v1/showers", body, accept=ARROW.media_type) as response:
            media_type = response.headers.get("content-type", "")
            if media_type != ARROW.media_type:
                raise ServiceError(f"{self._connection.stranger(media_type)} instead of showers; {IS_IT_CALOGAN}")
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
            raise TryAgainError(ServiceError(f"{self.url} sent {expected} showers too few"))
        if expected < 0:
            raise ServiceError(f"{self.url} sent {-expected} showers too many")

    def _read_models(self) -> None:
        with self._connection.sent("GET", "/v1/models", None, accept="application/json") as response:
            media_type = response.headers.get("content-type", "")
            try:
                response.read()
                content = response.json()
                self._known, self._server = list(content["models"]), dict(content["server"])
                self._largest = int(content["max_showers"])
            except (ValueError, KeyError, TypeError) as error:
                raise ServiceError(
                    f"{self._connection.stranger(media_type)} instead of its models; {IS_IT_CALOGAN}"
                ) from error


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
