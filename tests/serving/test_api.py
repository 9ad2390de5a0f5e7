import re
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from calogan import provenance
from calogan.serving.api import build_api
from calogan.serving.encodings import ENCODINGS, decode
from calogan.serving.keys import KeyRing

KEY = "key of the tests"
Samplers = dict[str, Any]
Start = Callable[[Any], str]
ORDER: dict[str, Any] = {"energies": [10, 100.5], "seed": 7}


def error_of(answer: httpx.Response) -> dict[str, str]:
    """Return the error of an answer, after checking that it has the one form all errors have."""
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    error: dict[str, str] = answer.json()["error"]
    assert set(error) == {"type", "message", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("accept", "suffix"), [("application/x-hdf5", "h5"), ("application/x-npz", "npz"), ("application/json", "json")]
)
def test_showers_come_in_the_encoding_asked_for(
    http: httpx.Client, samplers: Samplers, accept: str, suffix: str
) -> None:
    answer = http.post("/v1/showers", json=ORDER, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == accept
    events = decode(answer.content, accept)
    expected = samplers["int8"].sample([10, 100.5], seed=7)
    np.testing.assert_array_equal(events.showers, expected.showers)
    np.testing.assert_array_equal(events.energy, expected.energy)
    assert answer.headers["x-seed"] == "7"
    assert answer.headers["x-precision"] == "int8"
    assert answer.headers["x-model-version"] == "3"
    assert answer.headers["content-disposition"] == f'attachment; filename="showers-int8-7.{suffix}"'


def test_equal_requests_give_equal_bytes(http: httpx.Client) -> None:
    first, again, other = (http.post("/v1/showers", json=ORDER | {"seed": seed}).content for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_energy_and_n_mean_the_same_as_a_list(http: httpx.Client) -> None:
    answer = http.post("/v1/showers", json={"energies": [50, 50, 50], "seed": 1})
    assert http.post("/v1/showers", json={"energy": 50, "n": 3, "seed": 1}).content == answer.content
    single = http.post("/v1/showers", json={"energy": 50, "seed": 1})
    assert len(decode(single.content, "application/x-hdf5")) == 1


def test_a_seed_the_server_drew_gives_the_showers_again(http: httpx.Client) -> None:
    answer = http.post("/v1/showers", json={"energy": 50})
    seed = int(answer.headers["x-seed"])
    assert 0 <= seed < 2**63
    assert http.post("/v1/showers", json={"energy": 50, "seed": seed}).content == answer.content
    assert http.post("/v1/showers", json={"energy": 50}).headers["x-seed"] != answer.headers["x-seed"]


def test_a_precision_can_be_chosen(http: httpx.Client) -> None:
    answer = http.post("/v1/showers", json=ORDER | {"precision": "float32"})
    assert answer.headers["x-precision"] == "float32"


def test_limits_belong_to_what_is_allowed(http: httpx.Client) -> None:
    for body in ({"energy": 2}, {"energy": 500}, {"energy": 2, "n": 200}, {"energy": 2, "seed": 0, "n": 1}):
        assert http.post("/v1/showers", json=body).status_code == 200, body
    assert http.post("/v1/showers", json={"energy": 2, "seed": 2**63 - 1}).headers["x-seed"] == str(2**63 - 1)
    json_only = {"Accept": "application/json"}
    assert http.post("/v1/showers", json={"energy": 2, "n": 100}, headers=json_only).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("\xff", "Invalid JSON"),
        ("[1, 2]", "object"),
        ("null", "object"),
        ("{}", "give either energies, or energy and n"),
        ('{"energies": [1], "energy": 1}', "give either energies, or energy and n"),
        ('{"energies": [10], "n": 1}', "n goes with energy"),
        ('{"n": 3}', "give either energies"),
        ('{"energies": []}', "energies: List should have at least 1 item"),
        ('{"energies": 10}', "energies: "),
        ('{"energies": [10, "20"]}', "energies[1]: "),
        ('{"energies": [10, -20]}', "energies[1]: Input should be greater than 0"),
        ('{"energies": [0]}', "energies[0]: Input should be greater than 0"),
        ('{"energies": [NaN]}', "energies[0]: Input should be a finite number"),
        ('{"energies": [1e999]}', "energies[0]: Input should be a finite number"),
        ('{"energies": [-Infinity]}', "energies[0]: "),
        ('{"energies": [true]}', "energies[0]: Input should be a valid number"),
        ('{"energies": [null, null, null, null, null]}', "; and 2 more"),
        ('{"energies": [50, 1.99]}', "energy 1.99 GeV is outside 2 to 500 GeV"),
        ('{"energy": 500.1}', "energy 500.1 GeV is outside 2 to 500 GeV"),
        ('{"energy": 1e300}', "outside 2 to 500 GeV"),
        ('{"energy": 1e-300}', "outside 2 to 500 GeV"),
        ('{"energy": 50, "n": 0}', "n: Input should be greater than or equal to 1"),
        ('{"energy": 50, "n": -3}', "n: Input should be greater than or equal to 1"),
        ('{"energy": 50, "n": 1.5}', "n: Input should be a valid integer"),
        ('{"energy": 50, "n": 201}', "201 showers are more than the 200 allowed in one request"),
        ('{"energy": 50, "n": 1' + "0" * 40 + "}", "more than the 200"),
        ('{"energies": [' + ", ".join(["50"] * 201) + "]}", "201 showers are more than the 200"),
        ('{"energy": 50, "seed": -1}', "seed: Input should be greater than or equal to 0"),
        ('{"energy": 50, "seed": 9223372036854775808}', "seed: Input should be less than 9223372036854775808"),
        ('{"energy": 50, "seed": "7"}', "seed: Input should be a valid integer"),
        ('{"energy": 50, "precision": "int4"}', "precision 'int4' is not served here; choose from float32, int8"),
        ('{"energy": 50, "colour": 1}', "colour: unknown key; the keys are energy, n, seed, first, precision"),
    ],
)
def test_the_answer_to_a_bad_body_names_the_problem(http: httpx.Client, body: str, message: str) -> None:
    answer = http.post("/v1/showers", content=body.encode("latin-1"))
    assert answer.status_code == 422
    error = error_of(answer)
    assert error["type"] == "invalid_request"
    assert message in error["message"]


