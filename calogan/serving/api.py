"""The HTTP API: showers of given energies from loaded generators. Independent of Ray.

Every error has the form `{"error": {"type", "message", "request_id"}}`; only `_answer_error` turns exceptions into an
HTTP status.
"""

import asyncio
import hmac
import logging
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from calogan import __version__, provenance
from calogan.errors import CaloganError, RequestError
from calogan.events import EnergyRange, Events
from calogan.generation.random_numbers import SEED_MAX
from calogan.serving.encodings import ENCODINGS, HDF5, JSON, Encoding, choose

_log = logging.getLogger(__name__)

_ERROR_TYPES = {
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "conflict",
    413: "too_large",
    422: "invalid_request",
    500: "internal",
    503: "unavailable",
}
_MAX_ID_LENGTH = 128


class Sampler(Protocol):
    """A generator of one precision, ready to draw showers."""

    name: str
    precision: str
    version: str
    energy_range: EnergyRange

    def sample(self, energy: NDArray[np.float32], *, seed: int) -> Events:
        """Draw one shower for each energy, shape (n,), GeV; equal arguments give equal showers."""
        ...


class UnauthorizedError(RequestError):
    """The request has no key, or a wrong one."""

    http_status = 401


class TooLargeError(RequestError):
    """The body of the request is longer than that of any valid request."""

    http_status = 413


Energy = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ShowerRequest(BaseModel):
    """The body of a request: either `energies`, one shower each, or `n` showers of one `energy`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    energies: Annotated[list[Energy], Field(min_length=1)] | None = Field(
        None, description="Energy of each primary particle, GeV; one shower is generated for each."
    )
    energy: Energy | None = Field(None, description="The energy of all primary particles, GeV.")
    n: int | None = Field(None, ge=1, description="Number of showers of `energy`; 1 by default.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=SEED_MAX,
        description="Equal seeds give equal showers; if missing, it is drawn and returned in X-Seed.",
    )
    precision: str | None = Field(None, description="One of the precisions of GET /v1/models; its default if missing.")

    @model_validator(mode="after")
    def _one_of_two_forms(self) -> "ShowerRequest":
        if (self.energies is None) == (self.energy is None):
            raise PydanticCustomError("form", "give either energies, or energy and n")
        if self.energies is not None and self.n is not None:
            raise PydanticCustomError("form", "n goes with energy; with energies, there is one shower for each")
        return self

    @property
    def count(self) -> int:
        """Number of requested showers."""
        return len(self.energies) if self.energies is not None else self.n or 1


class ModelInfo(BaseModel):
    """A served generator; energies in GeV."""

    name: str
    precision: str
    version: str
    energy_range: EnergyRange
    default: bool = Field(description="Whether this is the precision of requests that name none.")


class ModelList(BaseModel):
    """All served generators."""

    models: list[ModelInfo]
    max_showers: int = Field(description="Largest number of showers in one request.")
    isa: str = Field(description="Instructions of the replica's processor that determine the speed of int8.")


class ErrorInfo(BaseModel):
    """What went wrong."""

    type: str = Field(examples=["invalid_request"])
    message: str = Field(examples=["n: Input should be greater than or equal to 1"])
    request_id: str


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorInfo


_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": ShowerRequest.model_json_schema(),
            "examples": {
                "one energy": {"value": {"energy": 200, "n": 10, "seed": 7}},
                "one shower for each energy": {"value": {"energies": [10, 50, 100], "precision": "int8"}},
            },
        }
    },
}
_SHOWERS = {
    "description": "The showers; the same request with the seed from X-Seed gives them again.",
    "content": {
        name: {"schema": {"type": "object"} if encoding is JSON else {"type": "string", "format": "binary"}}
        for name, encoding in ENCODINGS.items()
    },
    "headers": {
        name: {"schema": {"type": "string"}}
        for name in ("X-Request-Id", "X-Seed", "X-Precision", "X-Model-Version", "Content-Disposition")
    },
}


def build_api(
    samplers: Mapping[str, Sampler],
    *,
    api_key: str,
    max_showers: int = 10_000,
    worker: Executor | None = None,
    name_requests: bool = True,
) -> FastAPI:
    """Build the API.

    Args:
        samplers: the generators to serve, by precision; the default is int8 if served, else the first one.
        api_key: key that clients must send to use the routes under /v1.
        max_showers: largest number of showers in one request.
        worker: executor that generates showers while other routes stay responsive; one thread by default.
        name_requests: whether to send X-Request-Id; False behind a proxy that adds it to each response.
    """
    if not samplers or not api_key:
        raise ValueError("build_api needs at least one sampler and a key")
    api = FastAPI(title="calogan", version=__version__, description="Calorimeter showers from quantized generators.")
    api.state.name_requests = name_requests
    for error in (CaloganError, HTTPException, Exception):
        api.add_exception_handler(error, _answer_error)

    @api.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Report that the process is alive; needs no key."""
        return {"status": "ok"}

    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in _ERROR_TYPES}
    protected = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(api_key))], responses=errors, tags=["showers"])
    _add_routes(protected, samplers, max_showers, worker or ThreadPoolExecutor(1, thread_name_prefix="showers"))
    api.include_router(protected)
    return api


