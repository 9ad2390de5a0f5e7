"""Productions of a real server: made, followed, fetched, cancelled, and continued after a restart."""

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from calogan.errors import OutputError
from calogan.events import EnergyRange, open_events, productions
from calogan.events.folders import Folder
from calogan.events.productions import MANIFEST
from calogan.generation.shards import production_of
from calogan.serving import producer as producer_module
from calogan.serving.client import Client
from calogan.serving.producer import Producer
from calogan.serving.production_store import Store

KEY, OTHER = "key of the tests", "key of another client"
AUTH = {"X-API-Key": KEY}
ORDER = {"energy": {"low": 2, "high": 500}, "n": 1000, "seed": 7, "shard_showers": 300}  # as the helper sends
Samplers = dict[str, Any]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_production_is_made_and_fetched(server: Any, samplers: Samplers, tmp_path: Path) -> None:
    answer = server.post()
    assert answer.status_code == 202
    name = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/productions/{name}"
    status = server.finished(name)
    assert (status["shards"], status["shards_finished"], status["showers_finished"]) == (4, 4, 1000)
    assert status["energy"] == [2, 500]
    assert status["seconds_left"] == 0
    listed = server.get(f"/{name}/shards").json()["shards"]
    assert [(shard["number"], shard["first"], shard["showers"]) for shard in listed] == [
        (0, 0, 300),
        (1, 300, 300),
        (2, 600, 300),
        (3, 900, 100),
    ]
    (tmp_path / "fetched").mkdir()
    for shard in listed:
        file = server.get(f"/{name}/shards/{shard['number']}")
        assert file.headers["content-type"] == "application/vnd.apache.arrow.stream"
        assert file.headers["etag"] == f'"{shard["sha256"]}"' == f'"{hashlib.sha256(file.content).hexdigest()}"'
        assert shard["file"] in file.headers["content-disposition"]
        (tmp_path / "fetched" / shard["file"]).write_bytes(file.content)
    events = open_events(tmp_path / "fetched")[:]
    np.testing.assert_array_equal(events.energy, EnergyRange(2, 500).draw(1000, 7))
    np.testing.assert_array_equal(events.showers, samplers["int8"].sample(events.energy, seed=7).showers)
    manifest = server.get(f"/{name}/manifest").json()
    assert [shard["sha256"] for shard in manifest["shards"]] == [shard["sha256"] for shard in listed]
    assert manifest["production"]["settings"] == {"model_version": "3", "precision": "int8"}
    assert [one["id"] for one in server.get().json()["productions"]] == [name]


def test_its_files_are_those_of_the_same_production_elsewhere(server: Any, tmp_path: Path) -> None:
    name = server.post().json()["id"]
    server.finished(name)
    plan = production_of("noise", "3", "int8", EnergyRange(2.0, 500.0), showers=1000, seed=7, shard_showers=300)
    folder = server.store.root / name
    assert productions.described((folder / productions.PLAN).read_text()) == plan
    assert productions.begin(folder, plan) == ()
    assert productions.check_manifest(folder) == []
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".claim", ".part"))]


