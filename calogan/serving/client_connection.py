"""The connection of a client to an endpoint: one, with its key, used again and again, with retries."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from calogan.errors import RequestError, ServiceError
from calogan.serving.keys import read_key

_REFUSED_REQUEST = frozenset({404, 406, 409, 413, 422, 507})
_REFUSED_KEY = frozenset({401, 403})
_LATER = frozenset({408, 429, 502, 503, 504})
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.1, 30.0
IS_IT_CALOGAN = "is it the address of a calogan endpoint?"


class TryAgainError(Exception):
    """The request may succeed later; its cause says why it did not."""

    def __init__(self, problem: ServiceError, *, wait_s: float | None = None) -> None:
        super().__init__(str(problem))
        self.problem, self.wait_s = problem, wait_s


class Connection:
    """A connection to an endpoint; nothing is sent before it is asked for something.

    Attributes:
        url: address of the endpoint.
        patience_s: seconds without progress after which a busy or broken endpoint is given up.
    """

    def __init__(self, url: str, key: str | None, *, timeout_s: float, patience_s: float) -> None:
        self.url = url.rstrip("/")
        self.patience_s, self._timeout_s = patience_s, timeout_s
        self._reached = False
        self._headers = {b"Authorization": f"Bearer {read_key() if key is None else key}".encode()}
        self._http = httpx.Client(timeout=timeout_s, limits=httpx.Limits(max_keepalive_connections=1))

    def close(self) -> None:
        """Close it."""
        self._http.close()

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send a request that may be sent again, until it is answered, and return the JSON object of the answer."""
        answers: list[dict[str, Any]] = []

        def call() -> None:
            with self.sent(method, path, body, accept="application/json", headers=headers) as response:
                response.read()
                try:
                    answers.append(dict(response.json()) if response.content else {})
                except (ValueError, TypeError) as error:
                    media_type = response.headers.get("content-type", "")
                    raise ServiceError(f"{self.stranger(media_type)} instead of JSON; {IS_IT_CALOGAN}") from error

        self.patiently(call)
        return answers[-1]

    def fetch(self, path: str, file: Path, *, size: int) -> None:
        """Fetch the content of a path into a file; after a broken connection, the rest of it."""

        def present() -> int:
            return file.stat().st_size if file.exists() else 0

        def call() -> None:
            if not size or present() < size:
                headers = {"Range": f"bytes={present()}-"} if present() else None
                with (
                    self.sent("GET", path, None, accept="*/*", headers=headers) as response,
                    file.open("ab" if response.status_code == 206 else "wb") as target,
                ):
                    for chunk in response.iter_raw():
                        target.write(chunk)

        self.patiently(call, present)

    def stranger(self, media_type: str) -> str:
        """Say that something unexpected answered."""
        return f"{self.url} answered {media_type or 'no content type'}"

    @contextlib.contextmanager
    def sent(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        accept: str,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request; yields its successful response."""
        sent = self._headers | {b"Accept": accept.encode()}
        sent |= {name.encode(): value.encode() for name, value in (headers or {}).items()}
        try:
            with self._http.stream(method, self.url + path, json=body, headers=sent) as response:
                self._reached = True
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                yield response
        except httpx.TimeoutException as error:
            problem = ServiceError(f"{self.url} did not answer within {self._timeout_s:g} s; is it overloaded?")
            raise TryAgainError(problem) from error
        except httpx.TransportError as error:
            problem = ServiceError(
                f"{self.url} cannot be reached ({error}); check the address, and whether the endpoint is running"
            )
            if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
                raise problem from error
            raise TryAgainError(problem) from error
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
            return TryAgainError(problem, wait_s=float(wait) if wait.isdecimal() else None)
        text = message or response.text[:200].strip()
        return ServiceError(f"{self.url} answered {status} {response.reason_phrase}: {text}")

    def patiently(self, call: Callable[[], None], done: Callable[[], int] = lambda: 0) -> None:
        """Call until it succeeds; `done` says how much is done, and each progress renews the patience."""
        waits, before = Waits(self.patience_s), done()
        while True:
            try:
                return call()
            except TryAgainError as error:
                # Nothing listens there: likely a wrong address.
                if isinstance(error.__cause__, httpx.ConnectError) and not self._reached:
                    raise error.problem from error.__cause__
                if done() > before:
                    waits, before = Waits(self.patience_s), done()
                waits.wait(error)


class Waits:
    """Waits that grow, until patience ends."""

    def __init__(self, patience_s: float) -> None:
        self._until, self._next_s = time.monotonic() + patience_s, _SHORTEST_WAIT_S

    def wait(self, error: TryAgainError) -> None:
        """Wait before the next attempt, or raise what is wrong."""
        # Random, so that clients that were refused together do not come back together.
        wait_s = max(error.wait_s or 0.0, self._next_s) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
        self._next_s = min(2 * self._next_s, _LONGEST_WAIT_S)
        if time.monotonic() + wait_s > self._until:
            raise error.problem from error
        time.sleep(wait_s)


def _message(response: httpx.Response) -> str | None:
    """Return the message of an error in the endpoint's format, or None if it has another format."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
