"""Triton's own client is the judge."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

KEY = "key of the tests"
AUTH = {"X-API-Key": KEY}  # to be copied, because the client adds to the headers it is given
ENERGIES = np.array([10, 100.5, 499.9], dtype=np.float32)
MODEL = "noise-int8"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    yield client
    client.close()


def tensor(name: str, values: Any, datatype: str, *, binary: bool = True) -> Any:
    array = np.asarray(values)
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_the_client_finds_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(headers=dict(AUTH))["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready(MODEL, headers=dict(AUTH))
    assert client.is_model_ready(MODEL, "3", headers=dict(AUTH))
    assert not client.is_model_ready(MODEL, "4", headers=dict(AUTH))
    metadata = client.get_model_metadata(MODEL, headers=dict(AUTH))
    assert metadata["versions"] == ["3"]
    assert [output["shape"] for output in metadata["outputs"]] == [[-1, 25, 25, 25]]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_showers_arrive_bit_for_bit(
    client: Any, samplers: dict[str, Any], binary_in: bool, binary_out: bool, shape: tuple[int, ...]
) -> None:
    inputs = [tensor("energy", ENERGIES.reshape(shape), "FP32", binary=binary_in)]
    inputs += [tensor(name, np.array([7]), "INT64", binary=binary_in) for name in ("seed", "first")]
    outputs = [triton.InferRequestedOutput("showers", binary_data=binary_out)]
    answer = client.infer(MODEL, inputs, outputs=outputs, headers=dict(AUTH), request_id="job-42")
    expected = samplers["int8"].sample(ENERGIES, seed=7, first=7)
    np.testing.assert_array_equal(answer.as_numpy("showers"), expected.showers)
    assert answer.get_response()["id"] == "job-42"
    assert answer.get_response()["parameters"] == {"seed": 7}


def test_without_outputs_and_with_a_seed_as_parameter(client: Any, samplers: dict[str, Any]) -> None:
    inputs = [tensor("energy", np.full(200, 50, dtype=np.float32), "FP32")]
    answer = client.infer(MODEL, inputs, model_version="3", headers=dict(AUTH), parameters={"seed": 9})
    expected = samplers["int8"].sample(np.full(200, 50), seed=9)
    np.testing.assert_array_equal(answer.as_numpy("showers"), expected.showers)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("energy", np.array([1], np.float32), "FP32")], "outside 2 to 500 GeV"),
        ([("energy", np.array([np.nan], np.float32), "FP32")], "finite"),
        ([("energy", np.zeros(0, np.float32), "FP32")], "at least 1"),
        ([("energy", np.array([50]), "INT64")], "expected FP32"),
        ([("colour", np.array([50], np.float32), "FP32")], "is unknown"),
        ([("seed", np.array([50]), "INT64")], "the input energy is missing"),
        ([("energy", ENERGIES, "FP32"), ("seed", np.array([1, 2]), "INT64")], "expected one"),
        ([("energy", ENERGIES, "FP32"), ("seed", np.array([-1]), "INT64")], "seed"),
    ],
)
def test_what_goes_wrong_is_said(client: Any, inputs: list[Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        client.infer(MODEL, [tensor(*each) for each in inputs], headers=dict(AUTH))


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"", None, "JSON"),
        (b"[]", None, "object"),
        (b"{}", None, "inputs"),
        (b"{}", "9", "expected the number of bytes"),
        (b"{}", "x", "expected the number of bytes"),
        (
            b'{"inputs":[{"name":"energy","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}',
            None,
            "4 bytes are not those",
        ),
        (b'{"inputs":[{"name":"energy","datatype":"FP32","shape":[1],"data":["a"]}]}', None, "not numbers"),
        (b'{"inputs":[{"name":"energy","datatype":"FP32","shape":[2],"data":[50]}]}', None, "do not have shape"),
        (
            b'{"inputs":[{"name":"energy","datatype":"FP32","shape":[1],"data":[50]}],"outputs":[{"name":"x"}]}',
            None,
            "x",
        ),
    ],
)
def test_a_body_of_another_kind_is_refused(url: str, body: bytes, length: str | None, message: str) -> None:
    headers = AUTH | ({"Inference-Header-Content-Length": length} if length else {})
    answer = httpx.post(f"{url}/v2/models/{MODEL}/infer", content=body, headers=headers)
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_the_key_is_needed(client: Any, url: str) -> None:
    with pytest.raises(InferenceServerException, match="a key is needed"):
        client.get_model_metadata(MODEL)
    assert httpx.get(f"{url}/v2/models/other", headers=dict(AUTH)).json() == {
        "error": "model 'other' is not served here; choose from noise-float32, noise-int8"
    }