def test_json_has_a_limit_of_its_own(http: httpx.Client) -> None:
    answer = http.post("/v1/showers", json={"energy": 50, "n": 101}, headers={"Accept": "application/json"})
    assert answer.status_code == 422
    assert "accept application/vnd.apache.arrow.stream for more" in error_of(answer)["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_not_read_to_its_end(http: httpx.Client, chunked: bool) -> None:
    part = b"50, " * 10_000
    answer = http.post("/v1/showers", content=(part for _ in range(3)) if chunked else part * 3)
    assert answer.status_code == 413
    assert error_of(answer)["type"] == "too_large"


def test_the_error_of_an_unsupported_media_type_lists_the_supported_ones(http: httpx.Client) -> None:
    answer = http.post("/v1/showers", json=ORDER, headers={"Accept": "text/html"})
    assert answer.status_code == 406
    assert ", ".join(ENCODINGS) in error_of(answer)["message"]


@pytest.mark.parametrize("route", [("GET", "/v1/models"), ("POST", "/v1/showers")])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": "schlüssel".encode()},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic a2V5"},
        {"Authorization": KEY},
    ],
)
def test_without_the_key_nothing_is_told(url: str, route: tuple[str, str], headers: dict[str, str]) -> None:
    answer = httpx.request(*(route[0], url + route[1]), headers=headers, content=b"{ not even JSON")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = error_of(answer)
    assert error["type"] == "unauthorized"
    assert KEY not in answer.text


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}]
)
def test_the_key_can_be_sent_in_two_ways(url: str, headers: dict[str, str]) -> None:
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200


def test_a_wrong_key_is_refused_also_beside_the_right_one(url: str) -> None:
    headers = {"X-API-Key": KEY, "Authorization": "Bearer wrong"}
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 401


def test_models_are_listed(http: httpx.Client) -> None:
    answer = http.get("/v1/models").json()
    assert answer["max_showers"] == 200
    assert answer["isa"] == provenance.cpu()["isa"]
    shared = {"name": "noise", "version": "3", "energy_range": {"low": 2.0, "high": 500.0}}
    assert answer["models"] == [
        shared | {"precision": "float32", "default": False},
        shared | {"precision": "int8", "default": True},
    ]


