import os
from pathlib import Path

import pytest

from calogan.benchmark import contenders, streams
from calogan.benchmark.contenders import Contender
from calogan.benchmark.speed import Measured, Settings
from calogan.benchmark.stream import Stream
from calogan.benchmark.streams import StreamRate
from calogan.errors import GateError, ServiceError

SHORT = Settings(rounds=2, slot_s=0.001, batches=(16,))


def test_arrangements_use_at_most_the_cores_there_are() -> None:
    assert streams.arrangements(1) == [(1, 1)]
    assert streams.arrangements(2) == [(1, 1), (1, 2), (2, 1)]
    assert streams.arrangements(5) == [(1, 1), (1, 2), (1, 4), (1, 5), (2, 1), (2, 2), (4, 1), (5, 1)]
    assert (7, 8) in streams.arrangements(56)  # the best of the paper's node
    assert all(a * b <= 56 for a, b in streams.arrangements(56))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_streams_generate_at_once_and_in_turn_with_other_precisions(tiny_model: Path) -> None:
    before = os.sched_getaffinity(0)
    both = contenders.of_model(tiny_model, ("int8",))
    rates = streams.stream_rates(both, SHORT, chosen=[(2, 1)])
    assert [(rate.name, rate.streams, rate.threads, rate.batch) for rate in rates] == [
        ("tiny float32", 2, 1, 16),
        ("tiny int8", 2, 1, 16),
    ]
    assert all(rate.showers_per_s.median > 0 for rate in rates)
    assert os.sched_getaffinity(0) == before


def test_a_stream_that_ends_early_is_an_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # with it no interpreter starts
    with pytest.raises(ServiceError, match="the stream of tiny int8 ended early"):
        streams.stream_rates([Contender("tiny int8", "model", tiny_model, "int8")], SHORT, chosen=[(1, 1)])


def test_arrangements_that_give_other_showers_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Contender("parametric", "parametric")
    ask, numbers = Stream.ask, iter(range(100))

    def other(stream: Stream, what: str, **arguments: object) -> object:
        return str(next(numbers)) if what == "digest" else ask(stream, what, **arguments)

    monkeypatch.setattr(Stream, "ask", other)
    with pytest.raises(GateError, match="parametric gives other showers with 1 streams of 1 threads"):
        streams.stream_rates([simulated], SHORT, chosen=[(1, 1), (1, 1)])


def test_the_best_is_the_simplest_of_those_that_are_alike() -> None:
    def rate(streams: int, threads: int, per_s: float, spread: float = 1.0) -> StreamRate:
        return StreamRate("int8", streams, threads, 256, Measured(per_s, spread))

    assert streams.best([rate(1, 2, 95), rate(2, 1, 100)]) == rate(2, 1, 100)
    assert streams.best([rate(1, 2, 99.5), rate(2, 1, 100)]) == rate(1, 2, 99.5)
