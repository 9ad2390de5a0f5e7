"""The API as a Ray Serve application: `serve run calogan.serving.app:build model=lean`."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from calogan import provenance
from calogan.errors import ModelError, ServiceError
from calogan.generation.model_folder import Precision
from calogan.serving.api import Sampler, build_api
from calogan.serving.keys import KEY_VARIABLE, read_key
from calogan.tracking.location import locate

_log = logging.getLogger("ray.serve")  # so that it is in the log of the replica
_WAIT_S = 5.0


class AppArguments(BaseModel):
    """The settings under `args` in the Serve config."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("lean", description="Packaged model, folder, or models:/NAME of the MLflow registry.")
    precisions: Annotated[list[Precision], Field(min_length=1)] = ["int8", "float32"]
    threads: int = Field(1, ge=1, description="CPU cores of a replica, and threads of its generators.")
    max_showers: int = Field(10_000, ge=1, description="Largest number of showers in one request.")
    wait_for_model: bool = Field(False, description="Wait for a model that is not registered yet, instead of failing.")


class ShowerService:
    """One replica: its generators, the thread they run on, and the API."""

    def __init__(self, args: AppArguments) -> None:
        self._api_key = read_api_key()
        self._max_showers = args.max_showers
        self._generators = load_generators(args)
        isa = provenance.cpu()["isa"]
        if "int8" in self._generators and not provenance.has_integer_instructions(isa):
            _log.warning("int8 is slow on this processor, which has neither VNNI nor AMX, only %s", isa)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="showers")
        self._trial: Future[None] = self._worker.submit(self._try_generators)
        self._trial.result()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the API; Ray calls this once the constructor has returned."""
        return build_api(
            self._generators,
            api_key=self._api_key,
            max_showers=self._max_showers,
            worker=self._worker,
            name_requests=False,  # Ray's proxy adds them
        )

    def check_health(self) -> None:
        """Raise the error of the last test of the generators, if any, and start another test.

        The test waits behind the requests, so that a busy replica is not mistaken for a dead one.
        """
        if self._trial.done():
            finished, self._trial = self._trial, self._worker.submit(self._try_generators)
            finished.result()

    def _try_generators(self) -> None:
        for precision, generator in self._generators.items():
            events = generator.sample(np.array([generator.energy_range.high], dtype=np.float32), seed=0)
            if not np.isfinite(events.showers).all():
                raise ServiceError(
                    f"the {precision} generator {generator.name} generates cells that are not finite numbers"
                )


def build(args: AppArguments) -> Application:
    """Build the application; Ray Serve calls this with `args` of the Serve config, checked."""
    deployment = serve.deployment(
        ray_actor_options={"num_cpus": args.threads},
        # A replica generates showers for one request at a time; the others are being sent or wait.
        max_ongoing_requests=8,
        max_queued_requests=32,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=5),
        # The largest request takes longer than Ray's default of 20 s, and must finish before its replica stops.
        graceful_shutdown_timeout_s=120,
    )
    application: Application = deployment(serve.ingress()(ShowerService)).bind(args)
    return application


def read_api_key() -> str:
    """Return the key clients must send.

    Raises:
        ServiceError: the environment does not set one.
    """
    key = read_key()
    if not key:
        raise ServiceError(
            f"{KEY_VARIABLE} is not set; set it to the key of the endpoint in the environment of Ray, "
            f"for example export {KEY_VARIABLE}=$(openssl rand -hex 32) before ray start or serve run"
        )
    return key


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
