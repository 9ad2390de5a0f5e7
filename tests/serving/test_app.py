import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema
from tritonclient.utils import InferenceServerException

from calogan.errors import ModelError, ServiceError
from calogan.events import Events, productions, read_events
from calogan.generation import model_folder
from calogan.serving import app
from calogan.serving.app import AppArguments, ShowerService, build, load_generators, require_keys
from calogan.serving.client import Client
from calogan.serving.edge import PROXY_CALLBACK, PROXY_VARIABLE
from calogan.serving.grpc_service import SERVICER

KEY = "key of the tests"
CONFIG = Path(__file__).parents[2] / "deploy" / "serve.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return content


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, samplers: dict[str, Any]) -> ShowerService:
    """A replica as Ray would hold it, with stand-ins for the generators."""
    monkeypatch.setenv("CALOGAN_API_KEY", KEY)
    monkeypatch.setattr(app, "load_generators", lambda _: samplers)
    return ShowerService(AppArguments(max_showers=5))


def test_the_config_is_what_serve_deploy_expects(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)
    assert set(config) <= set(ServeDeploySchema.model_fields)
    (application,) = schema.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert AppArguments.model_validate(application.args).model == "models:/calogan-lean"


def test_the_config_listens_on_this_machine_only(config: dict[str, Any]) -> None:
    assert config["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"modle": "lean"}, "modle"),
        ({"precisions": []}, "precisions"),
        ({"precisions": ["int4"]}, "precisions"),
        ({"threads": 0}, "threads"),
        ({"max_showers": 0}, "max_showers"),
    ],
)
def test_an_argument_that_cannot_work_stops_the_deployment(arguments: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        AppArguments.model_validate(arguments)


def test_a_replica_takes_as_many_cores_as_its_generators_use() -> None:
    deployment = build(AppArguments(threads=3))._bound_deployment
    assert deployment.name == "ShowerService"
    assert deployment.ray_actor_options["num_cpus"] == 3
    assert deployment.max_queued_requests > 0


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_without_a_key_no_replica_starts(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("CALOGAN_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("CALOGAN_API_KEY", value)
    with pytest.raises(ServiceError, match=r"CALOGAN_API_KEY is not set; .* export CALOGAN_API_KEY="):
        ShowerService(AppArguments())


def test_the_line_end_of_a_key_file_is_not_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOGAN_API_KEY", "secret\n")
    assert require_keys().find(b"secret") is not None


def test_a_registry_address_is_fetched_and_a_name_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(uri: str, *, precision: str) -> Path:
        return Path("/fetched", uri.removeprefix("models:/"), precision)

    def load(model: str | Path, *, precision: str, threads: int) -> tuple[str, str, int]:
        return str(model), precision, threads

    monkeypatch.setitem(sys.modules, "calogan.tracking.registry", SimpleNamespace(fetch=fetch))
    monkeypatch.setitem(sys.modules, "calogan.generation.generator", SimpleNamespace(load=load))
    named: dict[str, Any] = load_generators(AppArguments(model="lean", precisions=["float32"], threads=2))
    assert named == {"float32": (str(model_folder.find("lean")), "float32", 2)}
    generators: dict[str, Any] = load_generators(AppArguments(model="models:/calogan-lean"))
    assert generators == {
        precision: (f"/fetched/calogan-lean/{precision}", precision, 1) for precision in ("int8", "float32")
    }


def test_a_replica_waits_for_its_model_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [ServiceError("MLflow does not answer"), ModelError("is not in the registry")]
    waits: list[float] = []

    def locate(model: str, precision: str) -> Path:
        if errors:
            raise errors.pop(0)
        return Path("/fetched", precision)

    monkeypatch.setattr(app, "locate", locate)
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(ServiceError):
        app._located(AppArguments(model="models:/late"), "int8")
    errors.append(ServiceError("MLflow does not answer"))
    assert app._located(AppArguments(model="models:/late", wait_for_model=True), "int8") == Path("/fetched/int8")
    assert len(waits) == 2


def test_a_replica_serves_the_api_with_its_key_and_limit(service: ShowerService, start: Callable[[Any], str]) -> None:
    url = start(service.__serve_build_asgi_app__())
    with Client(url, KEY) as client:
        assert len(client.sample(energy=[50.0] * 12, seed=1)) == 12  # in three requests
    answer = httpx.get(f"{url}/v1/models", headers={"X-API-Key": KEY})
    assert answer.json()["max_showers"] == 5
    assert "x-request-id" not in answer.headers


def test_an_ill_replica_is_found(service: ShowerService, samplers: dict[str, Any]) -> None:
    def fail(_: object) -> None:
        raise MemoryError("no room for the showers")

    def check_a_while() -> None:
        for _ in range(200):
            service.check_health()
            time.sleep(0.01)

    service.check_health()
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(samplers["float32"], "sample_together", fail)
        with pytest.raises(MemoryError, match="no room"):
            check_a_while()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def running(config: dict[str, Any], tmp_path: Path) -> Iterator[str]:
    """Address of the packaged model, run on a Ray cluster of its own by the command a user would type."""
    port = _free_port()
    config["http_options"]["port"] = port
    config["grpc_options"] = {"port": _free_port(), "grpc_servicer_functions": [SERVICER]}
    config["applications"][0]["args"] |= {"productions": str(tmp_path / "productions")}
    config["applications"][0]["args"] |= {"model": "lean", "precisions": ["int8"], "read_timeout_s": 5}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("serve")), "run", str(tmp_path / "serve.yaml")]
    url = f"http://127.0.0.1:{port}"
    # A token of its own, so that Ray writes none into the home folder.
    environment = os.environ | {
        "CALOGAN_API_KEY": KEY,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        PROXY_VARIABLE: PROXY_CALLBACK,
    }
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            while server.poll() is None and not _is_up(url):
                time.sleep(1)
            assert server.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
            yield url
        finally:
            server.send_signal(signal.SIGINT)


@pytest.mark.slow
def test_ray_serves_the_packaged_model(running: str, config: dict[str, Any], tmp_path: Path) -> None:
    energies = [10.0, 100.0, 400.0]
    with Client(running, KEY) as client:
        first, again = (client.sample(energy=energies, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.showers, again.showers)
    assert "<title>calogan</title>" in httpx.get(running).text
    assert httpx.get(f"{running}/page/main.js").headers["content-security-policy"].startswith("default-src 'none'")
    answer = httpx.get(f"{running}/v1/models", headers={"X-Request-Id": "job-42"})
    assert answer.status_code == 401
    assert answer.headers.get_list("x-request-id") == ["job-42"]
    assert answer.json()["error"]["request_id"] == "job-42"
    _a_production_is_made(running, tmp_path)
    _triton_asks_over_grpc(config["grpc_options"]["port"], first)
    _half_bodies_stop_nobody(running)
    _a_client_that_leaves_ends_its_work(running)
    _a_killed_replica_is_hidden_by_the_client(running)


def _a_production_is_made(url: str, folder: Path) -> None:
    with Client(url, KEY) as client:
        production = client.production(energy="2:500", n=3000, seed=7, shard_showers=1000)
        production.download(folder / "fetched")
        assert productions.check_manifest(folder / "fetched") == []
        expected = client.sample(energy="2:500", n=3000, seed=7)
        np.testing.assert_array_equal(read_events(folder / "fetched").showers, expected.showers)
        production.cancel()
    assert not list((folder / "productions").iterdir())


def _triton_asks_over_grpc(port: int, expected: Events) -> None:
    headers = {"x-api-key": KEY}
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_ready()
        energy = triton.InferInput("energy", expected.energy.shape, "FP32")
        energy.set_data_from_numpy(expected.energy)
        answer = client.infer("calogan-lean-int8", [energy], headers=headers, parameters={"seed": 7})
        np.testing.assert_array_equal(answer.as_numpy("showers"), expected.showers)
        with pytest.raises(InferenceServerException, match="a key is needed") as error:
            client.infer("calogan-lean-int8", [energy])
        assert error.value.status() == "StatusCode.UNAUTHENTICATED"


def _half_bodies_stop_nobody(url: str) -> None:
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    head = f"POST /v1/showers HTTP/1.1\r\nHost: test\r\nX-API-Key: {KEY}\r\nContent-Length: 40\r\n\r\n"
    with contextlib.ExitStack() as stack:
        half = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(300)]
        for connection in half:
            connection.sendall(head.encode() + b'{"energy"')
        with Client(url, KEY, patience_s=0) as client:
            assert len(client.sample(energy=50, n=10)) == 10
        assert {connection.recv(12) for connection in half} == {b"HTTP/1.1 408"}


def _a_client_that_leaves_ends_its_work(url: str) -> None:
    with Client(url, KEY) as client:
        for _ in client.hits(energy=50, n=100_000, seed=1):
            break
    start = time.monotonic()
    with Client(url, KEY) as client:
        client.sample(energy=50, n=1)
    assert time.monotonic() - start < 5  # all would take half a minute


def _a_killed_replica_is_hidden_by_the_client(url: str) -> None:
    with Client(url, KEY) as client:
        expected = client.sample(energy="2:500", n=1000, seed=7)
        parts = client.showers(energy="2:500", n=20_000, seed=7)
        events = [next(parts)]
        (replica,) = [process for process in psutil.process_iter() if _is_replica(process)]
        replica.kill()
        answer = httpx.post(f"{url}/v1/showers", json={"energy": 50}, headers={"X-API-Key": KEY}, timeout=60)
        assert answer.status_code == 200 or answer.json()["error"]["type"] in {"unavailable", "busy"}
        events += list(parts)
    showers = np.concatenate([part.showers for part in events[:20]])[:1000]
    assert sum(map(len, events)) == 20_000
    np.testing.assert_array_equal(showers, expected.showers)


def _is_replica(process: psutil.Process) -> bool:
    """Whether a process is the replica of this test, not one of somebody else's cluster."""
    with contextlib.suppress(psutil.Error):
        ours = any(parent.pid == os.getpid() for parent in process.parents())
        return ours and "ServeReplica:calogan:ShowerService" in " ".join(process.cmdline())
    return False


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False