def _add_routes(router: APIRouter, samplers: Mapping[str, Sampler], max_showers: int, worker: Executor) -> None:
    default = "int8" if "int8" in samplers else next(iter(samplers))
    body_limit = 65_536 + 32 * max_showers  # bytes; a number takes about 20 at most
    read_body = _body_reader(body_limit)

    @router.get("/models")
    async def models() -> ModelList:
        """List the served models and precisions."""
        infos = [
            ModelInfo(
                name=sampler.name,
                precision=precision,
                version=sampler.version,
                energy_range=sampler.energy_range,
                default=precision == default,
            )
            for precision, sampler in samplers.items()
        ]
        return ModelList(models=infos, max_showers=max_showers, isa=provenance.cpu()["isa"])

    @router.post(
        "/showers", response_class=Response, responses={200: _SHOWERS}, openapi_extra={"requestBody": _REQUEST_BODY}
    )
    async def showers(
        request: Request,
        encoding: Annotated[Encoding, Depends(_accepted_encoding)],
        order: Annotated[ShowerRequest, Depends(read_body)],
    ) -> Response:
        """Generate showers, as HDF5 in the CLIC layout (default), npz or JSON, according to the Accept header."""
        sampler = _choose(samplers, order.precision or default)
        energy = _energies(order, sampler, encoding, max_showers)
        seed = order.seed if order.seed is not None else secrets.randbelow(SEED_MAX)
        content = await asyncio.get_running_loop().run_in_executor(worker, _draw, sampler, energy, seed, encoding)
        _log.info("request %s: %d showers, %s, seed %d", _request_id(request), len(energy), sampler.precision, seed)
        headers = {
            "X-Seed": str(seed),
            "X-Precision": sampler.precision,
            "X-Model-Version": sampler.version,
            "Content-Disposition": f'attachment; filename="showers-{sampler.precision}-{seed}{encoding.suffix}"',
        }
        return Response(content, media_type=encoding.media_type, headers=headers | _id_header(request))


def _draw(sampler: Sampler, energy: NDArray[np.float32], seed: int, encoding: Encoding) -> bytes:
    events = sampler.sample(energy, seed=seed)
    origin = {"model": sampler.name, "model_version": sampler.version, "precision": sampler.precision}
    return encoding.encode(events, provenance.header(seed=seed) | origin)


def _choose(samplers: Mapping[str, Sampler], precision: str) -> Sampler:
    if precision not in samplers:
        raise RequestError(f"precision {precision!r} is not served here; choose from {', '.join(samplers)}")
    return samplers[precision]


