import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import calogan
from calogan.errors import CaloganError, RequestError, ServiceError
from calogan.events import EnergyRange, Hits
from calogan.serving.api import build_api
from calogan.serving.async_client import AsyncClient
from calogan.serving.client import Client
from calogan.serving.client_orders import client_order
from calogan.serving.encodings import ARROW
from calogan.serving.keys import KeyRing

KEY = "key of the tests"
ENERGIES = np.array([10, 100.5, 499.9], dtype=np.float32)
Start = Callable[[Any], str]
Samplers = dict[str, Any]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url + "/", KEY) as client:
        yield client


def test_the_package_has_both_clients() -> None:
    assert (calogan.Client, calogan.AsyncClient) == (Client, AsyncClient)


def test_showers_arrive_bit_for_bit(client: Client, samplers: Samplers) -> None:
    events = client.sample(energy=ENERGIES, seed=7, precision="float32", first=5)
    expected = samplers["float32"].sample(ENERGIES, seed=7, first=5)
    np.testing.assert_array_equal(events.showers, expected.showers)
    np.testing.assert_array_equal(events.energy, ENERGIES)


def test_any_number_is_divided_into_requests(client: Client, samplers: Samplers) -> None:
    counts: list[int] = []
    events = list(client.showers(energy=50, n=450, seed=7, progress=counts.append))
    assert sum(counts) == 450
    expected = samplers["int8"].sample(np.full(450, 50), seed=7)
    np.testing.assert_array_equal(np.concatenate([part.showers for part in events]), expected.showers)


def test_energies_of_a_range_are_those_drawn_here(client: Client) -> None:
    events = client.sample(energy="2:500", n=450, seed=7, first=3)
    np.testing.assert_array_equal(events.energy, EnergyRange(2, 500).draw(450, 7, first=3))


@pytest.mark.parametrize("energy", ["log:2:500", {"law": "gaussian", "mean": 100, "sigma": 30}])
def test_a_spectrum_does_not_depend_on_the_division(client: Client, energy: Any) -> None:
    whole = client.sample(energy=energy, n=150, seed=7).energy
    parts = [client.sample(energy=energy, n=50, seed=7, first=first).energy for first in (0, 50, 100)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert len(set(whole.tolist())) > 100


def test_without_a_seed_each_call_gives_other_showers(client: Client) -> None:
    first, second = (client.sample(energy=[50.0]) for _ in range(2))
    assert not np.array_equal(first.showers, second.showers)


def test_the_server_is_described(client: Client) -> None:
    described = client.describe("float32")
    assert described["generator"] == "noise"
    assert described["model_version"] == "3"
    assert described["precision"] == "float32"
    assert described["calogan_version"] == calogan.__version__
    assert client.describe()["precision"] == "int8"


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"energy": []}, RequestError, "list of at least one"),
        ({"energy": [[1.0]]}, RequestError, "list of at least one"),
        ({"energy": [50, np.nan]}, RequestError, "finite number"),
        ({"energy": [50, 60], "n": 3}, RequestError, "n is 3, but there are 2 energies"),
        ({"energy": 50, "n": 0}, RequestError, "n is 0; expected at least 1"),
        ({"energy": "2:3:4"}, RequestError, "is no spectrum"),
        ({"energy": "log:7"}, RequestError, "is no spectrum"),
        ({"energy": "high"}, RequestError, "is no spectrum"),
        ({"energy": "5:2"}, RequestError, "low is above high"),
        ({"energy": [1000.0]}, RequestError, "energy 1000 GeV is outside 2 to 500 GeV"),
        ({"seed": -1}, RequestError, "seed: "),
        ({"precision": "int4"}, RequestError, "choose from float32, int8"),
        ({"key": "wrong"}, ServiceError, "refused the key: the key is wrong for this endpoint"),
        ({"key": "ключ"}, ServiceError, "refused the key"),
        ({"seed": 666}, ServiceError, "answered 500 Internal Server Error: the server failed"),
        ({"url": "http://127.0.0.1:1"}, ServiceError, "cannot be reached .*check the address"),
        ({"url": "127.0.0.1:1"}, ServiceError, "cannot be reached|is not an address"),
        ({"url": "http://127.0.0.1:port"}, ServiceError, "is not an address"),
        ({"url": ""}, ServiceError, "cannot be reached|is not an address"),
        ({"key": "two\nlines"}, ServiceError, "cannot be reached"),
    ],
)
def test_what_goes_wrong_is_said_at_once(
    url: str, changed: dict[str, Any], error: type[CaloganError], message: str
) -> None:
    arguments: dict[str, Any] = {"url": url, "energy": [50.0], "key": KEY} | changed
    start = time.monotonic()
    with Client(arguments.pop("url"), arguments.pop("key")) as client, pytest.raises(error, match=message):
        client.sample(**arguments)
    assert time.monotonic() - start < 60  # not after the two minutes that a busy endpoint is given


