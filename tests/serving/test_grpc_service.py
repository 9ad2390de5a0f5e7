"""The Open Inference Protocol over gRPC; Triton's own client is the judge."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import uvicorn
from ray import cloudpickle
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from calogan.errors import ConfigError, RequestError
from calogan.serving import server
from calogan.serving.api import build_api
from calogan.serving.endpoint import Limits
from calogan.serving.grpc_service import InferenceService, add_servicer
from calogan.serving.keys import KeyRing

KEY = "key of the tests"
AUTH = {"authorization": f"Bearer {KEY}"}
ENERGIES = np.array([10, 100.5, 499.9], dtype=np.float32)
MODEL = "noise-int8"


@pytest.fixture(scope="module")
def address(samplers: dict[str, Any]) -> Iterator[str]:
    """Address of a server of gRPC, beside HTTP as `calogan serve` runs them."""
    limits = Limits(max_requests=2, max_waiting=2, wait_s=0.1)
    api = build_api(samplers, keys=KeyRing(key=KEY), limits=limits)
    service = InferenceService(api.state.endpoint, api.state.check_ready)
    both = server._Server(uvicorn.Config(api, log_config=None, lifespan="off"), service, "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=both.run, kwargs={"sockets": [listener]})
        thread.start()
        while not both.started:
            time.sleep(0.01)
        assert httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/health").is_success
        yield f"127.0.0.1:{both.grpc_port}"
        both.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    client = triton.InferenceServerClient(address)
    yield client
    client.close()


def tensor(name: str, values: Any, datatype: str) -> Any:
    array = np.asarray(values)
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made


def test_the_client_finds_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(headers=AUTH).name == "calogan"
    assert client.is_model_ready(MODEL, "3", headers=AUTH)
    metadata = client.get_model_metadata(MODEL, headers=AUTH)
    assert list(metadata.versions) == ["3"]
    assert [list(output.shape) for output in metadata.outputs] == [[-1, 25, 25, 25]]
    config = client.get_model_config(MODEL, headers=AUTH).config
    assert [(one.name, list(one.dims), one.optional) for one in config.input] == [
        ("energy", [-1], False),
        ("seed", [1], True),
        ("first", [1], True),
    ]
    index = client.get_model_repository_index(headers=AUTH)
    assert [(one.name, one.state) for one in index.models] == [("noise-float32", "READY"), ("noise-int8", "READY")]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_showers_arrive_bit_for_bit(client: Any, samplers: dict[str, Any], shape: tuple[int, ...]) -> None:
    inputs = [tensor("energy", ENERGIES.reshape(shape), "FP32")]
    inputs += [tensor(name, np.array([7]), "INT64") for name in ("seed", "first")]
    outputs = [triton.InferRequestedOutput("showers")]
    answer = client.infer(MODEL, inputs, outputs=outputs, headers=AUTH, request_id="job-42")
    expected = samplers["int8"].sample(ENERGIES, seed=7, first=7)
    np.testing.assert_array_equal(answer.as_numpy("showers"), expected.showers)
    assert answer.get_response().id == "job-42"
    assert answer.get_response().parameters["seed"].int64_param == 7


def test_a_seed_as_parameter_and_many_at_once(client: Any, samplers: dict[str, Any]) -> None:
    results: list[Any] = []
    arrived = threading.Semaphore(0)

    def keep(result: Any, error: Any) -> None:
        results.append(error or result)
        arrived.release()

    inputs = [tensor("energy", np.full(200, 50, dtype=np.float64), "FP64")]
    client.async_infer(MODEL, inputs, keep, model_version="3", headers=AUTH, parameters={"seed": 9})
    assert arrived.acquire(timeout=60)
    expected = samplers["int8"].sample(np.full(200, 50), seed=9)
    np.testing.assert_array_equal(results[0].as_numpy("showers"), expected.showers)


@pytest.mark.parametrize(
    ("inputs", "status", "message"),
    [
        ([("energy", np.array([1], np.float32), "FP32")], "INVALID_ARGUMENT", "outside 2 to 500 GeV"),
        ([("energy", np.array([np.nan], np.float32), "FP32")], "INVALID_ARGUMENT", "finite"),
        ([("energy", np.zeros(0, np.float32), "FP32")], "INVALID_ARGUMENT", "at least 1"),
        ([("energy", np.full(1001, 50, np.float32), "FP32")], "INVALID_ARGUMENT", "1000 allowed as application/grpc"),
        ([("energy", np.array([50]), "INT64")], "INVALID_ARGUMENT", "expected FP32"),
        ([("colour", np.array([50], np.float32), "FP32")], "INVALID_ARGUMENT", "is unknown"),
        ([("seed", np.array([50]), "INT64")], "INVALID_ARGUMENT", "the input energy is missing"),
        ([("energy", ENERGIES, "FP32"), ("seed", np.array([-1]), "INT64")], "INVALID_ARGUMENT", "seed"),
    ],
)
def test_what_goes_wrong_is_said(client: Any, inputs: list[Any], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as error:
        client.infer(MODEL, [tensor(*each) for each in inputs], headers=AUTH)
    assert error.value.status() == f"StatusCode.{status}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"raw_input_contents": [b"abc"]}, "3 bytes are no whole number of FP32"),
        ({"raw_input_contents": [b"abcd", b""]}, "1 inputs have 2 raw contents"),
        ({"raw_input_contents": [b"abcdabcd"]}, "2 numbers do not have shape"),
        ({"shape": [2**62, 2**62]}, "do not have shape"),
        ({"shape": []}, "do not have shape"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(address: str, changed: dict[str, Any], message: str) -> None:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    made = request.inputs.add(name="energy", datatype="FP32", shape=changed.get("shape", [1]))
    made.contents.fp32_contents.append(50.0)
    request.raw_input_contents.extend(changed.get("raw_input_contents", []))
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match=message):
            stub.ModelInfer(request, metadata=tuple(AUTH.items()))
        request.raw_input_contents[:], made.shape[:] = [], [1]
        assert len(stub.ModelInfer(request, metadata=tuple(AUTH.items())).raw_output_contents[0]) == 62_500
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest())


@pytest.mark.parametrize(
    ("headers", "message"),
    [({}, "a key is needed"), ({"x-api-key": "wrong"}, "the key is wrong"), ({"authorization": "Basic x"}, "is wrong")],
)
def test_the_key_is_needed(client: Any, headers: dict[str, str], message: str) -> None:
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match=message) as error:
            ask(MODEL, headers=headers)
        assert error.value.status() == "StatusCode.UNAUTHENTICATED"
    with pytest.raises(InferenceServerException, match=message):
        client.infer(MODEL, [tensor("energy", ENERGIES, "FP32")], headers=headers)


def test_unknown_models_and_failures_are_told_apart(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="choose from noise-float32, noise-int8") as error:
        client.get_model_metadata("other", headers=AUTH)
    assert error.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as error:
        client.infer(MODEL, [tensor("energy", ENERGIES, "FP32")], headers=AUTH, parameters={"seed": 666})
    assert error.value.status() == "StatusCode.INTERNAL"
    assert "secret" not in str(error.value)


def test_full_places_are_told(client: Any, samplers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 1.0)
    results: list[Any] = []
    arrived = threading.Semaphore(0)

    def keep(result: Any, error: Any) -> None:
        results.append(error or result)
        arrived.release()

    for _ in range(6):
        client.async_infer(MODEL, [tensor("energy", ENERGIES, "FP32")], keep, headers=AUTH)
    assert all(arrived.acquire(timeout=60) for _ in range(6))
    refused = [result for result in results if isinstance(result, InferenceServerException)]
    assert 0 < len(refused) < 6
    assert {error.status() for error in refused} == {"StatusCode.RESOURCE_EXHAUSTED"}


def test_a_taken_port_is_one_line(samplers: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as listener:
        api = build_api(samplers, keys=KeyRing(key=KEY))
        with pytest.raises(RequestError, match=r"gRPC cannot listen at 127\.0\.0\.1:.* give another --grpc-port"):
            server.run(api, listener, grpc_address=f"127.0.0.1:{taken.getsockname()[1]}")


def test_without_the_messages_the_extra_is_named(samplers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    api = build_api(samplers, keys=KeyRing(key=KEY))
    with pytest.raises(ConfigError, match=r"pip install 'calogan\[grpc\]'"):
        InferenceService(api.state.endpoint, api.state.check_ready)


def test_ray_can_send_the_messages() -> None:
    add_servicer(service_pb2_grpc.GRPCInferenceServiceServicer(), grpc.server(ThreadPoolExecutor(1)))
    request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[b"abcd"])
    assert cloudpickle.loads(cloudpickle.dumps(request)) == request
