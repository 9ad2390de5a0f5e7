import collections
import json
from pathlib import Path

import numpy as np
import pytest

from calogan.errors import ModelError
from calogan.exporting.base import Inputs, Source, compute_showers, draw_inputs
from calogan.geometry import CELLS
from calogan.quantization.operations import count_operations

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from calogan.exporting import onnx_model
from calogan.exporting.graphs import IR_VERSION, OPSET


@pytest.fixture(scope="module")
def written(int8: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exports") / "int8.onnx"
    onnx_model.write(int8, path, batch=1)
    return path


def test_one_flat_input_and_one_flat_output(written: Path, int8: Source) -> None:
    session = onnx_model.start(written, optimised=False)
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.type, source.shape) == ("input", "tensor(float)", [1, 1 + 41 + CELLS])
    assert (result.name, result.type, result.shape) == ("cells", "tensor(float)", [1, CELLS])


def test_the_network_stays_int8_without_optimisation(written: Path, int8: Source) -> None:
    model = onnx.load(written)
    kinds = collections.Counter(node.op_type for node in model.graph.node)
    operations = count_operations(int8.network)
    assert kinds["QLinearConv"] == operations.integer_convolutions
    assert (kinds["MatMulInteger"], kinds["Conv"]) == (operations.integer_products, 0)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION


@pytest.mark.parametrize("optimised", [False, True])
def test_showers_are_those_of_the_model(written: Path, int8: Source, optimised: bool) -> None:
    inputs = draw_inputs(int8.description, 8, seed=5)
    expected = compute_showers(int8, inputs)
    showers = onnx_model.run(written, inputs, optimised=optimised)
    # The layers' energies are computed in float32, and are the same.
    np.testing.assert_allclose(showers.sum(axis=(1, 2)), expected.sum(axis=(1, 2)), rtol=1e-3, atol=625 * 1e-6)
    assert np.abs(showers - expected).sum() < 0.01 * expected.sum()


def test_a_row_is_energy_then_latent_numbers_then_noise_in_the_order_of_the_cells(written: Path, int8: Source) -> None:
    inputs = draw_inputs(int8.description, 1, seed=6)
    assert inputs.noise is not None
    row = np.concatenate([inputs.energy, inputs.latent[0], inputs.noise.ravel()])[None]
    (cells,) = onnx_model.start(written, optimised=False).run(None, {"input": row})
    expected = compute_showers(int8, inputs)[0]
    x, y, z = np.unravel_index(np.argmax(expected), expected.shape)
    assert cells[0, (25 * x + y) * 25 + z] == pytest.approx(expected[x, y, z], rel=0.2)
    assert np.argmax(cells[0].reshape(25, 25, 25).sum(axis=(0, 1))) == np.argmax(expected.sum(axis=(0, 1)))


def test_a_batch_is_as_good_as_single_showers(float32: Source, tmp_path: Path) -> None:
    onnx_model.write(float32, tmp_path / "three.onnx", batch=3)
    inputs = draw_inputs(float32.description, 6, seed=7)
    expected = compute_showers(float32, inputs)
    showers = onnx_model.run(tmp_path / "three.onnx", inputs)
    assert np.abs(showers - expected).sum() < 1e-4 * expected.sum()


def test_the_file_describes_itself(written: Path, int8: Source) -> None:
    properties = {each.key: each.value for each in onnx.load(written).metadata_props}
    assert properties["name"] == int8.description.name
    assert properties["version"] == int8.description.version("int8")
    assert (properties["precision"], properties["energy_unit"], properties["latent_size"]) == ("int8", "GeV", "41")
    assert json.loads(properties["energy_range_gev"]) == [2, 500]
    assert json.loads(properties["provenance"])["model"] == int8.description.header


def test_equal_models_give_equal_bytes(written: Path, int8: Source, tmp_path: Path) -> None:
    onnx_model.write(int8, tmp_path / "again.onnx", batch=1)
    assert (tmp_path / "again.onnx").read_bytes() == written.read_bytes()


def test_other_precisions_are_refused(float32: Source, tmp_path: Path) -> None:
    half = Source(float32.description, "float16", float32.generator, float32.network)
    with pytest.raises(ModelError, match="float16 cannot be exported as ONNX"):
        onnx_model.write(half, tmp_path / "half.onnx", batch=1)
    assert not list(tmp_path.iterdir())


def test_inputs_without_noise_are_rows_too() -> None:
    inputs = Inputs(np.ones(2, np.float32), np.zeros((2, 3), np.float32), None)
    assert list(inputs.arrays()) == ["energy", "latent"]