def _energies(order: ShowerRequest, sampler: Sampler, encoding: Encoding, max_showers: int) -> NDArray[np.float32]:
    """Check the requested energies; returns them, shape (n,), GeV."""
    if order.count > max_showers:
        raise RequestError(
            f"{order.count} showers are more than the {max_showers} allowed in one request; "
            "send several requests with different seeds"
        )
    if encoding.max_showers is not None and order.count > encoding.max_showers:
        raise RequestError(
            f"{order.count} showers are more than the {encoding.max_showers} allowed as {encoding.media_type}; "
            f"accept {HDF5.media_type} for more"
        )
    energies = np.asarray(order.energies if order.energies is not None else [order.energy] * order.count)
    low, high = sampler.energy_range.low, sampler.energy_range.high
    outside = energies[(energies < low) | (energies > high)]
    if len(outside):
        raise RequestError(f"energy {outside[0]:g} GeV is outside {low:g} to {high:g} GeV, the range of this model")
    return energies.astype(np.float32)


def _key_check(api_key: str) -> Callable[..., Coroutine[Any, Any, None]]:
    expected = api_key.encode()

    async def check_key(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
        header: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
    ) -> None:
        # Headers arrive decoded as latin-1; this restores the original bytes.
        keys = [key.encode("latin-1") for key in (header, bearer and bearer.credentials) if key]
        if not keys:
            raise UnauthorizedError("a key is needed: send the header Authorization: Bearer KEY, or X-API-Key: KEY")
        if not any(hmac.compare_digest(key, expected) for key in keys):
            raise UnauthorizedError("the key is wrong for this endpoint; ask its operator")

    return check_key


async def _accepted_encoding(request: Request) -> Encoding:
    return choose(",".join(request.headers.getlist("accept")))


def _body_reader(limit: int) -> Callable[[Request], Coroutine[Any, Any, ShowerRequest]]:
    """Make a dependency that reads the body only after the key was checked, and only up to a limit."""

    async def read_body(request: Request) -> ShowerRequest:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLargeError(f"the body is longer than {limit} bytes; send several requests")
        try:
            return ShowerRequest.model_validate_json(bytes(body))
        except ValidationError as error:
            raise RequestError(_flat_message(error)) from None

    return read_body


def _flat_message(error: ValidationError) -> str:
    """Describe the errors of a body in one line, naming at most three places."""
    problems = []
    for detail in error.errors(include_url=False):
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
        unknown_key = f"unknown key; the keys are {', '.join(ShowerRequest.model_fields)}"
        message = unknown_key if detail["type"] == "extra_forbidden" else detail["msg"]
        problems.append(f"{place}: {message}" if place else message)
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    headers = _id_header(request)
    request_id = _request_id(request)
    match error:
        case CaloganError():
            status, message = error.http_status, str(error)
            if status >= 500:
                _log.error("request %s failed: %s", request_id, message)
        case HTTPException():
            status, message = error.status_code, f"{error.detail}: {request.method} {request.url.path}; see /docs"
            headers |= error.headers or {}
        case _:
            _log.error("request %s failed", request_id, exc_info=error)
            status, message = 500, "the server failed; report the request_id to its operator"
            # Starlette re-raises the exception for the server's log, and uvicorn then closes the connection.
            headers["Connection"] = "close"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    info = ErrorInfo(type=_ERROR_TYPES.get(status, "error"), message=message, request_id=request_id)
    return JSONResponse(ErrorBody(error=info).model_dump(), status_code=status, headers=headers)


def _request_id(request: Request) -> str:
    """Return the ID of this request: the client's if it is safe to log, else a new one, the same on every call."""
    if not hasattr(request.state, "request_id"):
        client_id = request.headers.get("x-request-id", "")
        fit = 0 < len(client_id) <= _MAX_ID_LENGTH and client_id.isascii() and client_id.isprintable()
        request.state.request_id = client_id if fit else uuid.uuid4().hex
    return str(request.state.request_id)


def _id_header(request: Request) -> dict[str, str]:
    return {"X-Request-Id": _request_id(request)} if request.app.state.name_requests else {}
