import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from calogan.cli.main import cli
from calogan.config import Quantization
from calogan.errors import ModelError, QuantizationError
from calogan.events import Events, write_events
from calogan.generation import freezing, model_folder
from calogan.generation.graphs import read_graph
from calogan.provenance import has_integer_instructions
from calogan.quantization.operations import count_operations, slow_integer_note
from calogan.quantization.quantize import operation_names, quantize

COMPRESS = "neural_compressor.tensorflow.quantize_model"


def network_file(model: Path, precision: str) -> Path:
    return model / model_folder.read(model).network_files[precision]


def test_the_int8_network_computes_in_int8_only(tiny_model: Path) -> None:
    counted = count_operations(read_graph(network_file(tiny_model, "int8")))
    assert counted.integer_convolutions == 3
    assert counted.integer_products == 2
    assert counted.float_arithmetic == 0


def test_the_float32_network_has_the_same_operations_in_float32(tiny_model: Path) -> None:
    counted = count_operations(read_graph(network_file(tiny_model, "float32")))
    assert (counted.integer_convolutions, counted.integer_products, counted.float_arithmetic) == (0, 0, 5)


def test_the_int8_network_is_a_quarter_of_the_size(tiny_model: Path) -> None:
    assert network_file(tiny_model, "int8").stat().st_size < network_file(tiny_model, "float32").stat().st_size / 3


def test_the_int8_network_is_little_more_than_its_weights(tiny_model: Path) -> None:
    definition = read_graph(network_file(tiny_model, "int8"))
    weights = sum(len(node.attr["value"].tensor.tensor_content) for node in definition.node if node.op == "Const")
    assert definition.ByteSize() < weights + 400 * len(definition.node)
    assert {"features", "out_outputs"} <= {node.name for node in definition.node}


def test_the_model_says_how_it_was_quantized(tiny_model: Path) -> None:
    description = model_folder.read(tiny_model)
    assert network_file(tiny_model, "int8").name in description.sha256
    assert description.quantization == Quantization(calibration_showers=32).model_dump(mode="json")
    assert Quantization.model_validate(description.quantization) == Quantization(calibration_showers=32)
    assert description.version("int8") != description.version("float32")


