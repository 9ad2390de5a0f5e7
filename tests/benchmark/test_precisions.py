import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from calogan.benchmark.precisions import BenchmarkReport, benchmark, tensorflow_network
from calogan.config import Benchmark, Config, Network
from calogan.errors import ModelError, QuantizationError
from calogan.generation import freezing, generator, model_folder
from calogan.networks.families import build_generator

ROUNDS = Benchmark(batch_size=16, repetitions=3)


@pytest.fixture(scope="module")
def report(tiny_model: Path) -> BenchmarkReport:
    return benchmark(tiny_model, ["int8"], ROUNDS)


def test_float32_is_always_among_them_and_its_ratio_is_one(report: BenchmarkReport) -> None:
    assert list(report.timings) == ["float32", "int8"]
    assert report.timings["float32"].speedup == report.timings["float32"].network_speedup == 1


def test_every_precision_has_the_same_metrics(report: BenchmarkReport) -> None:
    names = {
        *("perf/ms_per_shower", "perf/network_ms_per_shower", "perf/showers_per_s", "perf/speedup"),
        *("perf/network_speedup", "model/size_mb"),
        *("quant/integer_convolutions", "quant/integer_products", "quant/float_arithmetic"),
    }
    assert set(report.metrics("float32")) == set(report.metrics("int8")) == names


def test_the_figures_agree_with_each_other(report: BenchmarkReport, tiny_model: Path) -> None:
    float32, int8 = report.timings["float32"], report.timings["int8"]
    for timing in (float32, int8):
        assert timing.showers_per_s * timing.ms_per_shower == pytest.approx(1000)
        assert timing.network_ms_per_shower > 0
        assert timing.ms_per_shower_error >= 0
    # The ratio is taken within rounds, the times over all of them: equal but for the noise of a busy machine.
    assert int8.speedup == pytest.approx(float32.ms_per_shower / int8.ms_per_shower, rel=0.5)
    assert int8.size_mb == (tiny_model / model_folder.read(tiny_model).network_files["int8"]).stat().st_size / 1e6
    assert int8.operations.integer_convolutions > 0 == int8.operations.float_arithmetic


def test_the_report_as_json_is_whole(report: BenchmarkReport) -> None:
    written = json.loads(report.to_json())
    assert written["model"] == "tiny"
    assert written["batch_size"] == 16
    assert written["rounds"] == 3
    assert written["timings"]["int8"]["speedup"] == report.timings["int8"].speedup
    assert {"cpu_model", "cpu_isa", "git_commit", "seed"} <= set(written["header"])


@pytest.mark.parametrize("family", ["conv3d", "rehm2021"])
def test_a_network_is_timed_with_the_settings_that_it_generates_with(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(network=Network(family=family))
    build_generator(config.network).save_weights(tmp_path / "w.weights.h5")
    described = freezing.freeze(tmp_path / "w.weights.h5", config, tmp_path / "model")
    settings: list[Any] = []
    open_session = tf.compat.v1.Session

    def session(*, graph: tf.Graph, config: Any) -> Any:
        settings.append(config)
        return open_session(graph=graph, config=config)

    monkeypatch.setattr(tf.compat.v1, "Session", session)
    generator.load(tmp_path / "model", precision="float32")
    tensorflow_network(tmp_path / "model", described, "float32")
    generating, timing = settings
    assert timing == generating
    remapping = generating.graph_options.rewrite_options.remapping
    assert (remapping == RewriterConfig.OFF) is (family == "conv3d")


def test_int8_in_name_only_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    described = model_folder.read(tiny_model)
    float32 = (tiny_model / described.network_files["float32"]).read_bytes()
    model_folder.replace_network(tiny_model, described, float32, {}, target=tmp_path / "m")
    with pytest.raises(QuantizationError, match="no int8 convolution"):
        benchmark(tmp_path / "m", ["int8"], ROUNDS)


def test_a_precision_that_is_not_there_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    model_folder.copy(tiny_model, tmp_path / "m", precisions=("float32",))
    with pytest.raises(ModelError, match="has no int8, only float32"):
        benchmark(tmp_path / "m", ["int8"], ROUNDS)
    with pytest.raises(ModelError, match="no precision 'int4'"):
        benchmark(tmp_path / "m", ["int4"], ROUNDS)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("fails", [False, True])
def test_one_core_is_used_and_all_are_given_back(tiny_model: Path, fails: bool) -> None:
    before = os.sched_getaffinity(0)
    during: list[set[int]] = []
    started: list[threading.Thread] = []
    end = threading.Event()

    def look() -> None:
        during.append(os.sched_getaffinity(0))
        # As TensorFlow does when it first computes: a thread that outlives the benchmark.
        started.append(threading.Thread(target=end.wait))
        started[-1].start()
        if fails:
            raise ZeroDivisionError

    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                benchmark(tiny_model, [], ROUNDS, progress=look)
        else:
            benchmark(tiny_model, [], ROUNDS, progress=look)
        assert len(during) == (1 if fails else ROUNDS.repetitions + 1)
        assert all(len(cores) == 1 for cores in during)
        assert os.sched_getaffinity(0) == before
        assert all(os.sched_getaffinity(thread.native_id or 0) == before for thread in started)
    finally:
        end.set()
        for thread in started:
            thread.join()
