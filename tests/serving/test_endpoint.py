"""Faults of clients, at a real server."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from calogan.serving.api import build_api
from calogan.serving.drawing import BATCH, Drawing
from calogan.serving.encodings import ARROW, HDF5, decode
from calogan.serving.endpoint import Limits
from calogan.serving.golden import Golden
from calogan.serving.keys import KeyRing

KEY = "key of the tests"
AUTH = {"X-API-Key": KEY}
Start = Callable[[Any], str]
Samplers = dict[str, Any]


@pytest.fixture(scope="module")
def strict(start: Start, samplers: Samplers) -> str:
    """Address of an endpoint with short times and two places."""
    limits = Limits(max_requests=2, max_waiting=2, wait_s=0.1, max_uploads=20, read_timeout_s=0.5, send_timeout_s=0.5)
    return start(build_api(samplers, keys=KeyRing(key=KEY), limits=limits))


@contextlib.contextmanager
def sent(url: str, head: str, body: bytes) -> Iterator[socket.socket]:
    """A connection on which a request for showers was sent, perhaps not whole."""
    port = int(url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        lines = f"POST /v1/showers HTTP/1.1\r\nHost: test\r\nX-API-Key: {KEY}\r\n{head}\r\n"
        connection.sendall(lines.encode() + body)
        yield connection


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_half_bodies_stop_nobody_and_are_given_up(strict: str) -> None:
    with contextlib.ExitStack() as stack:
        half = [stack.enter_context(sent(strict, "Content-Length: 40\r\n", b'{"energy"')) for _ in range(8)]
        answers = [httpx.post(f"{strict}/v1/showers", json={"energy": 50}, headers=AUTH, timeout=60) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
        for connection in half:
            text = connection.recv(65_536).decode()
            assert text.startswith("HTTP/1.1 408 ")
            assert "did not arrive within 0.5 s" in text
            wait_until(lambda connection=connection: not connection.recv(65_536))  # type: ignore[misc]


def test_too_many_half_bodies_are_turned_away(strict: str) -> None:
    with contextlib.ExitStack() as stack:
        half = [stack.enter_context(sent(strict, "Content-Length: 40\r\n", b'{"energy"')) for _ in range(21)]
        answers = sorted(connection.recv(65_536)[:12].decode() for connection in half)
        assert answers == ["HTTP/1.1 408"] * 20 + ["HTTP/1.1 429"]


def test_an_upload_that_breaks_off_leaves_no_error_in_the_log(strict: str, caplog: pytest.LogCaptureFixture) -> None:
    with sent(strict, "Content-Length: 40\r\n", b'{"energy"'):
        time.sleep(0.1)
    wait_until(lambda: "left before its body was complete" in caplog.text)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_full_places_are_said_in_the_form_of_errors(
    strict: str, samplers: Samplers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 1.0)
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda _: httpx.post(f"{strict}/v1/showers", json={"energy": 50}, headers=AUTH, timeout=60), range(6)
            )
        )
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "busy"
    assert httpx.post(f"{strict}/v1/showers", json={"energy": 50}, headers=AUTH, timeout=60).status_code == 200


def test_work_ends_when_the_client_leaves(url: str, samplers: Samplers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.05)
    samplers["int8"].drawn = 0
    body = json.dumps({"energy": 50, "n": 200}).encode()  # HDF5 is sent after the last shower only
    with sent(url, f"Content-Length: {len(body)}\r\n", body):
        wait_until(lambda: samplers["int8"].running == 1)
    assert httpx.get(f"{url}/metrics", headers=AUTH, timeout=60).status_code == 200
    wait_until(lambda: 'outcome="left"' in httpx.get(f"{url}/metrics", headers=AUTH, timeout=60).text)
    assert "calogan_running_requests 0.0" in httpx.get(f"{url}/metrics", headers=AUTH, timeout=60).text


@pytest.mark.parametrize("accept", [ARROW.media_type, HDF5.media_type])
def test_a_large_request_that_nobody_reads_is_not_drawn(strict: str, samplers: Samplers, accept: str) -> None:
    samplers["int8"].drawn = 0
    body = json.dumps({"energy": 50, "n": 90_000}).encode()
    with sent(strict, f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n", body):
        wait_until(lambda: samplers["int8"].drawn > BATCH)
    wait_until(lambda: "calogan_waiting_showers 0.0" in httpx.get(f"{strict}/metrics", headers=AUTH, timeout=60).text)
    assert samplers["int8"].drawn < 90_000


def test_a_client_that_does_not_read_loses_its_place(strict: str, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({"energy": 50, "n": 100_000}).encode()
    heads = f"Accept: application/x-float32\r\nContent-Length: {len(body)}\r\n"
    with sent(strict, heads, body), sent(strict, heads, body):
        wait_until(
            lambda: httpx.get(f"{strict}/metrics", headers=AUTH, timeout=60).text.count("running_requests 2.0") == 1
        )
        wait_until(lambda: "running_requests 0.0" in httpx.get(f"{strict}/metrics", headers=AUTH, timeout=60).text)
    assert caplog.text.count("100000 showers, left") == 2


def test_showers_arrive_while_others_are_drawn(start: Start, samplers: Samplers) -> None:
    url = start(build_api(samplers, keys=KeyRing(key=KEY)))
    samplers["int8"].drawn = 0
    request = {"energy": {"law": "log-flat", "low": 2, "high": 500}, "n": 3000, "seed": 7}
    headers = AUTH | {"Accept": ARROW.media_type}
    with httpx.stream("POST", f"{url}/v1/showers", json=request, headers=headers) as answer:
        assert answer.headers["x-showers"] == "3000"
        chunks = answer.iter_raw()
        content = next(chunks)
        assert samplers["int8"].drawn < 3000
        content += b"".join(chunks)
    events = decode(content, ARROW.media_type)
    assert len(events) == 3000
    np.testing.assert_array_equal(events.showers, samplers["int8"].sample(events.energy, seed=7).showers)


def test_a_seed_spans_requests(url: str) -> None:
    def ask(**body: int) -> np.ndarray[Any, Any]:
        answer = httpx.post(f"{url}/v1/showers", json={"energy": 50, "seed": 7} | body, headers=AUTH, timeout=60)
        return decode(answer.content, HDF5.media_type).showers

    np.testing.assert_array_equal(ask(n=50), np.concatenate([ask(n=20), ask(n=30, first=20)]))


def test_large_hdf5_is_written_in_parts(start: Start, samplers: Samplers) -> None:
    url = start(build_api(samplers, keys=KeyRing(key=KEY)))
    request = {"energy": 50, "n": 2000, "seed": 7}
    answer = httpx.post(f"{url}/v1/showers", json=request, headers=AUTH, timeout=60)
    events = decode(answer.content, HDF5.media_type)
    np.testing.assert_array_equal(events.showers, samplers["int8"].sample(np.full(2000, 50), seed=7).showers)


@pytest.mark.parametrize(
    ("media_type", "status"),
    [("application/json; charset=utf-8", 200), ("application/x-www-form-urlencoded", 200), ("image/png", 415)],
)
def test_only_json_is_read(url: str, media_type: str, status: int) -> None:
    answer = httpx.post(
        f"{url}/v1/showers", content=b'{"energy": 50}', headers=AUTH | {"Content-Type": media_type}, timeout=60
    )
    assert answer.status_code == status


def test_each_key_has_limits_of_its_own(start: Start, samplers: Samplers, tmp_path: Path) -> None:
    file, key = tmp_path / "keys.toml", "0123456789abcdef"
    file.write_text(f'[small]\nkey = "{key}"\nmax_showers = 10\nshowers_per_s = 0.1\n', encoding="utf-8")
    url = start(build_api(samplers, keys=KeyRing(key=KEY, file=file)))

    def ask(n: int, key: str) -> httpx.Response:
        return httpx.post(f"{url}/v1/showers", json={"energy": 50, "n": n}, headers={"X-API-Key": key}, timeout=60)

    assert ask(11, KEY).status_code == 200
    assert "10 allowed with this key" in ask(11, key).json()["error"]["message"]
    assert ask(10, key).status_code == 200
    refused = ask(1, key)
    assert refused.status_code == 429
    assert 90 <= int(refused.headers["retry-after"]) <= 101
    metrics = httpx.get(f"{url}/metrics", headers=AUTH, timeout=60).text
    assert 'calogan_requests_total{client="small",encoding="application/x-hdf5",outcome="sent"} 1.0' in metrics
    assert httpx.get(f"{url}/metrics").status_code == 401


def test_readiness_tells_of_a_generator_that_changed(
    start: Start, samplers: Samplers, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = Drawing()
    golden = Golden(drawing, samplers)
    url = start(build_api(samplers, keys=KeyRing(key=KEY), drawing=drawing, golden=golden))
    answer = httpx.get(f"{url}/ready", timeout=60)
    assert answer.json() == {"status": "ready", "golden": golden.checksums}
    assert len(set(golden.checksums.values())) == 1  # both stand-ins draw the same
    draw = samplers["int8"]._hits
    monkeypatch.setattr(samplers["int8"], "_hits", lambda piece: draw(piece._replace(seed=piece.seed + 1)))
    wait_until(lambda: httpx.get(f"{url}/ready", timeout=60).status_code == 503)
    assert httpx.get(f"{url}/ready", timeout=60).json()["error"]["type"] == "unavailable"
    monkeypatch.undo()
    wait_until(lambda: httpx.get(f"{url}/ready", timeout=60).status_code == 200)
    drawing.close()


def test_many_clients_get_what_each_would_get_alone(url: str, samplers: Samplers) -> None:
    def ask(seed: int) -> bytes:
        return httpx.post(
            f"{url}/v1/showers", json={"energy": 50, "n": 3, "seed": seed}, headers=AUTH, timeout=60
        ).content

    before = threading.active_count()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(48)))
    for seed, content in enumerate(answers):
        expected = samplers["int8"].sample([50, 50, 50], seed=seed)
        np.testing.assert_array_equal(decode(content, HDF5.media_type).showers, expected.showers)
    assert threading.active_count() <= before + 64
