"""Answers that are no showers: the one form of errors, and the ID of a request."""

import logging
import re
import uuid
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from calogan.errors import CaloganError, RequestError, ServiceError

_log = logging.getLogger(__name__)

ERROR_TYPES = {
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "busy",
    500: "internal",
    503: "unavailable",
    507: "no_room",
}
_MAX_ID_LENGTH = 128
_NEVER_READ = frozenset({408, 413})  # the rest of the body may still come: only a new connection is clean


class UnauthorizedError(RequestError):
    """The request has no key, or a wrong one."""

    http_status = 401


class SlowUploadError(RequestError):
    """The body of the request did not arrive in time."""

    http_status = 408


class TooLargeError(RequestError):
    """The body of the request is longer than that of any valid request, or it asks for more than the key allows."""

    http_status = 413


class MediaTypeError(RequestError):
    """The body of the request has a media type that is not read here."""

    http_status = 415


class BusyError(ServiceError):
    """The request can be met later."""

    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ErrorInfo(BaseModel):
    """What went wrong."""

    type: str = Field(examples=["invalid_request"])
    message: str = Field(examples=["n: Input should be greater than or equal to 1"])
    request_id: str


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorInfo


def error_response(
    status: int, message: str, *, request_id: str, headers: dict[str, str] | None = None, retry_after_s: float = 1.0
) -> JSONResponse:
    """Make the response of an error.

    Args:
        status: HTTP status.
        message: one line that the client can act on.
        request_id: ID of the request.
        headers: further headers.
        retry_after_s: seconds after which the client may try again, sent with 429 and 503.
    """
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in {429, 503}:
        headers["Retry-After"] = str(max(1, round(retry_after_s + 0.5)))
    if status in _NEVER_READ:
        headers["Connection"] = "close"
    info = ErrorInfo(type=ERROR_TYPES.get(status, "error"), message=message, request_id=request_id)
    return JSONResponse(ErrorBody(error=info).model_dump(), status_code=status, headers=headers)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Turn an exception into a response; nothing else does."""
    headers, name, retry_after_s = id_header(request), request_id(request), 1.0
    match error:
        case CaloganError():
            status, message = error.http_status, str(error)
            if isinstance(error, BusyError):
                retry_after_s = error.retry_after_s
            if status >= 500:
                _log.error("request %s failed: %s", name, message)
        case RequestValidationError():  # of a path, a query or a header
            problem = error.errors()[0]
            status, message = 422, f"{'.'.join(map(str, problem['loc']))[:80]}: {problem['msg']}"
        case HTTPException():
            status, message = error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}; see /docs"
            headers |= error.headers or {}
            if status == 405 and (methods := _methods(request)):  # Starlette names those of one route only
                headers["Allow"] = ", ".join(sorted(methods))
        case _:
            _log.error("request %s failed", name, exc_info=error)
            status, message = 500, "the server failed; report the request_id to its operator"
            # Starlette re-raises the exception for the server's log, and uvicorn then closes the connection.
            headers["Connection"] = "close"
    answer = error_response(status, message, request_id=name, headers=headers, retry_after_s=retry_after_s)
    if request.url.path.startswith("/v2"):  # the Open Inference Protocol has a form of its own
        answer = JSONResponse({"error": message}, status_code=status, headers=_without_length(answer))
    return answer


def _methods(request: Request) -> set[str]:
    """Methods that the path of a request has."""
    paths: dict[str, Any] = request.app.openapi()["paths"]
    found: set[str] = set()
    for path, methods in paths.items():
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)), request.url.path):
            found |= {method.upper() for method in methods}
    return found


def _without_length(answer: JSONResponse) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in {"content-length", "content-type"}}


def request_id(request: Request) -> str:
    """Return the ID of this request: the client's if it is safe to log, else a new one, the same on every call."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = fit_id(request.headers.get("x-request-id", ""))
    return str(request.state.request_id)


def fit_id(client_id: str) -> str:
    """Return the client's ID if it is safe to log, else a new one."""
    fit = 0 < len(client_id) <= _MAX_ID_LENGTH and client_id.isascii() and client_id.isprintable()
    return client_id if fit else uuid.uuid4().hex


def id_header(request: Request) -> dict[str, str]:
    """Return the header with the ID of this request, unless a proxy adds it."""
    return {"X-Request-Id": request_id(request)} if request.app.state.name_requests else {}


def check_media_type(request: Request) -> None:
    """Refuse a body that says it is something else than JSON; curl says it is a form if nothing is given."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type not in {"application/json", "application/x-www-form-urlencoded", "text/plain"}:
        raise MediaTypeError(f"Content-Type {media_type[:80]!r} is not read here; send application/json")
