"""The routes under /v1/productions: large samples that the server makes on its own, as shards to be fetched."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from calogan.errors import RequestError
from calogan.events import EnergyRange
from calogan.generation.random_numbers import SEED_MAX
from calogan.generation.shards import production_of
from calogan.serving.answers import BusyError, ErrorBody, check_media_type, id_header
from calogan.serving.endpoint import Endpoint
from calogan.serving.keys import KeyHolder
from calogan.serving.orders import check_range, extremes_of, read_object, spectrum_of, validated
from calogan.serving.producer import Producer
from calogan.serving.production_orders import (
    FORMATS,
    MAX_SHARDS,
    ProductionList,
    ProductionOrder,
    ProductionStatus,
    ShardInfo,
    ShardList,
    production_schema,
)
from calogan.serving.production_store import ID, Entry, NoProductionError, Progress

_MEDIA_TYPES = {"arrow": "application/vnd.apache.arrow.stream", "parquet": "application/vnd.apache.parquet"}
_HDF5 = "application/x-hdf5"
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (401, 404, 422, 500, 503)}
_BODY_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (408, 413, 415, 429, 507)}
_CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorBody}}
_Name = Annotated[str, Path(pattern=f"^{ID}$", description="ID of the production.")]
_Number = Annotated[int, Path(ge=0, lt=MAX_SHARDS, description="Number of the shard, from 0 on.")]
_Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="A second request with the same one makes nothing new."),
]
_KeyCheck = Callable[..., Coroutine[Any, Any, KeyHolder]]


def add_productions(api: FastAPI, endpoint: Endpoint, producer: Producer | None, check_key: _KeyCheck) -> None:
    """Add the routes; without a producer they say how to get one."""
    router = APIRouter(
        prefix="/v1/productions", dependencies=[Depends(check_key)], responses=_ERRORS, tags=["productions"]
    )
    office = _Office(endpoint, producer)
    _add_create(router, office, check_key)
    _add_reading(router, office, check_key)
    _add_shards(router, office, check_key)
    api.include_router(router)


class _Office:
    """What the routes share: the limits of the endpoint, and the producer."""

    def __init__(self, endpoint: Endpoint, producer: Producer | None) -> None:
        self.endpoint, self._producer = endpoint, producer
        if producer:
            producer.count = endpoint.count

    @property
    def producer(self) -> Producer:
        if self._producer is None:
            raise NoProductionError(
                "this server makes no productions: start it with --productions FOLDER, or with the argument "
                "productions on Ray Serve"
            )
        return self._producer

    def find(self, holder: KeyHolder, name: str) -> Entry:
        return self.producer.store.find(holder.name, name)

    def create(self, order: ProductionOrder, holder: KeyHolder, key: str | None) -> ProductionStatus:
        """Check an order against all limits, and begin it."""
        store, text = self.producer.store, order.model_dump_json()
        known = store.existing(store.name(holder.name, key), order=text) if key is not None else None
        if known:
            return self.status(known)
        sampler = self.endpoint.sampler(order.precision)
        check_range(extremes_of(order.energy), sampler.energy_range)
        self._check_size(order, holder)
        plan = production_of(
            sampler.name,
            sampler.version,
            sampler.precision,
            spectrum_of(order.energy, sampler.energy_range),
            showers=order.n,
            seed=order.seed if order.seed is not None else secrets.randbelow(SEED_MAX),
            shard_showers=order.shard_showers,
            format=order.format,
        )
        running = len(store.entries(client=holder.name, unfinished=True))
        if running >= self.endpoint.limits.max_productions:
            raise BusyError(f"{running} productions of this client are not finished; wait for one", retry_after_s=60)
        self.endpoint.charge(holder, order.n)
        entry, _ = store.create(holder.name, plan, order=text, key=key)
        self.producer.wake()
        return self.status(entry)

    def _check_size(self, order: ProductionOrder, holder: KeyHolder) -> None:
        limits = {"here": self.endpoint.limits.max_production_showers, "with this key": holder.max_showers}
        largest, whose = min((limit, whose) for whose, limit in limits.items() if limit is not None)
        if order.n > largest:
            raise RequestError(f"{order.n} showers are more than the {largest} of a production allowed {whose}")
        if order.shards > MAX_SHARDS:
            raise RequestError(f"{order.shards} shards are more than {MAX_SHARDS}; choose larger shard_showers")
        if order.format not in FORMATS:
            raise RequestError(f"format {order.format!r} is not written; choose from {', '.join(FORMATS)}")

    def status(self, entry: Entry) -> ProductionStatus:
        """How far a production is."""
        plan, progress = entry.plan, self.producer.store.progress(entry)
        state, message = self._state(entry, progress)
        left = plan.showers - progress.showers
        rate = progress.showers_per_s
        return ProductionStatus(
            id=entry.id,
            state=state,
            message=message,
            model=plan.generator,
            model_version=plan.settings["model_version"],
            precision=plan.settings["precision"],
            energy=plan.energy.description,
            seed=plan.seed,
            format=plan.format,
            shard_showers=plan.shard_showers,
            showers=plan.showers,
            showers_finished=progress.showers,
            shards=len(plan.shards),
            shards_finished=progress.shards,
            showers_per_s=round(rate, 1) if rate else None,
            seconds_left=round(left / rate, 1) if rate and state != "waiting" else None if left else 0.0,
            created=datetime.fromtimestamp(entry.created, UTC).isoformat(timespec="seconds"),
        )

    def _state(self, entry: Entry, progress: Progress) -> tuple[str, str | None]:
        if progress.finished:
            return "finished", None
        if progress.problem:
            return "waiting", progress.problem
        if not self.producer.serves(entry.plan):
            version = entry.plan.settings["model_version"]
            return (
                "waiting",
                f"version {version} of the model is not served here any more; delete it, or serve that one",
            )
        return "running", None


def _add_create(router: APIRouter, office: _Office, check_key: _KeyCheck) -> None:
    @router.post(
        "",
        status_code=202,
        responses=_BODY_ERRORS | {202: {"headers": {"Location": {"schema": {"type": "string"}}}}},
        openapi_extra={"requestBody": _request_body(office.endpoint)},
    )
    async def create(
        request: Request,
        response: Response,
        holder: Annotated[KeyHolder, Depends(check_key)],
        idempotency_key: _Key = None,
    ) -> ProductionStatus:
        """Begin a production. Its bytes depend on the order and the model only, not on the server's cores or restarts.

        With an Idempotency-Key, a request that is sent again finds the production of the first one.
        """
        check_media_type(request)
        order = validated(ProductionOrder, read_object(await office.endpoint.read_body(request)))
        status = await run_in_threadpool(office.create, order, holder, idempotency_key)
        response.headers["Location"] = f"/v1/productions/{status.id}"
        return status


def _add_reading(router: APIRouter, office: _Office, check_key: _KeyCheck) -> None:
    @router.get("")
    def list_all(holder: Annotated[KeyHolder, Depends(check_key)]) -> ProductionList:
        """List the productions of this client."""
        entries = office.producer.store.entries(client=holder.name)
        return ProductionList(productions=[office.status(entry) for entry in entries])

    @router.get("/{name}")
    def status(name: _Name, holder: Annotated[KeyHolder, Depends(check_key)]) -> ProductionStatus:
        """Return the state of a production: shards, rate and remaining time."""
        return office.status(office.find(holder, name))

    @router.delete("/{name}", status_code=204)
    def cancel(name: _Name, holder: Annotated[KeyHolder, Depends(check_key)]) -> None:
        """Cancel a production if it is not finished, and remove its shards from the server."""
        office.producer.store.remove(office.find(holder, name))

    @router.get("/{name}/manifest", responses=_CONFLICT)
    def manifest(name: _Name, holder: Annotated[KeyHolder, Depends(check_key)]) -> dict[str, Any]:
        """Return the manifest of a finished production: its description, provenance, and shards with checksums."""
        return office.producer.store.manifest(office.find(holder, name))


def _add_shards(router: APIRouter, office: _Office, check_key: _KeyCheck) -> None:
    @router.get("/{name}/shards", responses=_CONFLICT)
    def shards(
        name: _Name,
        holder: Annotated[KeyHolder, Depends(check_key)],
        first: Annotated[int, Query(ge=0, lt=MAX_SHARDS, description="Number of the first shard to list.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="How many to list at most.")] = 1000,
    ) -> ShardList:
        """List finished shards with their checksums."""
        found = office.producer.store.shards(office.find(holder, name), first=first, limit=limit)
        return ShardList(shards=[ShardInfo.model_validate(record | {"number": number}) for number, record in found])

    binary = {"schema": {"type": "string", "format": "binary"}}
    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": dict.fromkeys((*_MEDIA_TYPES.values(), _HDF5), binary), "description": "The file."},
        206: {"description": "The part of the file that the header Range names."},
        416: {"description": "The file has no such part."},
    }

    @router.get("/{name}/shards/{number}", response_class=Response, responses=_CONFLICT | answers)
    def fetch(
        request: Request, name: _Name, number: _Number, holder: Annotated[KeyHolder, Depends(check_key)]
    ) -> Response:
        """Fetch a finished shard, or a part of it with a Range header; its ETag is its SHA-256."""
        entry = office.find(holder, name)
        path, record = office.producer.store.shard(entry, number)
        return _Download(
            path,
            media_type=_MEDIA_TYPES.get(entry.plan.format, _HDF5),
            filename=record["file"],
            headers={"ETag": f'"{record["sha256"]}"'} | id_header(request),
            send_timeout_s=office.endpoint.limits.send_timeout_s,
        )


class _Download(FileResponse):
    """A file, given up when the client does not read."""

    def __init__(self, *arguments: Any, send_timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            return


def _request_body(endpoint: Endpoint) -> dict[str, Any]:
    ranges = [sampler.energy_range for sampler in endpoint.samplers.values()]
    schema = production_schema(
        allowed=EnergyRange(max(one.low for one in ranges), min(one.high for one in ranges)),
        max_showers=endpoint.limits.max_production_showers,
        precisions=endpoint.precisions,
    )
    example = {"energy": {"law": "log-flat", "low": 2, "high": 500}, "n": 1_000_000, "seed": 1}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
