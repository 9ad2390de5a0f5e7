import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from calogan.benchmark.peers import base, loading
from calogan.benchmark.peers.base import Floats
from calogan.benchmark.peers.loading import Comparator, compare_speed
from calogan.config import Candidate
from calogan.errors import ModelError
from calogan.events import Events
from calogan.generation import freezing, generator, model_folder
from calogan.generation.generator import BATCH
from calogan.generation.random_numbers import latent_numbers
from calogan.quiet import silence

ENERGY = np.linspace(2, 500, 40, dtype=np.float32)
Load = Callable[[str], Comparator]

# The packages of the others take long to import and to convert with.
TFLITE = ["tflite-float16", "tflite-int8"]
KINDS = [pytest.param(kind, marks=() if kind in TFLITE else pytest.mark.slow) for kind in loading.KINDS]
INT8 = [parameter for parameter in KINDS if str(parameter.values[0]).endswith("int8")]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Load:
    @functools.cache
    def load(kind: str) -> Comparator:
        if kind not in loading.installed():
            pytest.skip("needs calogan[peers]")
        return loading.load(tiny_model, kind)

    return load


@pytest.fixture(scope="module")
def float32(tiny_model: Path) -> Events:
    return generator.load(tiny_model, precision="float32").sample(ENERGY, seed=3)


@pytest.fixture(scope="module")
def features(tiny_model: Path) -> Floats:
    """Inputs of the network, from energies and latent numbers outside the calibration sets."""
    description = model_folder.read(tiny_model)
    energy = np.linspace(2, 500, BATCH, dtype=np.float32)
    latent = latent_numbers(BATCH, seed=9, model=description)
    return np.asarray(freezing.load_generator_network(tiny_model, description).prepare(energy, latent)[0])


@pytest.fixture(scope="module")
def outputs(tiny_model: Path, features: Floats) -> Floats:
    """Outputs of the network in float32."""
    network = freezing.load_generator_network(tiny_model, model_folder.read(tiny_model)).network
    return np.asarray(network(features))


