"""The HTTP API: showers of given energies from loaded generators. Independent of Ray."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from calogan import __version__, provenance
from calogan.errors import CaloganError, ServiceError
from calogan.events import EnergyRange
from calogan.serving.answers import (
    ERROR_TYPES,
    ErrorBody,
    UnauthorizedError,
    answer_error,
    check_media_type,
    request_id,
)
from calogan.serving.browser import add_page
from calogan.serving.doorman import Doorman
from calogan.serving.drawing import Drawing, Sampler
from calogan.serving.encodings import ENCODINGS, JSON, Encoding, choose
from calogan.serving.endpoint import Endpoint, Limits
from calogan.serving.golden import Golden
from calogan.serving.inference_protocol import add_inference_protocol
from calogan.serving.keys import KeyHolder, KeyRing
from calogan.serving.metrics import Meter, PrometheusMeter
from calogan.serving.orders import order_schema, parse_order
from calogan.serving.producer import Producer
from calogan.serving.productions import add_productions

_log = logging.getLogger(__name__)
_access = logging.getLogger("calogan.access")


class Energies(BaseModel):
    """The primary energies that a model knows, GeV."""

    low: float
    high: float


class ModelInfo(BaseModel):
    """A served generator; energies in GeV."""

    name: str
    precision: str
    version: str
    energy_range: Energies
    default: bool = Field(description="Whether this is the precision of requests that name none.")


class ModelList(BaseModel):
    """All served generators."""

    models: list[ModelInfo]
    max_showers: int = Field(description="Largest number of showers in one request.")
    server: dict[str, str] = Field(description="Commit and versions of the software, and the processor.")
    isa: str = Field(description="Instructions of the replica's processor that determine the speed of int8.")


class Readiness(BaseModel):
    """That the golden request was answered as at the start."""

    status: str
    golden: dict[str, str] = Field(description="SHA-256 of the golden request's showers, by precision.")


def build_api(
    samplers: Mapping[str, Sampler],
    *,
    keys: KeyRing,
    limits: Limits | None = None,
    meter: Meter | None = None,
    drawing: Drawing | None = None,
    golden: Golden | None = None,
    producer: Producer | None = None,
    name_requests: bool = True,
) -> FastAPI:
    """Build the API.

    Args:
        samplers: the generators to serve, by precision; the default is int8 if served, else the first one.
        keys: keys that clients must send to use all routes but those for the operation.
        limits: what is accepted.
        meter: where the metrics go; to a registry of Prometheus if None, which GET /metrics shows.
        drawing: draws the showers; a new one if None.
        golden: the golden request, for GET /ready; made here if None.
        producer: makes the shards of productions; none are made if None.
        name_requests: whether to send X-Request-Id; False behind a proxy that adds it to each response.
    """
    if not samplers or not keys:
        raise ValueError("build_api needs at least one sampler and a key")
    drawing = drawing or Drawing()
    golden = golden or Golden(drawing, samplers)
    meter = meter or PrometheusMeter()
    endpoint = Endpoint(samplers, keys=keys, limits=limits or Limits(), meter=meter, drawing=drawing)
    # Its pages load nothing from other servers.
    api = FastAPIOffline(
        title="calogan", version=__version__, description="Calorimeter showers from quantized generators."
    )
    api.state.name_requests, api.state.endpoint = name_requests, endpoint
    for error in (CaloganError, HTTPException, RequestValidationError, Exception):
        api.add_exception_handler(error, answer_error)
    api.add_exception_handler(ClientDisconnect, _say_nothing)
    api.add_middleware(Doorman, endpoint=endpoint)
    check_ready = api.state.check_ready = _ready_check(golden)
    check_key = _key_check(keys)
    # First, and not in a router of its own, which would take a tenth of the time of a small request.
    _add_routes(api, endpoint, check_key)
    _add_operation(api, golden, check_ready)
    add_page(api)
    add_productions(api, endpoint, producer, check_key)
    add_inference_protocol(api, endpoint, check_key, check_ready)
    if isinstance(meter, PrometheusMeter):
        _add_metrics(api, endpoint, meter, check_key)
    return api


def _ready_check(golden: Golden) -> Callable[[], None]:
    def check_ready() -> None:
        try:
            golden.check()
        except Exception as error:
            _log.error("not ready: %s", error)
            raise ServiceError("the golden request fails; its cause is in the log of the server") from error

    return check_ready


def _add_operation(api: FastAPI, golden: Golden, check_ready: Callable[[], None]) -> None:
    unavailable: dict[int | str, dict[str, Any]] = {503: {"model": ErrorBody}}

    @api.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Report that the process is alive; needs no key."""
        return {"status": "ok"}

    @api.get("/ready", tags=["operation"], responses=unavailable)
    async def ready() -> Readiness:
        """Report whether the golden request is answered as at the start; needs no key."""
        check_ready()
        return Readiness(status="ready", golden=golden.checksums)


