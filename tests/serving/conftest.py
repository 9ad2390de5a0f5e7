import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from calogan.events import EnergyRange, Events
from calogan.geometry import CLIC
from calogan.serving.api import build_api

KEY = "key of the tests"


class PhiloxSampler:
    """Stands in for a generator: sparse noise that depends on energy and seed only."""

    name = "noise"
    version = "3"
    energy_range = EnergyRange(2.0, 500.0)

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.running = 0
        self.most_running = 0
        self.delay_s = 0.0

    def sample(self, energy: NDArray[np.float32], *, seed: int) -> Events:
        if seed == 666:
            raise ZeroDivisionError("secret of the generator")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        time.sleep(self.delay_s)
        random = np.random.Generator(np.random.Philox(key=seed))
        cells = random.random((len(energy), *CLIC.shape), dtype=np.float32)
        showers = np.where(cells < 0.99, np.float32(0), cells) * energy[:, None, None, None]
        self.running -= 1
        return Events(showers.astype(np.float32), energy)


@pytest.fixture(scope="module")
def samplers() -> dict[str, PhiloxSampler]:
    return {name: PhiloxSampler(name) for name in ("float32", "int8")}


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[Any], str]]:
    """Start a real server for an ASGI application and return its address; it ends with the last test of the file."""
    with ExitStack() as stack:
        yield lambda application: stack.enter_context(_running(application))


@contextmanager
def _running(application: Any) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def url(start: Callable[[Any], str], samplers: dict[str, PhiloxSampler]) -> str:
    """Address of a server that runs the API with those samplers."""
    return start(build_api(samplers, api_key=KEY, max_showers=200))


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    """A client of that server which sends the key."""
    with httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=30) as client:
        yield client
