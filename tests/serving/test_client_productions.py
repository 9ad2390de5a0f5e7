"""Productions of a real server, by the client."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calogan.errors import RequestError, ServiceError
from calogan.events import EnergyRange, open_events, productions
from calogan.generation.shards import production_of
from calogan.serving import client_productions
from calogan.serving.async_client import AsyncClient
from calogan.serving.client import Client

KEY = "key of the tests"
ORDER: dict[str, Any] = {"energy": "2:500", "n": 1000, "seed": 7, "shard_showers": 300}


@pytest.fixture
def client(server: Any) -> Any:
    with Client(server.url.removesuffix("/v1/productions"), KEY, patience_s=5) as client:
        yield client


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_productions, "_LOOK_S", 0.02)


def test_a_production_is_followed_and_fetched(client: Client, samplers: dict[str, Any], tmp_path: Path) -> None:
    production = client.production(**ORDER)
    counts: list[int] = []
    manifest = production.download(tmp_path / "here", counts.append)
    assert sum(counts) == 1000
    assert manifest == tmp_path / "here" / "manifest.json"
    assert productions.check_manifest(tmp_path / "here") == []
    events = open_events(tmp_path / "here")[:]
    np.testing.assert_array_equal(events.showers, samplers["int8"].sample(events.energy, seed=7).showers)
    assert [shard["showers"] for shard in production.shards()] == [300, 300, 300, 100]
    assert production.status()["state"] == "finished"
    assert [one.id for one in client.productions()] == [production.id]
    production.cancel()
    assert client.productions() == []
    with pytest.raises(RequestError, match="no such production"):
        production.status()


def test_the_fetched_folder_is_that_of_the_command_line(client: Client, tmp_path: Path) -> None:
    client.production(**ORDER).download(tmp_path / "here")
    plan = production_of("noise", "3", "int8", EnergyRange(2.0, 500.0), showers=1000, seed=7, shard_showers=300)
    assert productions.begin(tmp_path / "here", plan) == ()


def test_waiting_counts_showers(client: Client) -> None:
    counts: list[int] = []
    manifest = client.production(**ORDER).wait(counts.append)
    assert sum(counts) == 1000
    assert len(manifest["shards"]) == 4


def test_only_damaged_and_missing_shards_are_fetched_again(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production, here = client.production(**ORDER), tmp_path / "here"
    production.download(here)
    (here / "showers-00001.arrow").write_bytes(b"damaged")
    (here / "showers-00002.arrow").unlink()
    fetched: list[str] = []
    fetch = client._connection.fetch

    def count(path: str, file: Path, *, size: int) -> None:
        fetched.append(file.name)
        fetch(path, file, size=size)

    monkeypatch.setattr(client._connection, "fetch", count)
    production.download(here)
    assert fetched == ["showers-00001.arrow", "showers-00002.arrow"]
    assert productions.check_manifest(here) == []


def test_a_key_finds_the_first_production(client: Client) -> None:
    assert client.production(**ORDER, key="a").id == client.production(**ORDER, key="a").id
    with pytest.raises(RequestError, match="came with another request before"):
        client.production(**ORDER | {"n": 5}, key="a")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"energy": [10.0, 20.0], "n": 2}, "not a list"),
        ({"energy": 1000}, "outside 2 to 500 GeV"),
        ({"format": "root"}, "format 'root' is not written"),
        ({"n": 0}, "expected at least 1"),
    ],
)
def test_impossible_orders_are_refused(client: Client, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        client.production(**ORDER | changed)


def test_a_production_that_waits_too_long_is_given_up(server: Any) -> None:
    with (
        Client(server.url.removesuffix("/v1/productions"), KEY, patience_s=0.2) as client,
        pytest.raises(ServiceError, match=r"production \w+ waits: a shard cannot be made"),
    ):
        client.production(**ORDER | {"seed": 666}).wait()


def test_a_server_without_productions_says_so(url: str) -> None:
    with Client(url, KEY) as client, pytest.raises(RequestError, match="start it with --productions FOLDER"):
        client.production(**ORDER)


def test_the_twin_for_coroutines(server: Any, tmp_path: Path) -> None:
    async def fetch() -> Path:
        async with AsyncClient(server.url.removesuffix("/v1/productions"), KEY) as client:
            return await client.produce(tmp_path, **ORDER)

    assert len(open_events(asyncio.run(fetch()).parent)) == 1000


class Breaking:
    """Breaks the first attempts to send a shard off, after some bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self.ranges, self._left = app, [b""], 2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/shards/0"):
            await self._app(scope, receive, send)
            return
        self.ranges.append(dict(scope["headers"]).get(b"range", b""))

        async def some(message: Message) -> None:
            if message["type"] == "http.response.body" and self._left:
                self._left -= 1
                await send({**message, "body": message["body"][:1000], "more_body": True})
                raise ConnectionError
            await send(message)

        await self._app(scope, receive, some)


def test_a_broken_connection_resumes_within_a_shard(
    serve_productions: Callable[..., Any], start: Callable[[Any], str], tmp_path: Path
) -> None:
    server = serve_productions(tmp_path / "productions")
    breaking = Breaking(server.api)
    with Client(start(breaking), KEY) as client:
        client.production(**ORDER).download(tmp_path / "here")
    assert breaking.ranges[-2:] == [b"bytes=1000-", b"bytes=2000-"]
    assert productions.check_manifest(tmp_path / "here") == []
