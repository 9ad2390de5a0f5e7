"""What stands before the routes that draw showers: a request waits here for its place, once its body is whole.

In an overload most of the work would go into requests that are refused in the end. Here they have cost next to nothing.
"""

import logging
import re

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from calogan.errors import CaloganError
from calogan.serving.answers import answer_error, request_id
from calogan.serving.endpoint import BODY, Endpoint
from calogan.serving.keys import sent_keys

_access = logging.getLogger("calogan.access")
_DRAWS = re.compile(r"/v1/showers|/v2/models/[^/]+(/versions/[^/]+)?/infer")


class Doorman:
    """Reads the body of a request for showers, and lets it in when there is a place."""

    def __init__(self, app: ASGIApp, endpoint: Endpoint) -> None:
        self._app, self._endpoint = app, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self._applies(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            scope[BODY] = await self._endpoint.read_body(request)
            await self._endpoint.take_place()
        except ClientDisconnect:  # no error, and nobody reads an answer
            _access.info("request %s: the client left before its body was complete", request_id(request))
            return
        except CaloganError as error:
            await (await answer_error(request, error))(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._endpoint.give_place_back()

    def _applies(self, scope: Scope) -> bool:
        """Whether it asks for showers, with a key; without one it must not take what others wait for."""
        if scope["method"] != "POST" or not _DRAWS.fullmatch(scope["path"]):
            return False
        keys = sent_keys(Headers(scope=scope))
        return bool(keys) and all(self._endpoint.keys.find(key) for key in keys)