def test_shards_are_listed_while_the_manifest_replaces_their_records(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.post().json()["id"]
    server.finished(name)
    sizes, listings = Folder.sizes, list[dict[str, int]]()

    def stale(self: Folder) -> dict[str, int]:
        now = sizes(self)
        if not listings:
            now = {name: size for name, size in now.items() if name != MANIFEST}
            now |= {f".{name}.json": 100 for name in now if name.startswith("showers-")}
        listings.append(now)
        return now

    monkeypatch.setattr(Folder, "sizes", stale)
    assert len(server.get(f"/{name}/shards").json()["shards"]) == 4
    assert len(listings) == 2


def test_a_part_of_a_shard(server: Any) -> None:
    name = server.post().json()["id"]
    server.finished(name)
    whole, part = server.get(f"/{name}/shards/1").content, server.get(f"/{name}/shards/1", Range="bytes=100-199")
    assert part.status_code == 206
    assert part.content == whole[100:200]


@pytest.mark.parametrize("format", ["parquet", "clic"])
def test_other_formats_and_spectra(server: Any, format: str) -> None:
    order = ORDER | {"energy": {"law": "gaussian", "mean": 100, "sigma": 5}, "format": format, "n": 100}
    name = server.post(order).json()["id"]
    assert server.finished(name)["energy"]["law"] == "gaussian"
    energy = open_events(server.store.root / name).energy
    assert 95 < energy.mean() < 105
    assert energy.std() > 1


def test_a_request_sent_again_makes_nothing_new(server: Any) -> None:
    order = {name: value for name, value in ORDER.items() if name != "seed"}
    first, again = (server.post(order, Idempotency_Key="../../a name\twith a path").json() for _ in range(2))
    assert again["id"] == first["id"]
    assert again["seed"] == first["seed"]
    assert server.post(order, key=OTHER, Idempotency_Key="../../a name\twith a path").json()["id"] != first["id"]
    refused = server.post(order | {"n": 5}, Idempotency_Key="../../a name\twith a path")
    assert refused.status_code == 422
    assert "came with another request before" in refused.json()["error"]["message"]
    assert server.post(order).json()["id"] != server.post(order).json()["id"]
    assert {len(path.name) for path in server.store.root.iterdir()} == {32}


def test_a_client_sees_its_own_only(server: Any) -> None:
    name = server.post().json()["id"]
    server.finished(name)
    for path in ("", "/shards", "/shards/0", "/manifest"):
        assert server.get(f"/{name}{path}", OTHER).status_code == 404
        assert httpx.get(f"{server.url}/{name}{path}").status_code == 401
    assert server.get(key=OTHER).json() == {"productions": []}
    assert httpx.delete(f"{server.url}/{name}", headers={"X-API-Key": OTHER}).status_code == 404
    assert server.get(f"/{name}").status_code == 200


def test_delete_cancels_at_once_and_removes(server: Any, samplers: Samplers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.02)
    name = server.post(ORDER | {"n": 1_000_000, "shard_showers": 100_000}).json()["id"]
    wait_until(lambda: samplers["int8"].running > 0)
    assert server.get(f"/{name}").json()["state"] == "running"
    assert server.get(f"/{name}/shards/0").status_code == 409
    assert server.get(f"/{name}/manifest").status_code == 409
    assert httpx.delete(f"{server.url}/{name}", headers=AUTH).status_code == 204
    assert server.get(f"/{name}").status_code == 404
    wait_until(lambda: not server.drawing._jobs)
    assert samplers["int8"].drawn < 100_000
    wait_until(lambda: not list(server.store.root.iterdir()))
    assert httpx.delete(f"{server.url}/{name}", headers=AUTH).status_code == 404


def test_a_restart_keeps_finished_shards(
    serve_productions: Callable[..., Any], samplers: Samplers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.02)
    first = serve_productions(tmp_path / "productions")
    name = first.post(ORDER | {"n": 3000}).json()["id"]
    folder = first.store.root / name
    wait_until(lambda: len(list(folder.glob("showers-*"))) >= 2)
    first.stop()
    assert not list(folder.glob(".*.part"))
    times = {path: path.stat().st_mtime_ns for path in folder.glob("showers-*")}
    assert len(times) < 10
    second = serve_productions(tmp_path / "productions")
    assert second.get(f"/{name}").json()["showers_finished"] == 300 * len(times)
    assert second.finished(name)["showers_finished"] == 3000
    second.stop()
    assert all(path.stat().st_mtime_ns == written for path, written in times.items())
    assert productions.check_manifest(folder) == []


def test_replicas_divide_the_work(
    serve_productions: Callable[..., Any], samplers: Samplers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.02)
    made: list[tuple[Producer, str]] = []
    make = Producer._make

    def record(self: Producer, entry: Any, shard: Any, claim: Any) -> None:
        made.append((self, shard.file))
        make(self, entry, shard, claim)

    monkeypatch.setattr(Producer, "_make", record)
    servers = [serve_productions(tmp_path / "productions") for _ in range(2)]
    name = servers[0].post(ORDER | {"n": 6000}).json()["id"]
    assert servers[1].finished(name)["showers_finished"] == 6000
    for server in servers:
        server.stop()
    assert sorted(file for _, file in made) == [f"showers-{number:05d}.arrow" for number in range(20)]
    assert len({producer for producer, _ in made}) == 2


def test_the_claim_of_a_dead_replica_holds_nobody_up(server: Any) -> None:
    plan = production_of("noise", "3", "int8", EnergyRange(2.0, 500.0), showers=10, seed=7)
    entry, _ = server.store.create("default", plan, order="", key=None)
    claim = entry.folder / f".{plan.shards[0].file}.claim"
    claim.touch()
    os.utime(claim, (time.time() - 3600, time.time() - 3600))
    server.finished(entry.id)
    assert not claim.exists()


@pytest.mark.parametrize(
    ("order", "status", "message"),
    [
        ({}, 422, "energy: Field required; n: Field required"),
        ([], 422, "should be an object"),
        (ORDER | {"n": 0}, 422, "greater than or equal to 1"),
        (ORDER | {"n": 1_000_001}, 422, "more than the 1000000 of a production allowed here"),
        (ORDER | {"n": 200_000, "shard_showers": 1}, 422, "choose larger shard_showers"),
        (ORDER | {"energy": 1000}, 422, "outside 2 to 500 GeV"),
        (ORDER | {"format": "../../x"}, 422, "format '../../x' is not written"),
        (ORDER | {"precision": "../x"}, 422, "is not served here"),
        (ORDER | {"id": "x"}, 422, "unknown key; the keys are energy, n, seed, precision, format, shard_showers"),
    ],
)
def test_an_impossible_order_is_one_line(server: Any, order: Any, status: int, message: str) -> None:
    answer = server.post(order)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert not list(server.store.root.iterdir())


@pytest.mark.parametrize(
    "path",
    ["/..%2f..%2fetc", "/nothing", f"/{'0' * 32}", f"/{'0' * 32}/shards/0", f"/{'0' * 32}/shards/-1", "/.new-1/shards"],
)
def test_names_of_clients_find_nothing(server: Any, path: str) -> None:
    answer = server.get(path)
    assert answer.status_code in {404, 422}
    assert answer.json()["error"]["type"] in {"not_found", "invalid_request"}


def test_limits_of_a_key_apply(server: Any) -> None:
    key = "a key with limits"
    assert "50 of a production allowed with this key" in server.post(key=key).json()["error"]["message"]
    assert server.post(ORDER | {"n": 50}, key, Idempotency_Key="1").status_code == 202
    refused = server.post(ORDER | {"n": 50}, key, Idempotency_Key="2")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 400
    assert server.post(ORDER | {"n": 50}, key, Idempotency_Key="1").status_code == 202


def test_too_many_productions_wait(serve_productions: Callable[..., Any], samplers: Samplers, tmp_path: Path) -> None:
    server = serve_productions(tmp_path / "productions", max_productions=2)
    server.producer.stop()
    assert [server.post().status_code for _ in range(3)] == [202, 202, 429]
    server.stop()


def test_a_full_disk_is_said_and_waited_for(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        problem = OSError(errno.ENOSPC, "No space left on device")
        raise OutputError(f"{tmp_path}: cannot be written") from problem

    with monkeypatch.context() as broken:
        broken.setattr(productions, "write_shard", full)
        broken.setattr(producer_module, "_RETRY_S", 0.1)
        name = server.post().json()["id"]
        wait_until(lambda: server.get(f"/{name}").json()["state"] == "waiting")
        message = server.get(f"/{name}").json()["message"]
        assert message == "a shard cannot be written (No space left on device); it is tried again"
    assert server.finished(name)["message"] is None


def test_a_production_that_would_fill_the_disk_is_refused(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calogan.serving.production_store._SPARE_BYTES", 1 << 60)
    answer = server.post()
    assert answer.status_code == 507
    assert answer.json()["error"]["type"] == "no_room"
    assert not list(server.store.root.iterdir())


def test_a_production_of_another_version_waits(server: Any) -> None:
    plan = production_of("noise", "2", "int8", EnergyRange(2.0, 500.0), showers=10, seed=7)
    entry, _ = server.store.create("default", plan, order="", key=None)
    status = server.get(f"/{entry.id}").json()
    assert status["state"] == "waiting"
    assert "version 2 of the model is not served here any more" in status["message"]


def test_a_generator_that_fails_is_said(server: Any) -> None:
    name = server.post(ORDER | {"seed": 666}).json()["id"]
    wait_until(lambda: server.get(f"/{name}").json()["state"] == "waiting")
    assert "secret" not in server.get(f"/{name}").text
    other = server.post().json()["id"]
    server.finished(other)


def test_requests_are_answered_meanwhile(server: Any, samplers: Samplers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.02)
    name = server.post(ORDER | {"n": 100_000}).json()["id"]
    wait_until(lambda: samplers["int8"].running > 0)
    began = time.monotonic()
    answer = httpx.post(server.url.replace("productions", "showers"), json={"energy": 50}, headers=AUTH, timeout=60)
    assert answer.status_code == 200
    assert time.monotonic() - began < 5
    assert server.get(f"/{name}").json()["state"] == "running"


def test_a_folder_that_cannot_be_written_to_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created"):
        Store(tmp_path / "file" / "productions")


def test_without_a_folder_the_way_to_productions_is_said(url: str) -> None:
    answer = httpx.post(f"{url}/v1/productions", json=ORDER, headers=AUTH, timeout=60)
    assert answer.status_code == 404
    assert "--productions FOLDER" in answer.json()["error"]["message"]


def test_damaged_records_hold_nobody_up(server: Any) -> None:
    bad = server.store.root / ("0" * 32)
    bad.mkdir()
    for name in (".request.json", productions.PLAN):
        (bad / name).write_text("{")
    good = server.post().json()["id"]
    server.finished(good)
    assert (server.store.root / good / MANIFEST).exists()
    with contextlib.suppress(httpx.HTTPError):
        assert server.get(f"/{'0' * 32}").status_code == 500


@pytest.fixture
def serve_package(tmp_path: Path) -> Iterator[Callable[[], tuple[str, "subprocess.Popen[str]"]]]:
    """Start `calogan serve` with productions: its address and process."""
    started: list[subprocess.Popen[str]] = []
    command = [sys.executable, "-c", "from calogan.cli.main import main; main()", "serve", "--precision", "int8"]
    command += ["--port", "0", "--productions", str(tmp_path / "productions")]

    def serve() -> tuple[str, "subprocess.Popen[str]"]:
        environment = os.environ | {"CALOGAN_API_KEY": KEY}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr
        return process.stderr.readline().split("documentation: ")[1].removesuffix("/docs\n"), process

    yield serve
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_server_goes_on_after_its_restart_with_the_bytes_of_the_command_line(
    serve_package: Callable[[], tuple[str, "subprocess.Popen[str]"]], tmp_path: Path
) -> None:
    order: dict[str, Any] = {"energy": "2:500", "n": 20_000, "seed": 7, "shard_showers": 1000}
    url, process = serve_package()
    with Client(url, KEY) as client:
        production = client.production(**order, key="a")
    folder = tmp_path / "productions" / production.id
    wait_until(lambda: len(list(folder.glob("showers-*"))) >= 3)
    process.kill()
    process.wait()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("showers-*")}
    assert len(times) < 20
    url, process = serve_package()
    with Client(url, KEY) as client:
        again = client.production(**order, key="a")
        assert again.id == production.id
        again.download(tmp_path / "fetched")
        assert all(path.stat().st_mtime_ns == written for path, written in times.items())
        again.cancel()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not list((tmp_path / "productions").iterdir())
    command = [sys.executable, "-c", "from calogan.cli.main import main; main()", "generate", "--energy", "2:500"]
    command += ["--n", "20000", "--seed", "7", "--shard-size", "1000", "--out", str(tmp_path / "made")]
    subprocess.run(command, check=True, timeout=200)
    here, there = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).glob("showers-*"))}
        for name in ("made", "fetched")
    )
    assert here == there
