from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from calogan import bundle, lowering
from calogan.config import Quantization
from calogan.errors import ModelError, QuantizationError
from calogan.events import Events
from calogan.quantization import count_operations, quantize, read_graph

COMPRESS = "neural_compressor.tensorflow.quantize_model"


def test_the_int8_network_computes_in_int8_only(tiny_model: Path) -> None:
    counted = count_operations(read_graph(tiny_model / "network.int8.pb"))
    assert counted.integer_convolutions == 4
    assert counted.integer_products == 2
    assert counted.float_arithmetic == 0


def test_the_float32_network_has_the_same_operations_in_float32(tiny_model: Path) -> None:
    counted = count_operations(read_graph(tiny_model / "network.float32.pb"))
    assert (counted.integer_convolutions, counted.integer_products, counted.float_arithmetic) == (0, 0, 6)


def test_the_int8_network_is_a_quarter_of_the_size(tiny_model: Path) -> None:
    assert (tiny_model / "network.int8.pb").stat().st_size < (tiny_model / "network.float32.pb").stat().st_size / 3


def test_the_int8_network_is_little_more_than_its_weights(tiny_model: Path) -> None:
    definition = read_graph(tiny_model / "network.int8.pb")
    weights = sum(len(node.attr["value"].tensor.tensor_content) for node in definition.node if node.op == "Const")
    assert definition.ByteSize() < weights + 400 * len(definition.node)
    assert {"features", "out_outputs"} <= {node.name for node in definition.node}


def test_the_model_says_how_it_was_quantized(tiny_model: Path) -> None:
    described = bundle.read(tiny_model)
    assert described.network_files["int8"] == "network.int8.pb"
    assert described.quantization == Quantization(calibration_showers=32).model_dump()
    assert described.version("int8") != described.version("float32")


def test_only_the_showers_asked_for_calibrate(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def record(model: str, settings: object, loader: Any, calib_iteration: int) -> None:
        seen.extend(features for features, _ in loader)
        assert calib_iteration == len(seen) == len(loader)

    monkeypatch.setattr(COMPRESS, record)
    with pytest.raises(QuantizationError, match="gave no model back"):
        quantize(tiny_model, geant4, Quantization(calibration_showers=32), tmp_path / "int8")
    condition = np.concatenate(seen)[:, 0]
    np.testing.assert_allclose(np.exp(1.5 * condition) * 100, geant4.energy[:32], rtol=1e-5)
    assert not (tmp_path / "int8").exists()


def test_a_result_without_int8_is_refused(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = SimpleNamespace(
        graph_def=read_graph(tiny_model / "network.float32.pb"),
        input_tensor_names=["features"],
        output_tensor_names=["out_outputs:0"],
    )
    monkeypatch.setattr(COMPRESS, lambda *_, **__: unchanged)
    with pytest.raises(QuantizationError, match=r"without a single int8 convolution \(6 float32"):
        quantize(tiny_model, geant4, Quantization(), tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_a_failure_of_the_compressor_is_told_as_such(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("no such node")

    monkeypatch.setattr(COMPRESS, fail)
    with pytest.raises(QuantizationError, match="no such node"):
        quantize(tiny_model, geant4, Quantization(), tmp_path / "int8")


def test_without_weights_there_is_nothing_to_quantize(tiny_model: Path, geant4: Events, tmp_path: Path) -> None:
    bundle.copy(tiny_model, tmp_path / "copy")
    (tmp_path / "copy" / bundle.WEIGHTS).unlink()
    with pytest.raises(ModelError, match="is missing"):
        quantize(tmp_path / "copy", geant4, Quantization(), tmp_path / "int8")


def test_the_network_in_int8_stays_close_to_float32(tiny_model: Path, geant4: Events) -> None:
    described = bundle.read(tiny_model)
    model = lowering.load_generator_network(tiny_model, described)
    latent = np.random.default_rng(3).standard_normal((32, model.latent_size), np.float32)
    features, _ = model.prepare(geant4.energy[:32], latent)
    answers = []
    for precision in ("float32", "int8"):
        with tf.Graph().as_default() as graph:
            source, sink = tf.import_graph_def(
                read_graph(tiny_model / described.network_files[precision]),
                return_elements=["features:0", "out_outputs:0"],
                name="",
            )
            with tf.compat.v1.Session(graph=graph) as session:
                answers.append(session.run(sink, {source: np.asarray(features)}))
    float32, int8 = answers
    assert np.corrcoef(float32.ravel(), int8.ravel())[0, 1] > 0.99
