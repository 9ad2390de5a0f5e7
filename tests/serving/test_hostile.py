"""Clients that send anything: each gets an answer it can act on or a closed connection, and nobody else notices.

In every place that a client can fill stands a mark, and an audit hook of the interpreter looks for it in the names of files,
folders, programs and hosts.
"""

import contextlib
import itertools
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from calogan.serving import server
from calogan.serving.api import build_api
from calogan.serving.drawing import Drawing
from calogan.serving.endpoint import Limits
from calogan.serving.keys import KeyRing
from calogan.serving.producer import Producer
from calogan.serving.production_store import Store

KEY = "key of the tests"
AUTH = {"X-API-Key": KEY}
MARK = "mark-4711"
SHOWERS, PRODUCTIONS, INFER = "/v1/showers", "/v1/productions", "/v2/models/noise-int8/infer"
Request = tuple[str, str, dict[str, str], bytes]

VALUES: list[Any] = [
    None, True, -1, 0, 1e308, -1e308, 10**30, "", "50", MARK, f"../../{MARK}", f"/etc/{MARK}", f"file:///{MARK}",
    f"http://{MARK}/", [], [None], [[50]], {}, {"law": MARK}, {"low": 500, "high": 2}, {"low": "2"}, f"\0{MARK}",
]  # fmt: skip
TEXTS = [
    b"", b"{", b"[", b'"', b"null", b"[1]", b'"x"', b"1e999", b"NaN", b"{}", b"\xff\xfe", b"\0" * 100, b"{" * 5000,
    b"[" * 100_000, b'{"energy": NaN}', b'{"energy": Infinity}', b'{"energy": 1e999}', b'{"energy": 50, "energy": {}}',
    b'{"energy": 50' + b" " * 70_000 + b"}", b'{"n": ' + b"9" * 5000 + b', "energy": 50}',
]  # fmt: skip
PATHS = [
    f"/{MARK}", f"/v1/{MARK}", f"/v1/productions/{MARK}", f"/v1/productions/..%2f..%2f{MARK}", f"/page/{MARK}",
    f"/page/..%2f..%2f..%2fetc%2f{MARK}", f"/page/%2e%2e/{MARK}", f"/page/{MARK}%00.js", f"/static-offline-docs/{MARK}",
    f"/v1/productions/{'0' * 32}/shards/{MARK}", f"/v1/productions/{'0' * 32}/shards/0?file={MARK}",
    f"/v1/productions/{'0' * 32}/shards?first={MARK}", f"/v1/productions/{'0' * 31}%00/{MARK}", f"/v2/models/{MARK}",
    f"/v2/models/..%2f{MARK}/versions/{MARK}", f"/v2/models/noise-int8/versions/{MARK}/ready", f"//{MARK}/v1/showers",
    f"/v1/showers/../../{MARK}", f"/v1/showers?out={MARK}", f"/docs/{MARK}", "/" + "a" * 10_000, f"/%ff%fe{MARK}",
    f"/v1/productions/{'f' * 32}%0a{MARK}", f"/v1/productions/%2e%2e/{MARK}", f"/metrics/{MARK}",
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {"Content-Type": f"text/{MARK}"}, {"Content-Type": "multipart/form-data; boundary=" + MARK},
    {"Content-Encoding": "gzip"}, {"Accept": MARK}, {"Accept": f"application/json;q={MARK}"}, {"Accept": "," * 5000},
    {"X-Request-Id": f"../../{MARK}"}, {"X-Request-Id": "x" * 5000}, {"X-API-Key": f"../{MARK}"},
    {"Authorization": f"Basic {MARK}"}, {"Authorization": f"Bearer {MARK}"}, {"Authorization": "Bearer " + "x" * 20_000},
    {"Host": f"{MARK}.example"}, {"Idempotency-Key": f"../../{MARK}"}, {"Idempotency-Key": "x" * 300},
    {"Range": f"bytes={MARK}"}, {"Expect": MARK}, {"X-Forwarded-For": MARK}, {"Cookie": f"a=../{MARK}"},
    {"Inference-Header-Content-Length": f"-1{MARK}"}, {"Upgrade": f"h2c, {MARK}"},
]  # fmt: skip
HEAD = f"POST {SHOWERS} HTTP/1.1\r\nHost: test\r\nX-API-Key: {KEY}\r\n"
RAW = [
    b"\0" * 500, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET /  HTTP/9.9\r\n\r\n", b"\r\n" * 500,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\n : x\r\n\r\n",
    f"{MARK} / HTTP/1.1\r\nHost: a\r\n\r\n".encode(), f"GET http://{MARK}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    (HEAD + f"Transfer-Encoding: {MARK}\r\n\r\n{{}}").encode(), (HEAD + "Content-Length: -5\r\n\r\n").encode(), (HEAD + "Content-Length: x\r\n\r\n").encode(),
    (HEAD + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef").encode(),
    (HEAD + "Content-Length: 99999999999999999999\r\n\r\n{").encode(),
    (HEAD + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n").encode(),
    (HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n").encode(),
    (HEAD + "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n").encode(),
    (HEAD + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n").encode(),
    (HEAD + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: " + MARK + "\r\n\r\n").encode(),
    (HEAD + f"Content-Length: 2\r\nX-{MARK}\0: y\r\n\r\n{{}}").encode(), (HEAD + "X: a\r\n\tb\r\nContent-Length: 0\r\n\r\n").encode(),
    (HEAD + "Content-Length: 2\r\n\r\n{}GARBAGE BEHIND THE BODY\r\n\r\n").encode(),
]  # fmt: skip


def orders() -> Iterator[Request]:
    """Bodies with something wrong in each of their places, and bodies that are no JSON."""
    good: dict[str, dict[str, Any]] = {
        SHOWERS: {"energy": 50, "n": 1, "seed": 1, "first": 0, "precision": "int8"},
        PRODUCTIONS: {"energy": 50, "n": 1, "seed": 1, "precision": "int8", "format": "arrow", "shard_showers": 1},
    }
    for path, body in good.items():
        for name, value in itertools.product((*body, MARK), VALUES):
            yield "POST", path, {}, json.dumps(body | {name: value}).encode()
    for path, text in itertools.product((*good, INFER), TEXTS):
        yield "POST", path, {}, text
    tensor = {"name": "energy", "datatype": "FP32", "shape": [1], "data": [50]}
    for name, value in itertools.product((*tensor, "parameters"), VALUES):
        yield "POST", INFER, {}, json.dumps({"inputs": [tensor | {name: value}]}).encode()


def requests() -> list[Request]:
    """All malformed requests above the level of HTTP."""
    odd: list[Request] = [(method, path, {}, b"") for path in PATHS for method in ("GET", "POST", "DELETE")]
    odd += [
        ("POST", path, headers, b'{"energy": 1e9, "n": 1}') for headers in HEADERS for path in (SHOWERS, PRODUCTIONS)
    ]
    odd += [(method, SHOWERS, {}, b"{}") for method in ("PUT", "PATCH", "OPTIONS", "TRACE", MARK.upper())]
    return odd + list(orders())


class Watch:
    """Finds the mark in what the interpreter does to files, programs and hosts."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []
        self._on = True
        sys.addaudithook(self._see)

    def close(self) -> None:
        self._on = False

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        outside = (
            "open",
            "os.",
            "shutil.",
            "glob.",
            "pathlib.",
            "tempfile.",
            "subprocess.",
            "socket.",
            "urllib.",
            "import",
        )
        if self._on and event.startswith(outside) and MARK in repr(arguments).lower():
            self.found.append((event, arguments))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("productions")


@pytest.fixture(scope="module")
def address(samplers: dict[str, Any], root: Path) -> Iterator[tuple[str, int]]:
    """Address of the server that `calogan serve` runs, with short times."""
    drawing = Drawing()
    producer = Producer(Store(root), samplers, drawing)
    limits = Limits(max_showers=200, max_productions=10_000, read_timeout_s=1.0, send_timeout_s=1.0)
    api = build_api(samplers, keys=KeyRing(key=KEY), limits=limits, drawing=drawing, producer=producer)
    config = uvicorn.Config(api, http=server._Protocol, log_config=None, access_log=False, lifespan="off")
    running = server._Server(config, None, "")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setattr(server, "HEADER_TIMEOUT_S", 1.0)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield "127.0.0.1", listener.getsockname()[1]
        running.should_exit = True
        thread.join(timeout=60)
    drawing.close()


def test_malformed_requests_are_refused_and_reach_no_file_or_host(
    address: tuple[str, int], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everything = requests()
    assert len(everything) > 400
    watch = Watch()
    with contextlib.suppress(FileNotFoundError):
        Path(f"/nowhere/{MARK}").read_bytes()
    assert watch.found.pop()[0] == "open"  # it sees
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=60) as client:
        for method, path, headers, body in everything:
            request = client.build_request(method, "/", headers=AUTH | headers, content=body or None)
            request.url = request.url.copy_with(raw_path=path.encode())
            with contextlib.suppress(httpx.RemoteProtocolError):  # the server closed the connection
                answer = client.send(request)
                where = f"{method} {path[:200]} {headers} {body[:200]!r}: {answer.text[:200]}"
                assert answer.status_code < 500 or answer.status_code == 501, where
                assert "Traceback" not in answer.text, where
                if answer.status_code >= 400 and "application/json" in answer.headers.get("content-type", ""):
                    assert answer.json()["error"], where
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        good = client.post(SHOWERS, json={"energy": 50}, headers=AUTH)
    watch.close()
    assert good.status_code == 200
    assert sum(count for status, count in statuses.items() if status >= 400) > 300, statuses
    assert watch.found == []
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert all(re.fullmatch("[0-9a-f]{32}", path.name) for path in root.iterdir())


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_what_is_no_http_is_answered_or_closed(address: tuple[str, int], raw: bytes) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                received += chunk
    assert b"Traceback" not in received
    assert not re.search(rb"HTTP/1.1 5\d\d", received)
    assert (
        httpx.post(f"http://{address[0]}:{address[1]}{SHOWERS}", json={"energy": 50}, headers=AUTH).status_code == 200
    )


def stalled(connection: socket.socket, number: int) -> None:
    """Send a part of a request, and nothing more."""
    whole = (HEAD + "Content-Length: 14\r\n\r\n").encode() + b'{"energy": 50}'
    connection.sendall(whole[: 1 + number * 7 % (len(whole) - 1)])


def slow(connection: socket.socket, number: int) -> None:
    """Send a body a byte at a time, for longer than is allowed."""
    connection.sendall((HEAD + "Content-Length: 4000\r\n\r\n").encode())
    for _ in range(25):
        connection.sendall(b" ")
        time.sleep(0.1)


def broken(connection: socket.socket, number: int) -> None:
    """Send half a body and reset the connection."""
    connection.sendall((HEAD + "Content-Length: 4000\r\n\r\n").encode() + b" " * (number % 2000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def endless(connection: socket.socket, number: int) -> None:
    """Send a body without end."""
    connection.sendall((HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode())
    for _ in range(200):
        connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


@pytest.mark.parametrize("upload", [stalled, slow, broken, endless])
@pytest.mark.parametrize("connections", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_uploads_that_never_end_well_hold_nobody_up(
    address: tuple[str, int], upload: Any, connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[bytes] = []

    def attack(number: int) -> None:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=20) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                upload(connection, number)
            if connection.fileno() >= 0:
                answers.append(connection.recv(65_536)[:12])

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        answer = httpx.post(f"http://{address[0]}:{address[1]}{SHOWERS}", json={"energy": 50}, headers=AUTH, timeout=30)
        assert answer.status_code == 200
        time.sleep(0.05)
    # Closed without an answer where not even the head arrived.
    assert set(answers) <= {b"", b"HTTP/1.1 408", b"HTTP/1.1 413", b"HTTP/1.1 400", b"HTTP/1.1 429"}
    if upload is slow:
        assert answers.count(b"HTTP/1.1 408") >= connections // 2
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
