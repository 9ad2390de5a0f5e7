import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from calogan.serving.edge import Edge, middlewares

Start = Callable[[Any], str]


async def slowly() -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.sleep(0.2)
    yield b"second"


@pytest.fixture(scope="module")
def url(start: Start) -> str:
    """Address of what Ray's proxy may answer, behind the edge."""
    app = FastAPI()

    async def echo(request: Request) -> Response:
        return Response(await request.body(), headers={"X-Request-Id": "of-ray"})

    app.add_api_route("/echo", echo, methods=["POST"])
    app.add_api_route("/stream", lambda: StreamingResponse(slowly()))
    for status in (429, 500, 503):
        headers = {"X-Request-Id": "of-ray"}
        plain, ours = PlainTextResponse("Ray", status, headers), JSONResponse({"error": 1}, status)
        app.add_api_route(f"/plain/{status}", lambda answer=plain: answer, response_model=None)
        app.add_api_route(f"/ours/{status}", lambda answer=ours: answer, response_model=None)
    app.add_api_route("/-/healthz", lambda: PlainTextResponse("down", 503))
    return start(Edge(app, read_timeout_s=0.4))


def test_a_whole_body_passes(url: str) -> None:
    assert httpx.post(f"{url}/echo", content=b"x" * 200_000).content == b"x" * 200_000
    assert httpx.post(f"{url}/echo", content=(b"xy" for _ in range(3))).content == b"xyxyxy"


def test_half_a_body_never_reaches_a_replica(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf")
        text = connection.recv(65_536).decode()
    assert text.startswith("HTTP/1.1 408 ")
    assert '"type":"timeout"' in text
    assert "x-request-id: " in text


def test_a_body_without_end_is_refused(url: str) -> None:
    answer = httpx.post(f"{url}/echo", content=bytes(5 << 20))
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "too_large"


@pytest.mark.parametrize(("status", "translated"), [(429, 429), (500, 503), (503, 503)])
def test_errors_of_ray_get_our_form(url: str, status: int, translated: int) -> None:
    answer = httpx.get(f"{url}/plain/{status}")
    assert answer.status_code == translated
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"] == "of-ray"
    assert httpx.get(f"{url}/ours/{status}").json() == {"error": 1}


def test_streams_and_probes_pass_as_they_are(url: str) -> None:
    start = time.monotonic()
    with httpx.stream("GET", f"{url}/stream") as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        assert time.monotonic() - start < 5
        assert next(chunks) == b"second"
    assert httpx.get(f"{url}/-/healthz").text == "down"


def test_ray_finds_the_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOGAN_READ_TIMEOUT_S", "3")
    (middleware,) = middlewares()
    assert repr(middleware.cls) == repr(Edge)
    assert middleware.kwargs == {"read_timeout_s": 3.0}