MODELS = {
    "models": [{"name": "noise", "precision": "int8", "version": "3", "default": True}],
    "max_showers": 100,
    "server": {},
}


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (HTMLResponse("<html>sign in first</html>"), ServiceError, "text/html.* instead of .*; is it the address"),
        (Response(), ServiceError, "no content type instead of"),
        (Response(b"not Arrow", media_type=ARROW.media_type), ServiceError, "something else than showers|its models"),
        (HTMLResponse("<h1>Gone</h1>", 410), ServiceError, "answered 410 Gone: <h1>Gone</h1>"),
        (RedirectResponse("/login"), ServiceError, "answered 307"),
        (JSONResponse({"detail": "n"}, 422), ServiceError, "answered 422"),
        (JSONResponse(["n"], 422), ServiceError, "answered 422"),
        (Response("backpressure", 429, {"Retry-After": "5"}), ServiceError, "busy or not ready"),
        (Response("backpressure", 503), ServiceError, "busy or not ready"),
        (Response("a replica died", 500), ServiceError, "busy or not ready"),
        (Response("no", 403), ServiceError, "refused the key: Forbidden"),
    ],
)
@pytest.mark.parametrize("knows_models", [False, True])
def test_a_server_of_another_kind_is_recognised(
    start: Start, answer: Response, error: type[CaloganError], message: str, knows_models: bool
) -> None:
    stranger = FastAPI()
    stranger.add_api_route("/v1/models", lambda: MODELS if knows_models else answer, response_model=None)
    stranger.add_api_route("/v1/showers", lambda: answer, methods=["POST"], response_model=None)
    with Client(start(stranger), KEY, patience_s=0) as client, pytest.raises(error, match=message):
        client.sample(energy=[50.0])


@pytest.mark.parametrize(
    ("energies", "version", "message"),
    [
        (ENERGIES, "3", "showers of other energies|too many"),
        ([50, 50], "3", "2 showers too few"),
        ([50, 50, 50], "4", "now serves version 4 of the model, not 3"),
    ],
)
def test_showers_that_were_not_asked_for_are_not_taken(
    start: Start, samplers: Samplers, energies: Any, version: str, message: str
) -> None:
    hits = Hits.from_dense(samplers["int8"].sample(energies, seed=1))
    answer = Response(ARROW.encode([hits], {}), 200, {"X-Model-Version": version}, ARROW.media_type)
    stranger = FastAPI()
    stranger.add_api_route("/v1/models", lambda: MODELS)
    stranger.add_api_route("/v1/showers", lambda: answer, methods=["POST"], response_model=None)
    n = 4 if "few" in message else 3
    with Client(start(stranger), KEY, patience_s=0) as client, pytest.raises(ServiceError, match=message):
        client.sample(energy=50.0, n=n)


class Flaky:
    """Gives each request for showers one fault of a list, then none."""

    def __init__(self, app: ASGIApp, faults: list[str]) -> None:
        self._app, self._faults, self.requests = app, faults, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self.requests += 1
        fault = self._faults.pop(0) if self._faults else ""
        if fault in {"429", "503", "500"}:
            await Response("no", int(fault), {"Retry-After": "0"})(scope, receive, send)
            return
        blocks = 0

        async def some(message: Message) -> None:
            nonlocal blocks
            blocks += message["type"] == "http.response.body"
            if fault == "break" and blocks == 3:
                raise ConnectionAbortedError
            await send(message)

        await self._app(scope, receive, some)


def test_busy_endpoints_and_broken_connections_are_hidden(start: Start, samplers: Samplers) -> None:
    flaky = Flaky(build_api(samplers, keys=KeyRing(key=KEY)), ["429", "break", "503", "break", "500"])
    with Client(start(flaky), KEY) as client:
        events = client.sample(energy="2:500", n=2000, seed=7)
    expected = samplers["int8"].sample(EnergyRange(2, 500).draw(2000, 7), seed=7)
    np.testing.assert_array_equal(events.showers, expected.showers)
    assert flaky.requests == 6


def test_the_async_twin_gives_the_same_showers(url: str, client: Client) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(url, KEY) as twin:
            assert (await twin.describe())["generator"] == "noise"
            first, *_ = await asyncio.gather(twin.sample(energy=60, n=3, seed=1))
            parts = [events async for events in twin.showers(energy=60, n=300, seed=1)]
            async for _ in twin.hits(energy=60, n=300, seed=1):
                break  # leaving early is fine
            return [first, *parts]

    first, *parts = asyncio.run(ask())
    expected = client.sample(energy=60, n=300, seed=1).showers
    np.testing.assert_array_equal(first.showers, expected[:3])
    np.testing.assert_array_equal(np.concatenate([part.showers for part in parts]), expected)


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes a connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_silent_is_given_up(silent: str) -> None:
    with (
        Client(silent, KEY, timeout_s=0.2, patience_s=0) as client,
        pytest.raises(ServiceError, match=r"did not answer within 0.2 s"),
    ):
        client.sample(energy=50.0)


def test_an_answer_that_breaks_off_is_asked_for_again_until_patience_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\nhalf"
                    )

        thread = threading.Thread(target=answer_half)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, KEY, patience_s=0.3) as client, pytest.raises(ServiceError, match="cannot be reached"):
            client.sample(energy=50.0)
        thread.join()


@given(n=st.integers(1, 300_000), largest=st.integers(1, 150_000), listed=st.booleans())
def test_parts_of_an_order_cover_it_once(n: int, largest: int, listed: bool) -> None:
    n = min(n, 50 * largest)
    order = client_order(np.full(n, 50.0) if listed else 50.0, None if listed else n, 1, 7, None)
    done = 0
    for _ in itertools.count():
        if done == n:
            break
        body, count = order.body(done, largest)
        assert 1 <= count <= largest
        assert body["first"] == 7 + done
        assert count == (len(body["energies"]) if listed else body["n"])
        done += count