def test_health_and_documents_need_no_key(url: str) -> None:
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/docs").status_code == 200
    schema = httpx.get(f"{url}/openapi.json").json()
    assert set(schema["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    operation = schema["paths"]["/v1/showers"]["post"]
    assert {"HTTPBearer": []} in operation["security"]
    assert set(operation["responses"]["200"]["content"]) == set(ENCODINGS)
    assert {"408", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert "security" not in schema["paths"]["/health"]["get"]


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_the_pages_of_documentation_load_nothing_from_elsewhere(url: str, page: str) -> None:
    text = httpx.get(f"{url}/{page}").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", text)
    assert addresses
    for address in addresses:
        assert address.startswith("/")
        assert httpx.get(url + address).is_success


def test_the_examples_in_the_schema_work(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    body = schema["paths"]["/v1/showers"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) >= 2
    for example in body["examples"].values():
        assert http.post("/v1/showers", json=example["value"]).status_code == 200


@pytest.mark.parametrize("path", ["/v3", "/v1/nothing"])
def test_an_unknown_route_has_the_same_form_of_error(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert error_of(answer)["type"] == "not_found"


def test_a_wrong_method_has_the_same_form_of_error(http: httpx.Client) -> None:
    answer = http.get("/v1/showers")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert error_of(answer)["type"] == "method_not_allowed"


def test_a_failure_of_the_generator_is_logged_but_not_sent(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = http.post("/v1/showers", json={"energy": 50, "seed": 666}, headers={"X-Request-Id": "job-42"})
    assert answer.status_code == 500
    assert error_of(answer) == {
        "type": "internal",
        "message": "the server failed; report the request_id to its operator",
        "request_id": "job-42",
    }
    ours = [record for record in caplog.records if record.name == "calogan.serving.answers"]
    assert [record.getMessage() for record in ours] == ["request job-42 failed"]
    assert ours[0].exc_info is not None
    assert ours[0].exc_info[0] is ZeroDivisionError
    assert http.post("/v1/showers", json={"energy": 50}).status_code == 200


@pytest.mark.parametrize(
    ("request_id", "accepted"), [("job-42 of 7", True), ("x" * 128, True), ("x" * 129, False), ("", False)]
)
def test_a_request_keeps_the_id_of_the_client_if_it_is_fit_for_a_log(
    http: httpx.Client, request_id: str, accepted: bool
) -> None:
    answer = http.post("/v1/showers", json=ORDER, headers={"X-Request-Id": request_id})
    assert (answer.headers["x-request-id"] == request_id) is accepted
    assert answer.headers["x-request-id"]


def test_behind_a_proxy_that_names_requests_the_id_is_only_in_the_body(start: Start, samplers: Samplers) -> None:
    url = start(build_api(samplers, keys=KeyRing(key=KEY), name_requests=False))
    answer = httpx.get(f"{url}/v1/models", headers={"X-Request-Id": "job-42"})
    assert "x-request-id" not in answer.headers
    assert answer.json()["error"]["request_id"] == "job-42"


def test_health_answers_while_showers_are_made_one_request_at_a_time(
    http: httpx.Client, samplers: Samplers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers["int8"], "delay_s", 0.4)
    answers: list[int] = []

    def ask() -> None:
        answers.append(http.post("/v1/showers", json=ORDER).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while samplers["int8"].running == 0:
        time.sleep(0.01)
    start = time.monotonic()
    assert http.get("/health").status_code == 200
    assert time.monotonic() - start < 0.3
    assert samplers["int8"].running == 1
    for thread in threads:
        thread.join()
    assert answers == [200, 200, 200]
    assert samplers["int8"].most_running == 1


@pytest.mark.parametrize(("with_samplers", "key"), [(False, KEY), (True, "")])
def test_an_api_without_generators_or_key_is_not_built(samplers: Samplers, with_samplers: bool, key: str) -> None:
    with pytest.raises(ValueError, match="at least one sampler and a key"):
        build_api(samplers if with_samplers else {}, keys=KeyRing(key=key))


def test_without_int8_the_first_precision_is_the_default(start: Start, samplers: Samplers) -> None:
    url = start(build_api({"float32": samplers["float32"]}, keys=KeyRing(key=KEY)))
    answer = httpx.post(f"{url}/v1/showers", json=ORDER, headers={"X-API-Key": KEY})
    assert answer.headers["x-precision"] == "float32"


def test_a_wrong_method_is_told_all_right_ones(http: httpx.Client) -> None:
    for path, allowed in (("/v1/productions", "GET, POST"), (f"/v1/productions/{'0' * 32}", "DELETE, GET"), ("/", "")):
        answer = http.put(path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed or not allowed