def test_only_the_showers_asked_for_calibrate(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[np.ndarray[Any, Any]] = []

    def record(model: str, settings: object, loader: Any, calib_iteration: int) -> None:
        batches.extend(features for features, _ in loader)
        assert calib_iteration == len(batches) == len(loader)

    monkeypatch.setattr(COMPRESS, record)
    with pytest.raises(QuantizationError, match="returned no model"):
        quantize(tiny_model, geant4, Quantization(calibration_showers=32), tmp_path / "int8")
    condition = np.concatenate(batches)[:, 0]
    np.testing.assert_allclose(np.exp(1.5 * condition) * 100, geant4.energy[:32], rtol=1e-5)
    assert not (tmp_path / "int8").exists()


def test_a_result_without_int8_is_refused(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = SimpleNamespace(
        graph_def=read_graph(network_file(tiny_model, "float32")),
        input_tensor_names=["features"],
        output_tensor_names=["out_outputs:0"],
    )
    monkeypatch.setattr(COMPRESS, lambda *_, **__: unchanged)
    with pytest.raises(QuantizationError, match=r"has no int8 convolution \(5 float32"):
        quantize(tiny_model, geant4, Quantization(), tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_a_failure_of_the_compressor_is_reported(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("no such node")

    monkeypatch.setattr(COMPRESS, fail)
    with pytest.raises(QuantizationError, match="no such node"):
        quantize(tiny_model, geant4, Quantization(), tmp_path / "int8")


def test_an_unknown_operation_leaves_nothing_behind(tiny_model: Path, geant4: Events, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="no operation 'convolution 4'; it has dense 1"):
        quantize(tiny_model, geant4, Quantization(keep_float32=("convolution 4",)), tmp_path / "int8")
    assert not (tmp_path / "int8").exists()
    assert operation_names(tiny_model)[-1] == "convolution 3"


def test_the_bfloat16_network_is_counted_as_such(tiny_model: Path) -> None:
    counted = count_operations(read_graph(network_file(tiny_model, "bfloat16")))
    assert (counted.float_arithmetic, counted.bfloat16_arithmetic, counted.integer_convolutions) == (5, 5, 0)


@pytest.mark.parametrize(
    ("isa", "fast"),
    [
        ("AVX512_VNNI AVX512_BF16 AVX512F AVX2", True),
        ("AVX_VNNI AVX2", True),
        ("AMX_INT8", True),
        ("AVX512_BF16 AVX512F AVX2", False),
        ("AVX2", False),
        ("unknown", False),
    ],
)
def test_a_processor_without_integer_instructions_is_reported(isa: str, fast: bool) -> None:
    assert has_integer_instructions(isa) is fast
    note = slow_integer_note(isa, 1.25)
    assert note == "" if fast else note.startswith("this processor has no AVX512_VNNI or AVX_VNNI")
    assert fast or note.endswith("measured ratio to float32 1.25")


@pytest.mark.parametrize(("isa", "bits"), [("AVX512_VNNI AVX2", 8), ("AVX512F AVX2", 7)])
def test_the_model_says_how_many_bits_its_weights_have(
    isa: str, bits: int, tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calogan.provenance.cpu", lambda: {"model": "a processor", "isa": isa})
    description = quantize(tiny_model, geant4, Quantization(calibration_showers=16), tmp_path)
    assert description.weight_bits == model_folder.read(tmp_path).weight_bits == bits


def test_calogan_quantize_says_so_on_such_a_processor(
    tiny_model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder.copy(tiny_model, tmp_path / "model")
    data = write_events(tmp_path / "geant4.h5", geant4, header={})
    config = tmp_path / "own.toml"
    short = "[quantization]\ncalibration_showers = 16\n[benchmark]\nbatch_size = 16\nrepetitions = 1\n"
    config.write_text(f'{short}[data]\npath = "{data}"\n')
    arguments = ["quantize", "--model", str(tmp_path / "model"), "--config", str(config)]
    for isa in ("AVX512F AVX2", "AVX512_VNNI AVX2"):
        monkeypatch.setattr("calogan.provenance.cpu", lambda isa=isa: {"model": "a processor", "isa": isa})
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        output = " ".join(result.output.split())
        assert ("this processor has no AVX512_VNNI or AVX_VNNI (it has AVX512F AVX2)" in output) is ("VNNI" not in isa)
        assert ("measured ratio to float32" in output) is ("VNNI" not in isa)
        assert f"weights of {8 if 'VNNI' in isa else 7} bits; 0 left in floating point" in output


def test_without_weights_there_is_nothing_to_quantize(tiny_model: Path, geant4: Events, tmp_path: Path) -> None:
    description = model_folder.copy(tiny_model, tmp_path / "copy")
    (tmp_path / "copy" / description.weights).unlink()
    with pytest.raises(ModelError, match="is missing"):
        quantize(tmp_path / "copy", geant4, Quantization(), tmp_path / "int8")


def test_the_network_in_int8_stays_close_to_float32(tiny_model: Path, geant4: Events) -> None:
    description = model_folder.read(tiny_model)
    model = freezing.load_generator_network(tiny_model, description)
    latent = np.random.default_rng(3).standard_normal((32, model.latent_size), np.float32)
    features, _ = model.prepare(geant4.energy[:32], latent)
    answers = []
    for precision in ("float32", "int8"):
        with tf.Graph().as_default() as graph:
            source, sink = tf.import_graph_def(
                read_graph(tiny_model / description.network_files[precision]),
                return_elements=["features:0", "out_outputs:0"],
                name="",
            )
            with tf.compat.v1.Session(graph=graph) as session:
                answers.append(session.run(sink, {source: np.asarray(features)}))
    float32, int8 = answers
    assert np.corrcoef(float32.ravel(), int8.ravel())[0, 1] > 0.99


WHERE_NOTHING_MAY_BE_WRITTEN = """
import os, sys
from pathlib import Path
from calogan.config import Quantization
from calogan.events import packaged_sample, read_events
from calogan.quantization.quantize import quantize
model, target, gone = map(Path, sys.argv[1:])
gone.mkdir()
os.chdir(gone)
quantize(model, read_events(packaged_sample())[:32], Quantization(calibration_showers=16), target / "first")
print(os.listdir())
gone.rmdir()  # now nothing can be written there
quantize(model, read_events(packaged_sample())[:32], Quantization(calibration_showers=16), target / "second")
"""


def test_nothing_is_written_into_the_working_directory(tiny_model: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", WHERE_NOTHING_MAY_BE_WRITTEN, tiny_model, tmp_path, tmp_path / "gone"],
        env=os.environ | {"TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert not list(scratch.glob("calogan-*"))
    versions = {model_folder.read(tmp_path / name).version("int8") for name in ("first", "second")}
    assert len(versions) == 1


def test_an_altered_file_is_not_made_good_by_quantizing_again(tiny_model: Path, geant4: Events, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model_folder.copy(tiny_model, model)
    bfloat16 = network_file(model, "bfloat16")
    altered = bytearray(bfloat16.read_bytes())
    altered[len(altered) // 2] ^= 1
    bfloat16.write_bytes(altered)
    with pytest.raises(ModelError, match=r"network\.bfloat16\.\w+\.pb: is not the file that was written"):
        quantize(model, geant4, Quantization(calibration_showers=16), model)
    with pytest.raises(ModelError, match=r"network\.bfloat16\.\w+\.pb: is not the file that was written"):
        model_folder.check_files(model, model_folder.read(model), "bfloat16")


def test_quantizing_in_place_hashes_only_the_new_network(tiny_model: Path, geant4: Events, tmp_path: Path) -> None:
    before = model_folder.copy(tiny_model, tmp_path / "model")
    after = quantize(tmp_path / "model", geant4, Quantization(calibration_showers=16), tmp_path / "model")
    assert after == model_folder.read(tmp_path / "model")
    changed = set(before.sha256.items()) ^ set(after.sha256.items())
    assert {name for name, _ in changed} == {before.network_files["int8"], after.network_files["int8"]}
    for precision in after.network_files:
        model_folder.check_files(tmp_path / "model", after, precision)
