"""What stands before Ray Serve's proxy: bodies are read whole before a replica sees them, and errors have our form.

Ray gives a request to a replica when its first bytes arrive, where it takes one of the few places while it waits for the
rest. And Ray's own errors, for example that all places are taken or that a replica died, are plain text. Set
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=calogan.serving.edge:middlewares in the environment of `ray start`.
"""

import asyncio
import os
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calogan.serving.answers import error_response, fit_id

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "calogan.serving.edge:middlewares"
READ_TIMEOUT_VARIABLE = "CALOGAN_READ_TIMEOUT_S"
_BODY_LIMIT = 4 << 20  # bytes; above the limit of any endpoint, which says itself what is too long
_MESSAGES = {
    429: "all places are taken; try again later",
    500: "the replica that drew these showers is gone; try again",
    503: "no replica can answer now; try again later",
}


def middlewares() -> list[Middleware]:
    """Middlewares of Ray's HTTP proxy, in the form it asks for."""
    return [Middleware(Edge, read_timeout_s=float(os.environ.get(READ_TIMEOUT_VARIABLE, "10")))]


class Edge:
    """Reads a request whole, with a time limit, before anything else sees it, and gives errors our form."""

    def __init__(self, app: ASGIApp, *, read_timeout_s: float) -> None:
        self._app, self._read_timeout_s = app, read_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        name = fit_id(Headers(scope=scope).get("x-request-id", ""))
        try:
            async with asyncio.timeout(self._read_timeout_s):
                body = await _read(receive)
        except TimeoutError:
            message = f"the body did not arrive within {self._read_timeout_s:g} s; send it at once"
            await error_response(408, message, request_id=name, headers={"X-Request-Id": name})(scope, receive, send)
            return
        if body is None:
            return  # the client left
        if len(body) > _BODY_LIMIT:
            message = f"the body is longer than {_BODY_LIMIT} bytes; send several requests"
            await error_response(413, message, request_id=name, headers={"X-Request-Id": name})(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), _Translated(scope, receive, send, name))


class _Translated:
    """Sends what comes from Ray, but its plain-text errors in our form."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        self._scope, self._receive, self._send, self._name = scope, receive, send, name
        self._replaced = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] in _MESSAGES:
            headers = Headers(raw=message["headers"])
            if not headers.get("content-type", "").startswith("application/json"):
                self._replaced = True
                status = 503 if message["status"] == 500 else message["status"]
                name = headers.get("x-request-id", self._name)
                answer = error_response(
                    status, _MESSAGES[message["status"]], request_id=name, headers={"X-Request-Id": name}
                )
                await answer(self._scope, self._receive, self._send)
        if not self._replaced:
            await self._send(message)


async def _read(receive: Receive) -> bytes | None:
    """Read a body, a little beyond the limit at most; returns None if the client left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > _BODY_LIMIT:
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Make the `receive` of a request whose body was read."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