def _add_metrics(api: FastAPI, endpoint: Endpoint, meter: PrometheusMeter, check_key: "_KeyCheck") -> None:
    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        401: {"model": ErrorBody},
    }

    @api.get(
        "/metrics", tags=["operation"], dependencies=[Depends(check_key)], response_class=Response, responses=answers
    )
    async def metrics() -> Response:
        """Return the metrics, for Prometheus."""
        endpoint.metrics.load(waiting=endpoint.drawing.waiting, running=endpoint.running)
        return Response(generate_latest(meter.registry), media_type=CONTENT_TYPE_LATEST)


def _add_routes(api: FastAPI, endpoint: Endpoint, check_key: "_KeyCheck") -> None:
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in ERROR_TYPES}
    shared: dict[str, Any] = {"dependencies": [Depends(check_key)], "tags": ["showers"]}

    @api.get("/v1/models", responses=errors, **shared)
    async def models() -> ModelList:
        """List the served models and precisions."""
        infos = [
            ModelInfo(
                name=sampler.name,
                precision=precision,
                version=sampler.version,
                energy_range=Energies(low=sampler.energy_range.low, high=sampler.energy_range.high),
                default=precision == endpoint.default,
            )
            for precision, sampler in endpoint.samplers.items()
        ]
        return ModelList(
            models=infos,
            max_showers=endpoint.limits.max_showers,
            server=endpoint.provenance,
            isa=provenance.cpu()["isa"],
        )

    @api.post(
        "/v1/showers",
        response_class=Response,
        responses=errors | {200: _SHOWERS},
        openapi_extra={"requestBody": _request_body(endpoint)},
        **shared,
    )
    async def showers(
        request: Request,
        holder: Annotated[KeyHolder, Depends(check_key)],
        encoding: Annotated[Encoding, Depends(_accepted_encoding)],
    ) -> Response:
        """Generate showers in the encoding of the Accept header: HDF5 in the CLIC layout by default.

        Responses are sent while the showers are drawn, except HDF5, npz and JSON.
        """
        check_media_type(request)
        order = parse_order(await endpoint.read_body(request))
        endpoint.admit(order, holder, encoding)
        return endpoint.respond(request, order, encoding, holder.name, seed=endpoint.seed(order))


def _request_body(endpoint: Endpoint) -> dict[str, Any]:
    ranges = [sampler.energy_range for sampler in endpoint.samplers.values()]
    schema = order_schema(
        allowed=EnergyRange(max(one.low for one in ranges), min(one.high for one in ranges)),
        max_showers=endpoint.limits.max_showers,
        max_energies=min(endpoint.limits.max_energies, endpoint.limits.max_showers),
        precisions=endpoint.precisions,
    )
    examples = {
        "one energy": {"value": {"energy": 200, "n": 10, "seed": 7}},
        "one shower for each energy": {"value": {"energies": [10, 50, 100], "precision": endpoint.default}},
        "a spectrum, from an index on": {
            "value": {"energy": {"law": "log-flat", "low": 2, "high": 500}, "n": 100, "seed": 7, "first": 1000}
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


_HEADERS = (
    "X-Request-Id", "X-Seed", "X-First", "X-Showers", "X-Precision", "X-Model", "X-Model-Version", "X-Calogan-Version",
    "X-Git-Commit", "Content-Disposition",
)  # fmt: skip
_SHOWERS = {
    "description": "The showers; the same request with the seed from X-Seed gives them again.",
    "content": {
        name: {"schema": {"type": "object"} if encoding is JSON else {"type": "string", "format": "binary"}}
        for name, encoding in ENCODINGS.items()
    },
    "headers": {name: {"schema": {"type": "string"}} for name in _HEADERS},
}
_KeyCheck = Callable[..., Coroutine[Any, Any, KeyHolder]]


def _key_check(keys: KeyRing) -> _KeyCheck:
    async def check_key(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
        header: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
    ) -> KeyHolder:
        # Headers arrive decoded as latin-1; this restores the original bytes.
        sent = [key.encode("latin-1") for key in (header, bearer and bearer.credentials) if key]
        if not sent:
            raise UnauthorizedError("a key is needed: send the header Authorization: Bearer KEY, or X-API-Key: KEY")
        holders = [keys.find(key) for key in sent]
        holder = holders[0]
        if holder is None or None in holders:
            raise UnauthorizedError("the key is wrong for this endpoint; ask its operator")
        return holder

    return check_key


async def _accepted_encoding(request: Request) -> Encoding:
    return choose(",".join(request.headers.getlist("accept")))


async def _say_nothing(request: Request, _: Exception) -> Response:
    """A client that leaves before its body is complete is no error, and nobody reads the answer."""
    _access.info("request %s: the client left before its body was complete", request_id(request))
    return Response(status_code=400)
