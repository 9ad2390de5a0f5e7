import os
import time
from pathlib import Path

import numpy as np
import pytest

from calogan.benchmark import contenders, stream
from calogan.benchmark.contenders import Contender
from calogan.benchmark.stream import Stream
from calogan.errors import ModelError, ServiceError
from calogan.generation import generator

PARAMETRIC = Contender("parametric", "parametric")
CORE = [max(os.sched_getaffinity(0))]


def test_energies_are_flat_in_any_stretch_and_do_not_depend_on_it() -> None:
    whole = stream.energies(1000)
    np.testing.assert_array_equal(stream.energies(30, 100), whole[100:130])
    assert whole.min() >= 2
    assert whole.max() <= 500
    assert whole.dtype == np.float32
    assert all(stream.energies(16, first).mean() == pytest.approx(251, abs=35) for first in range(0, 1000, 37))


def test_a_stream_draws_what_the_generator_does_and_tells_how_it_started(tiny_model: Path) -> None:
    with Stream(Contender("tiny int8", "model", tiny_model, "int8"), CORE) as running:
        assert 0 < running.start.latency_s < 120
        assert 0 < running.start.added_mb < running.start.memory_mb
        drawn = running.ask("sample", showers=8, batch=3)
        expected = generator.load(tiny_model, precision="int8").sample(stream.energies(8), seed=stream.SEED)
        np.testing.assert_array_equal(drawn.showers, expected.showers)
        digests = {
            running.ask("digest", showers=8, batch=batch, sparse=sparse) for batch in (1, 8) for sparse in (True, False)
        }
        assert len(digests) == 1
        ms, megabytes = running.ask("network", calls=1)
        assert ms > 0
        assert megabytes > 0


def test_a_timed_run_starts_when_it_should_and_counts_its_showers() -> None:
    with Stream(PARAMETRIC, CORE) as running:
        at = time.monotonic() + 0.2
        span = running.ask("draw", batch=2, calls=3, at=at)
        assert span.start >= at
        assert span.showers == 6
        assert span.ms_per_shower == pytest.approx(1000 * (span.end - span.start) / 6)
        assert span.memory_mb > 10


def test_what_a_stream_cannot_do_is_the_error_it_would_be_here(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"), Stream(Contender("x", "model", tmp_path, "int8"), CORE):
        pass


def test_a_stream_that_is_killed_is_an_error() -> None:
    with Stream(PARAMETRIC, CORE) as running:
        running._process.kill()
        with pytest.raises(ServiceError, match="the stream of parametric ended early"):
            running.ask("digest", showers=1, batch=1)


def test_a_stream_ends_with_its_context() -> None:
    with Stream(PARAMETRIC, CORE) as running:
        assert running._process.is_alive()
    assert not running._process.is_alive()


def test_contenders_of_a_model_are_its_precisions_float32_first(tiny_model: Path) -> None:
    both = contenders.of_model(tiny_model, ("int8", "bfloat16"))
    assert [each.name for each in both] == ["tiny float32", "tiny int8", "tiny bfloat16"]
    assert all(each.own_precision and each.network_file and each.network_file.is_file() for each in both)
    assert {path.suffix for path in both[1].files} == {".pb", ".npz"}
    assert PARAMETRIC.files == ()
    assert PARAMETRIC.network_file is None