def distance(outputs: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(outputs - expected) / np.linalg.norm(expected - expected.mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_that_of_float32_to_the_precision(
    loaded: Load, features: Floats, outputs: Floats, kind: str
) -> None:
    allowed = 0.001 if kind.endswith("16") else 0.05
    assert 0 < distance(loaded(kind).network.run(features), outputs) < allowed


@pytest.mark.parametrize("kind", KINDS)
def test_showers_have_the_layers_energies_of_float32(loaded: Load, float32: Events, kind: str) -> None:
    # They are not the network's to change, except by cells at the threshold.
    showers = loaded(kind).sample(ENERGY, seed=3).showers
    assert not np.array_equal(showers, float32.showers)
    np.testing.assert_allclose(showers.sum((1, 2, 3)), float32.showers.sum((1, 2, 3)), rtol=2e-3)
    np.testing.assert_allclose(showers, float32.showers, atol=0.02 * float32.showers.max())


@pytest.mark.parametrize("kind", INT8)
def test_int8_is_computed_in_int8(loaded: Load, kind: str) -> None:
    operations = loaded(kind).network.operations
    assert (operations.integer_convolutions, operations.integer_products, operations.float_arithmetic) == (3, 2, 0)


def test_float16_is_computed_in_float32_from_half_the_bytes(loaded: Load, tiny_model: Path) -> None:
    network = loaded("tflite-float16").network
    operations = network.operations
    assert (operations.integer_convolutions, operations.integer_products, operations.float_arithmetic) == (0, 0, 5)
    own = tiny_model / model_folder.read(tiny_model).network_files["float16"]
    assert network.size_mb == pytest.approx(own.stat().st_size / 1e6, rel=0.1)
    assert network.size_mb > loaded("tflite-int8").network.size_mb


@pytest.mark.parametrize("kind", KINDS)
def test_a_shower_does_not_depend_on_how_many_are_asked_for(loaded: Load, kind: str) -> None:
    energy = np.resize(ENERGY, BATCH + 20)
    whole = loaded(kind).sample(energy, seed=5).showers
    part = loaded(kind).sample(energy[BATCH + 3 :], seed=5, first=BATCH + 3).showers
    np.testing.assert_array_equal(part, whole[BATCH + 3 :])


@pytest.mark.parametrize("kind", INT8)
def test_ranges_come_from_all_of_the_calibration(
    tiny_model: Path, features: Floats, outputs: Floats, loaded: Load, kind: str
) -> None:
    loaded(kind)  # or skip
    network = freezing.load_generator_network(tiny_model, model_folder.read(tiny_model)).network
    small = features / 10
    convert = loading._converter(kind)
    assert distance(convert(network, small).run(features), outputs) > 0.2
    assert distance(convert(network, np.concatenate([small, features])).run(features), outputs) < 0.2


def test_energies_to_calibrate_with_can_be_given(tiny_model: Path, loaded: Load) -> None:
    narrow = loading.load(tiny_model, "tflite-int8", calibration=np.full(4, 2, np.float32))
    showers = [sampler.sample(ENERGY, seed=3).showers for sampler in (narrow, loaded("tflite-int8"))]
    assert not np.array_equal(showers[0], showers[1])
    versions = {sampler.version for sampler in (narrow, *map(loaded, TFLITE))}
    assert len(versions | {model_folder.read(tiny_model).version("float32")}) == 4


def test_a_second_conversion_gives_the_same_showers(tiny_model: Path, loaded: Load) -> None:
    again, first = (
        sampler.sample(ENERGY, seed=3).showers
        for sampler in (loading.load(tiny_model, "tflite-int8"), loaded("tflite-int8"))
    )
    np.testing.assert_array_equal(again, first)


def test_batches_hold_every_row_and_are_whole() -> None:
    features = np.arange(3 * BATCH - 10, dtype=np.float32)[:, None]
    parts = base.batches(features)
    assert [len(batch) for batch in parts] == [BATCH] * 3
    np.testing.assert_array_equal(np.concatenate(parts)[: len(features)], features)
    np.testing.assert_array_equal(parts[-1][-10:], features[:10])


def test_a_comparator_that_cannot_be_loaded_is_an_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no comparator 'int8'; expected one of tflite-float16"):
        loading.load(tiny_model, "int8")
    monkeypatch.setitem(loading._PACKAGES, "tflite-int8", ("no_such_package",))
    with pytest.raises(ModelError, match=r"needs no_such_package.*calogan\[peers\]"):
        loading.load(tiny_model, "tflite-int8")
    assert "tflite-int8" not in loading.installed()


def test_a_configuration_names_the_precisions_and_runtimes_that_there_are() -> None:
    assert get_args(Candidate) == (*model_folder.PRECISIONS, *loading.KINDS)


def test_a_precision_and_a_runtime_are_loaded_by_their_names(tiny_model: Path, float32: Events) -> None:
    assert [loading.sampler(tiny_model, name).precision for name in ("int8", "tflite-int8")] == ["int8", "tflite-int8"]
    showers = loading.sampler(tiny_model, "float32", threads=2).sample(ENERGY, seed=3).showers
    np.testing.assert_array_equal(showers, float32.showers)
    with pytest.raises(ModelError, match=r"no precision 'int4'; there are float32, bfloat16, .*, openvino-int8"):
        loading.sampler(tiny_model, "int4")


def test_silence_covers_native_code_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with silence():
            sys.stdout.write("python")
            os.write(2, b"native")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    os.write(2, b"after")
    assert capfd.readouterr() == ("", "after")


@pytest.mark.parametrize("kind", KINDS)
def test_loading_writes_nothing_to_the_screen(
    tiny_model: Path, loaded: Load, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    loaded(kind)  # or skip
    capfd.readouterr()
    loading.load(tiny_model, kind).sample(ENERGY, seed=1)
    assert capfd.readouterr() == ("", "")


def test_speed_is_measured_side_by_side_with_the_model(tiny_model: Path, loaded: Load) -> None:
    samplers = {precision: generator.load(tiny_model, precision=precision) for precision in ("float32", "int8")}
    rounds: list[None] = []
    report = compare_speed(
        tiny_model,
        samplers | {"tflite-int8": loaded("tflite-int8")},
        rounds=2,
        progress=lambda: rounds.append(None),
    )
    assert list(report.timings) == ["float32", "int8", "tflite-int8"]
    assert len(rounds) == 3
    assert report.timings["float32"].speedup == report.timings["float32"].network_speedup == 1
    timing = report.timings["tflite-int8"]
    assert 0 < timing.network_ms_per_shower < timing.ms_per_shower
    assert timing.size_mb == loaded("tflite-int8").network.size_mb
    assert report.timings["int8"].operations.integer_convolutions == 3
