import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.exporting import saved_model
from calogan.exporting.base import Source, compute_showers, draw_inputs
from calogan.generation import generator
from calogan.geometry import CLIC
from calogan.quantization.operations import count_operations

ENERGY = np.linspace(5, 400, 20, dtype=np.float32)


@pytest.fixture(scope="module")
def written(int8: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "int8"
    saved_model.write(int8, folder)
    return folder


def generate(folder: Path, energy: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    signature: Any = tf.saved_model.load(str(folder)).signatures[saved_model.GENERATE]
    showers: NDArray[np.float32] = signature(energy=tf.constant(energy), seed=tf.constant(seed, tf.int64))[
        "showers"
    ].numpy()
    return showers


def test_it_is_a_graph_and_its_description(written: Path, int8: Source) -> None:
    files = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    assert files == ["assets.extra/calogan.json", "saved_model.pb"]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(written)).signature_def
        operations, expected = count_operations(graph.as_graph_def()), count_operations(int8.network)
    assert operations.integer_convolutions == expected.integer_convolutions > 0
    assert operations.integer_products == expected.integer_products
    assert {name: sorted(each.inputs) for name, each in signatures.items()} == {
        "serving_default": ["energy", "seed"],
        "generate": ["energy", "seed"],
        "from_latent": ["energy", "latent", "noise"],
    }


def test_latent_numbers_give_the_showers_of_the_model(written: Path, int8: Source) -> None:
    inputs = draw_inputs(int8.description, 6, seed=5)
    expected = compute_showers(int8, inputs)
    showers = saved_model.run(written, inputs)
    np.testing.assert_allclose(showers.sum(axis=(1, 2, 3)), expected.sum(axis=(1, 2, 3)), rtol=1e-4)
    assert np.abs(showers - expected).sum() < 1e-4 * expected.sum()


def test_a_shower_does_not_depend_on_how_many_are_asked_for(written: Path) -> None:
    many = generate(written, ENERGY, 7)
    for n in (1, 3, 17):
        few = generate(written, ENERGY[:n], 7)
        # The last bits of the float32 parts depend on where in a vector register a shower stands.
        assert np.abs(few - many[:n]).sum() < 1e-4 * few.sum()


def test_seeds_and_indices_give_other_showers(written: Path) -> None:
    same_energy = np.full(4, 100, np.float32)
    first, again, other = (generate(written, same_energy, seed) for seed in (1, 1, 2**62))
    np.testing.assert_array_equal(first, again)
    showers = np.concatenate([first, other])
    assert len(np.unique((showers > 0).reshape(8, -1), axis=0)) == 8


def test_showers_of_a_seed_are_like_those_of_the_package(written: Path, tiny_model: Path) -> None:
    energy = np.full(64, 100, np.float32)
    samples = [
        generate(written, energy, 3),
        generator.load(tiny_model, precision="int8").sample(energy, seed=3).showers,
    ]
    for values in (
        [each.sum(axis=(1, 2, 3)) for each in samples],
        [(each > 0).sum(axis=(1, 2, 3)) for each in samples],
    ):
        error = np.hypot(*(value.std(dtype=np.float64) / np.sqrt(len(value)) for value in values))
        assert abs(values[0].mean(dtype=np.float64) - values[1].mean(dtype=np.float64)) < 5 * error


def test_nothing_but_tensorflow_is_needed(written: Path) -> None:
    code = f"""
import sys
sys.modules["calogan"] = sys.modules["keras"] = None  # importing them is an error
import numpy as np, tensorflow as tf
generate = tf.saved_model.load({str(written)!r}).signatures["serving_default"]
showers = generate(energy=tf.constant([50.0, 100.0]), seed=tf.constant(4, tf.int64))["showers"]
print(showers.shape.as_list(), *np.sum(showers, axis=(1, 2, 3)))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    shape, _, sums = answer.stdout.strip().rpartition("] ")
    assert shape == str([2, *CLIC.shape]).removesuffix("]")
    expected = generate(written, np.array([50, 100], np.float32), 4).sum(axis=(1, 2, 3))
    np.testing.assert_allclose([float(word) for word in sums.split()], expected, rtol=1e-4)


def test_equal_models_give_equal_bytes(written: Path, int8: Source, tmp_path: Path) -> None:
    saved_model.write(int8, tmp_path / "again")
    for name in ("saved_model.pb", "assets.extra/calogan.json"):
        assert (tmp_path / "again" / name).read_bytes() == (written / name).read_bytes()
