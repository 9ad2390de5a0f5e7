import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calogan import bundle, comparators, generator
from calogan.comparators import Comparator, base
from calogan.comparators.timing import compare_speed
from calogan.errors import ModelError
from calogan.events import Events
from calogan.generator import BATCH

ENERGY = np.linspace(2, 500, 40, dtype=np.float32)
INT8 = [kind for kind in comparators.installed() if kind.endswith("int8")]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> dict[str, Comparator]:
    return {kind: comparators.load(tiny_model, kind) for kind in comparators.installed()}


@pytest.fixture(scope="module")
def float32(tiny_model: Path) -> Events:
    return generator.load(tiny_model, precision="float32").sample(ENERGY, seed=3)


@pytest.mark.parametrize("kind", comparators.KINDS)
def test_showers_are_those_of_float32_to_the_precision(
    loaded: dict[str, Comparator], float32: Events, kind: str
) -> None:
    if kind not in loaded:
        pytest.skip("not installed")
    events = loaded[kind].sample(ENERGY, seed=3)
    difference = np.abs(events.showers - float32.showers).sum() / float32.showers.sum()
    assert 0 < difference < (0.002 if kind.endswith("16") else 0.05)
    # The layers' energies are not the network's to change, except by cells at the threshold.
    np.testing.assert_allclose(events.showers.sum((1, 2, 3)), float32.showers.sum((1, 2, 3)), rtol=2e-3)


@pytest.mark.parametrize("kind", INT8)
def test_int8_is_computed_in_int8(loaded: dict[str, Comparator], kind: str) -> None:
    counted = loaded[kind].network.operations
    assert (counted.integer_convolutions, counted.integer_products, counted.float_arithmetic) == (4, 2, 0)


def test_float16_is_computed_in_float32_from_half_the_bytes(loaded: dict[str, Comparator], tiny_model: Path) -> None:
    network = loaded["tflite-float16"].network
    counted = network.operations
    assert (counted.integer_convolutions, counted.integer_products, counted.float_arithmetic) == (0, 0, 6)
    assert network.size_mb == pytest.approx((tiny_model / "network.float16.pb").stat().st_size / 1e6, rel=0.1)
    assert network.size_mb > loaded["tflite-int8"].network.size_mb


def test_a_shower_does_not_depend_on_how_many_are_asked_for(loaded: dict[str, Comparator]) -> None:
    energy = np.resize(ENERGY, BATCH + 20)
    for sampler in loaded.values():
        whole = sampler.sample(energy, seed=5).showers
        part = sampler.sample(energy[BATCH + 3 :], seed=5, first=BATCH + 3).showers
        np.testing.assert_array_equal(part, whole[BATCH + 3 :])


def test_versions_tell_comparators_apart(loaded: dict[str, Comparator], tiny_model: Path) -> None:
    versions = {sampler.version for sampler in loaded.values()} | {bundle.read(tiny_model).version("float32")}
    assert len(versions) == len(loaded) + 1
    assert [sampler.precision for sampler in loaded.values()] == list(loaded)


def test_ranges_come_from_the_calibration(tiny_model: Path, loaded: dict[str, Comparator], float32: Events) -> None:
    # Four showers of one energy do not show what the network's values can be.
    narrow = comparators.load(tiny_model, "tflite-int8", calibration=np.full(4, 2, np.float32))
    poor, good = (
        np.abs(sampler.sample(ENERGY, seed=3).showers - float32.showers).sum()
        for sampler in (narrow, loaded["tflite-int8"])
    )
    assert poor > 1.2 * good


def test_batches_hold_every_row_and_are_whole() -> None:
    features = np.arange(3 * BATCH - 10, dtype=np.float32)[:, None]
    found = base.batches(features)
    assert [len(batch) for batch in found] == [BATCH] * 3
    np.testing.assert_array_equal(np.concatenate(found)[: len(features)], features)
    np.testing.assert_array_equal(found[-1][-10:], features[:10])


def test_what_cannot_be_loaded_is_an_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no comparator 'int8'; there are tflite-float16"):
        comparators.load(tiny_model, "int8")
    monkeypatch.setitem(comparators._PACKAGES, "tflite-int8", ("no_such_package",))
    with pytest.raises(ModelError, match=r"needs no_such_package.*calogan\[peers\]"):
        comparators.load(tiny_model, "tflite-int8")
    assert "tflite-int8" not in comparators.installed()


def test_silence_covers_native_code_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with base.silence():
            sys.stdout.write("python")
            os.write(2, b"native")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    os.write(2, b"after")
    assert capfd.readouterr() == ("", "after")


def test_loading_writes_nothing_to_the_screen(tiny_model: Path) -> None:
    code = f"""
from calogan import quiet
quiet.load_tensorflow()
from calogan import comparators
comparators.load({str(tiny_model)!r}, "tflite-int8").sample([100.0], seed=1)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout + answer.stderr == ""


def test_speed_is_measured_beside_the_model_itself(tiny_model: Path, loaded: dict[str, Comparator]) -> None:
    samplers = {precision: generator.load(tiny_model, precision=precision) for precision in ("float32", "int8")}
    rounds: list[None] = []
    report = compare_speed(
        tiny_model,
        samplers | {"tflite-int8": loaded["tflite-int8"]},
        rounds=2,
        progress=lambda: rounds.append(None),
    )
    assert list(report.timings) == ["float32", "int8", "tflite-int8"]
    assert len(rounds) == 3
    assert report.timings["float32"].speedup == report.timings["float32"].network_speedup == 1
    timing = report.timings["tflite-int8"]
    assert 0 < timing.network_ms_per_shower < timing.ms_per_shower
    assert timing.size_mb == loaded["tflite-int8"].network.size_mb
    assert report.timings["int8"].operations.integer_convolutions == 4
