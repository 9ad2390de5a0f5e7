import os
from pathlib import Path

import pytest

from calogan.benchmark import streams
from calogan.errors import ServiceError


def test_arrangements_use_at_most_the_cores_there_are() -> None:
    assert streams.arrangements(1) == [(1, 1)]
    assert streams.arrangements(2) == [(1, 1), (1, 2), (2, 1)]
    assert streams.arrangements(5) == [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_streams_generate_at_once(tiny_model: Path) -> None:
    before = os.sched_getaffinity(0)
    (rate,) = streams.stream_rates(tiny_model, "int8", showers=32, rounds=2, settings=[(2, 1)])
    assert (rate.streams, rate.threads) == (2, 1)
    assert rate.showers_per_s > 0
    assert os.sched_getaffinity(0) == before


def test_a_stream_that_ends_early_is_an_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # with it no interpreter starts
    with pytest.raises(ServiceError, match="one of 1 streams ended early"):
        streams.stream_rates(tiny_model, "int8", settings=[(1, 1)])
