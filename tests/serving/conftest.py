import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import ArrayLike

from calogan.events import EnergyRange, Events, Hits
from calogan.generation.random_numbers import Piece
from calogan.serving.api import build_api
from calogan.serving.drawing import Drawing
from calogan.serving.endpoint import Limits
from calogan.serving.keys import KeyRing
from calogan.serving.producer import Producer
from calogan.serving.production_store import Store

KEY, OTHER_KEY = "key of the tests", "key of another client"
PRODUCTION = {"energy": {"low": 2, "high": 500}, "n": 1000, "seed": 7, "shard_showers": 300}


class PhiloxSampler:
    """Stands in for a generator: sparse noise that depends on energy, seed and index only."""

    name = "noise"
    version = "3"
    energy_range = EnergyRange(2.0, 500.0)

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.running = 0
        self.most_running = 0
        self.delay_s = 0.0
        self.drawn = 0
        self.calls: list[int] = []

    def sample_together(self, pieces: Sequence[Piece]) -> list[Hits]:
        if any(piece.seed == 666 for piece in pieces):
            raise ZeroDivisionError("secret of the generator")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        time.sleep(self.delay_s)
        results = [self._hits(piece) for piece in pieces]
        self.calls.append(len(pieces))
        self.drawn += sum(map(len, results))
        self.running -= 1
        return results

    def sample(self, energy: ArrayLike, *, seed: int, first: int = 0) -> Events:
        """The showers that an endpoint must answer."""
        return self._hits(Piece(np.asarray(energy, dtype=np.float32), seed, first)).to_dense()

    def _hits(self, piece: Piece) -> Hits:
        n = len(piece.energy)
        cells, energies = np.empty((n, 20), np.uint16), np.empty((n, 20), np.float32)
        for i in range(n):
            random = np.random.Generator(np.random.Philox(key=piece.seed, counter=piece.first + i))
            cells[i] = np.sort(random.choice(15_625, 20, replace=False))
            energies[i] = (random.random(20, dtype=np.float32) + np.float32(0.1)) * piece.energy[i] / 1000
        return Hits(np.arange(n + 1) * 20, cells.ravel(), energies.ravel(), piece.energy)


class ProductionServer:
    """An endpoint with productions in a folder."""

    def __init__(
        self, start: Callable[[Any], str], samplers: "dict[str, PhiloxSampler]", folder: Path, **limits: Any
    ) -> None:
        keys = folder.parent / "keys.toml"
        keys.write_text(
            f'[other]\nkey = "{OTHER_KEY}"\n[small]\nkey = "a key with limits"\nmax_showers = 50\nshowers_per_s = 0.1\n'
        )
        self.drawing = Drawing()
        self.store = Store(folder)
        self.producer = Producer(self.store, samplers, self.drawing)
        self.api = build_api(
            samplers,
            keys=KeyRing(key=KEY, file=keys),
            limits=Limits(**{"max_production_showers": 1_000_000} | limits),
            drawing=self.drawing,
            producer=self.producer,
        )
        self.url = f"{start(self.api)}/v1/productions"
        self.producer.start()

    def stop(self) -> None:
        self.producer.stop()
        self.drawing.close()

    def post(self, order: Any = None, key: str = KEY, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()} | {"X-API-Key": key}
        return httpx.post(self.url, json=PRODUCTION if order is None else order, headers=named, timeout=60)

    def get(self, path: str = "", key: str = KEY, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers | {"X-API-Key": key}, timeout=60)

    def finished(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while self.get(f"/{name}").json()["state"] != "finished":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        status: dict[str, Any] = self.get(f"/{name}").json()
        return status


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
    return start(build_api(samplers, keys=KeyRing(key=KEY), limits=Limits(max_showers=200)))


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    """A client of that server which sends the key."""
    with httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=30) as client:
        yield client


@pytest.fixture
def serve_productions(
    start: Callable[[Any], str], samplers: dict[str, PhiloxSampler]
) -> Iterator[Callable[..., ProductionServer]]:
    """Start an endpoint with productions: its folder, further limits."""
    started: list[ProductionServer] = []

    def serve(folder: Path, **limits: Any) -> ProductionServer:
        started.append(ProductionServer(start, samplers, folder, **limits))
        return started[-1]

    yield serve
    for server in started:
        server.stop()


@pytest.fixture
def server(serve_productions: Callable[..., ProductionServer], tmp_path: Path) -> ProductionServer:
    """An endpoint with productions."""
    return serve_productions(tmp_path / "productions")
