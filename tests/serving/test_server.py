import json
import logging
import socket
import threading
from typing import Any

import httpx
import pytest
import uvicorn

from calogan.serving import server
from calogan.serving.api import build_api
from calogan.serving.keys import KeyRing

KEY = "key of the tests"


def test_a_connection_without_headers_is_closed_and_others_are_served(
    samplers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.3)
    servers: list[uvicorn.Server] = []
    kind = server._Server

    def make(*arguments: Any) -> uvicorn.Server:
        servers.append(kind(*arguments))
        return servers[-1]

    monkeypatch.setattr(server, "_Server", make)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=(build_api(samplers, keys=KeyRing(key=KEY)), listener))
        thread.start()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            silent.sendall(b"POST /v1/showers HTTP/1.1\r\nX-API")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}) as client:
                assert client.post("/v1/showers", json={"energy": 50}).status_code == 200
                assert silent.recv(100) == b""
                assert client.post("/v1/showers", json={"energy": 50}).status_code == 200
        servers[0].should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_a_line_of_the_log_is_an_object_with_the_facts_of_the_request() -> None:
    record = logging.makeLogRecord(
        {"name": "calogan.access", "msg": "request %s", "args": ("a\nb",), "levelname": "INFO", "facts": {"n": 3}}
    )
    line = server.JsonLines().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert content["message"] == "request a\nb"
    assert content["n"] == 3
    assert content["time"].endswith("+00:00")
