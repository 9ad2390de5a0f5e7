import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from calogan.errors import CaloganError, RequestError, ServiceError
from calogan.serving.client import fetch_showers
from calogan.serving.encodings import HDF5

KEY = "key of the tests"
ENERGIES = np.array([10, 100.5, 499.9], dtype=np.float32)


def test_showers_arrive_bit_for_bit(url: str, samplers: dict[str, Any]) -> None:
    events = fetch_showers(url + "/", energies=ENERGIES, seed=7, precision="float32", api_key=KEY)
    expected = samplers["float32"].sample(ENERGIES, seed=7)
    np.testing.assert_array_equal(events.showers, expected.showers)
    np.testing.assert_array_equal(events.energy, ENERGIES)


def test_without_a_seed_each_call_gives_other_showers(url: str) -> None:
    first, second = (fetch_showers(url, energies=[50.0], api_key=KEY) for _ in range(2))
    assert not np.array_equal(first.showers, second.showers)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"energies": []}, RequestError, "at least one finite number"),
        ({"energies": 50}, RequestError, "at least one finite number"),
        ({"energies": [50, np.nan]}, RequestError, "at least one finite number"),
        ({"energies": [1000.0]}, RequestError, "energy 1000 GeV is outside 2 to 500 GeV"),
        ({"energies": [50.0] * 201}, RequestError, "201 showers are more than the 200"),
        ({"energies": [50.0] * 40_000}, RequestError, "the body is longer than"),
        ({"seed": -1}, RequestError, "seed: "),
        ({"precision": "int4"}, RequestError, "choose from float32, int8"),
        ({"api_key": "wrong"}, ServiceError, "refused the key: the key is wrong for this endpoint"),
        ({"api_key": "ключ"}, ServiceError, "refused the key"),
        ({"seed": 666}, ServiceError, "answered 500 Internal Server Error: the server failed"),
        ({"url": "http://127.0.0.1:1"}, ServiceError, "cannot be reached .*check the address"),
        ({"url": "127.0.0.1:1"}, ServiceError, "cannot be reached|is not an address"),
        ({"url": "http://127.0.0.1:port"}, ServiceError, "is not an address"),
        ({"url": ""}, ServiceError, "cannot be reached|is not an address"),
        ({"api_key": "two\nlines"}, ServiceError, "cannot be reached"),
    ],
)
def test_what_goes_wrong_is_said(url: str, changed: dict[str, Any], error: type[CaloganError], message: str) -> None:
    arguments: dict[str, Any] = {"url": url, "energies": [50.0], "api_key": KEY} | changed
    with pytest.raises(error, match=message):
        fetch_showers(arguments.pop("url"), **arguments)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (HTMLResponse("<html>sign in first</html>"), ServiceError, "text/html.* instead of showers; is it the address"),
        (Response(), ServiceError, "no content type instead of showers"),
        (Response(b"not HDF5", media_type=HDF5.media_type), ServiceError, "something else than showers: 8 bytes"),
        (HTMLResponse("<h1>Bad Gateway</h1>", 502), ServiceError, "answered 502 Bad Gateway: <h1>Bad Gateway</h1>"),
        (RedirectResponse("/login"), ServiceError, "answered 307"),
        (JSONResponse({"detail": "n"}, 422), ServiceError, "answered 422"),
        (JSONResponse(["n"], 422), ServiceError, "answered 422"),
        (Response("backpressure", 429, {"Retry-After": "5"}), ServiceError, "busy or not ready; try again in 5 s"),
        (Response("backpressure", 503), ServiceError, "busy or not ready; try again later"),
        (Response("no", 403), ServiceError, "refused the key: Forbidden"),
    ],
)
def test_a_server_of_another_kind_is_recognised(
    start: Callable[[Any], str], answer: Response, error: type[CaloganError], message: str
) -> None:
    stranger = FastAPI()
    stranger.add_api_route("/v1/showers", lambda: answer, methods=["POST"], response_model=None)
    with pytest.raises(error, match=message):
        fetch_showers(start(stranger), energies=[50.0], api_key=KEY)


def test_showers_of_other_energies_are_not_taken(start: Callable[[Any], str], samplers: dict[str, Any]) -> None:
    events = samplers["int8"].sample(ENERGIES, seed=1)
    answer = Response(HDF5.encode(events, {}), media_type=HDF5.media_type)
    stranger = FastAPI()
    stranger.add_api_route("/v1/showers", lambda: answer, methods=["POST"], response_model=None)
    with pytest.raises(ServiceError, match="3 showers of other energies than the 1 requested"):
        fetch_showers(start(stranger), energies=[50.0], api_key=KEY)


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes a connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_silent_is_given_up_after_the_timeout(silent: str) -> None:
    with pytest.raises(ServiceError, match=r"did not answer within 0.2 s"):
        fetch_showers(silent, energies=[50.0], api_key=KEY, timeout=0.2)


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-hdf5\r\nContent-Length: 900\r\n\r\nhalf"
                )

        thread = threading.Thread(target=answer_half)
        thread.start()
        with pytest.raises(ServiceError, match="cannot be reached"):
            fetch_showers(f"http://127.0.0.1:{listener.getsockname()[1]}", energies=[50.0], api_key=KEY)
        thread.join()
