"""The API as a Ray Serve application: `serve run calogan.serving.app:build model=lean`."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig
from ray.util import metrics

from calogan import machine, provenance
from calogan.errors import ModelError, ServiceError
from calogan.generation.model_folder import Precision
from calogan.serving.api import build_api
from calogan.serving.drawing import Drawing, Sampler
from calogan.serving.endpoint import Limits
from calogan.serving.golden import Golden
from calogan.serving.grpc_service import METHODS, InferenceService, status
from calogan.serving.keys import KEY_VARIABLE, KEYS_FILE_VARIABLE, KeyRing, read_keys
from calogan.serving.metrics import Record
from calogan.serving.producer import Producer
from calogan.serving.production_store import Store
from calogan.tracking.location import locate

_log = logging.getLogger("ray.serve")  # so that it is in the log of the replica
_WAIT_S = 5.0


class AppArguments(BaseModel):
    """The settings under `args` in the Serve config."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("lean", description="Packaged model, folder, or models:/NAME of the MLflow registry.")
    precisions: Annotated[list[Precision], Field(min_length=1)] = ["int8", "float32"]
    threads: int = Field(
        default_factory=machine.best_threads,
        ge=1,
        description="CPU cores of a replica, and threads of its generators; by default the best found by calogan benchmark.",
    )
    max_showers: int = Field(1_000_000, ge=1, description="Largest number of showers in one request.")
    max_requests: int = Field(64, ge=1, description="Requests that a replica draws or sends at once.")
    read_timeout_s: float = Field(10.0, gt=0, description="Seconds in which the body of a request must arrive.")
    productions: str | None = Field(
        None, description="Folder, shared by all replicas, in which productions are made; none are made without it."
    )
    wait_for_model: bool = Field(False, description="Wait for a model that is not registered yet, instead of failing.")


class RayMeter:
    """The metrics of Ray, which each node shows to Prometheus."""

    def counter(self, name: str, text: str, labels: Sequence[str]) -> Record:
        """Make a number that grows."""
        metric = metrics.Counter(name.removesuffix("_total"), text, tuple(labels))  # Ray adds the suffix
        return lambda value, **values: metric.inc(value, values)

    def gauge(self, name: str, text: str, labels: Sequence[str]) -> Record:
        """Make a number that is set."""
        metric = metrics.Gauge(name, text, tuple(labels))
        return lambda value, **values: metric.set(value, values)

    def histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Record:
        """Make a distribution."""
        metric = metrics.Histogram(name, text, list(buckets), tuple(labels))
        return lambda value, **values: metric.observe(value, values)


class ShowerService:
    """One replica: its generators, the thread they run in, and the API."""

    def __init__(self, args: AppArguments) -> None:
        self._inference: InferenceService | None = None
        self._keys = require_keys()
        self._limits = Limits(
            max_showers=args.max_showers, max_requests=args.max_requests, read_timeout_s=args.read_timeout_s
        )
        store = Store(Path(args.productions)) if args.productions else None
        self._samplers = load_generators(args)
        self._drawing = Drawing()
        for sampler in self._samplers.values():
            self._drawing.warm_up(sampler)
        self._golden = Golden(self._drawing, self._samplers)
        self._producer = Producer(store, self._samplers, self._drawing) if store else None
        isa = provenance.cpu()["isa"]
        if "int8" in self._samplers and not provenance.has_integer_instructions(isa):
            _log.warning("int8 is slow on this processor, which has neither VNNI nor AMX, only %s", isa)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the API; Ray calls this once the constructor has returned."""
        api = build_api(
            self._samplers,
            keys=self._keys,
            limits=self._limits,
            meter=RayMeter(),
            drawing=self._drawing,
            golden=self._golden,
            producer=self._producer,
            name_requests=False,  # Ray's proxy adds them
        )
        self._api = api
        if self._producer:
            self._producer.start()
        return api

    def __del__(self) -> None:
        """Give up the shard that is being made; Ray calls this when it stops a replica."""
        if producer := getattr(self, "_producer", None):
            producer.stop()

    def check_health(self) -> None:
        """Raise the error of the last golden request, if any, and send another, see `Golden.check`."""
        self._golden.check()

    async def answer_grpc(self, method: str, request: Any, context: Any) -> Any:
        """Answer a request that came to Ray's gRPC proxy, see `grpc_service`."""
        if self._inference is None:
            self._inference = InferenceService(self._api.state.endpoint, self._api.state.check_ready)
        answer, error = await self._inference.answer(method, request, dict(context.invocation_metadata()))
        if error:
            context.set_code(status(error))
            context.set_details(str(error))
        return answer


def _grpc_method(name: str) -> Any:
    async def method(self: ShowerService, request: Any, grpc_context: Any) -> Any:
        return await self.answer_grpc(name, request, grpc_context)

    return method


for _name in METHODS:  # Ray calls the method with the name of the remote procedure
    setattr(ShowerService, _name, _grpc_method(_name))


def build(args: AppArguments) -> Application:
    """Build the application; Ray Serve calls this with `args` of the Serve config, checked."""
    deployment = serve.deployment(
        ray_actor_options={"num_cpus": args.threads},
        # The replica counts its places itself, for whole requests only; these include those whose body is on its way.
        max_ongoing_requests=4 * args.max_requests,
        max_queued_requests=4 * args.max_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=5),
        logging_config=LoggingConfig(encoding="JSON"),
        # The largest request takes longer than Ray's default of 20 s, and must finish before its replica stops.
        graceful_shutdown_timeout_s=120,
    )
    application: Application = deployment(serve.ingress()(ShowerService)).bind(args)
    return application


def require_keys() -> KeyRing:
    """Return the keys clients must send.

    Raises:
        ServiceError: the environment names none.
        ConfigError: the file of keys is wrong.
    """
    keys = read_keys()
    if not keys:
        raise ServiceError(
            f"{KEY_VARIABLE} is not set; set it to the key of the endpoint in the environment of Ray, "
            f"for example export {KEY_VARIABLE}=$(openssl rand -hex 32) before ray start or serve run, "
            f"or {KEYS_FILE_VARIABLE} to a file of keys"
        )
    return keys


def load_generators(args: AppArguments) -> dict[str, Sampler]:
    """Load the model in every requested precision, from the registry if its name is a registry URI."""
    # Imported here: only the replicas need TensorFlow and MLflow, not the process that deploys them.
    from calogan.generation.generator import load  # noqa: PLC0415

    return {
        precision: load(_located(args, precision), precision=precision, threads=args.threads)
        for precision in args.precisions
    }


def _located(args: AppArguments, precision: str) -> Path:
    """Folder of the model; one that is not registered yet is waited for, so that registering it is all it takes."""
    while True:
        try:
            return locate(args.model, precision)
        except (ModelError, ServiceError) as error:
            if not args.wait_for_model:
                raise
            _log.warning("waiting for the model: %s", error)
            time.sleep(_WAIT_S)
