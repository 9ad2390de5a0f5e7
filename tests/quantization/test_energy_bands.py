import itertools
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from calogan.config import Config, Network, Quantization
from calogan.errors import ModelError, QuantizationError
from calogan.events import Events
from calogan.generation import freezing, generator, model_folder
from calogan.generation.generator import Generator
from calogan.geometry import CLIC
from calogan.networks.base import LatentNetwork
from calogan.networks.families import FAMILIES, build_generator
from calogan.quantization import energy_bands
from calogan.quantization.quantize import quantize


class Small(LatentNetwork):
    """A small network whose activations grow with the energy, like those of the published ones."""

    family = "small"

    def __init__(self) -> None:
        features = keras.Input((self.latent_size,), name="features")
        x = layers.Reshape((5, 5, 8))(layers.Dense(200)(features))
        x = layers.LeakyReLU(0.3)(layers.Conv2D(16, 3, padding="same")(x))
        x = layers.LeakyReLU(0.3)(layers.Conv2D(16, 3, padding="same")(x))
        x = layers.Conv2D(625, 1, use_bias=False, activation="relu")(x)
        super().__init__(keras.Model(features, layers.Reshape(CLIC.shape)(x)))


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    FAMILIES.append(Small)
    yield
    FAMILIES.remove(Small)


@pytest.fixture(scope="module")
def model(geant4: Events, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    keras.utils.set_random_seed(1)
    network = Network(family="small")
    build_generator(network).save_weights(folder / "w.weights.h5")
    freezing.freeze(folder / "w.weights.h5", Config(network=network), folder / "model")
    # The last convolution gives the cells, which need more than 8 bits.
    config = Quantization(calibration_showers=32, keep_float32=("convolution 3",))
    quantize(folder / "model", geant4[:32], config, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def generators(model: Path) -> dict[str, Generator]:
    return {precision: generator.load(model, precision=precision) for precision in ("float32", "int8")}


def constant(value: float, *, bias: float = 0.0, op: str = "AddV2") -> tf.compat.v1.GraphDef:
    """A graph that computes (features op value) + bias."""
    with tf.Graph().as_default() as graph:
        features = tf.compat.v1.placeholder(tf.float32, (None,), "features")
        result = tf.raw_ops.AddV2(x=features, y=value) if op == "AddV2" else tf.raw_ops.Mul(x=features, y=value)
        tf.identity(result + tf.constant(bias), name="out_outputs")
    return graph.as_graph_def()


def run(definition: tf.compat.v1.GraphDef, **inputs: object) -> NDArray[np.float32]:
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(definition, name="")
        values = {f"{name}:0": value for name, value in inputs.items()}
        result: NDArray[np.float32] = session.run("out_outputs:0", values)
    return result


def test_a_merged_network_computes_like_each() -> None:
    graphs = [constant(1.0, bias=7.0), constant(2.0, bias=7.0), constant(7.0, bias=7.0)]  # the last shares a constant
    merged = energy_bands.merge(graphs)
    for band, expected in enumerate((8, 9, 14)):
        np.testing.assert_array_equal(run(merged, features=[0.0, 1.0], band=band), [expected, expected + 1])
    np.testing.assert_array_equal(run(merged, features=[0.0]), [14])
    assert sum(node.op == "GatherV2" for node in merged.node) == 1


@pytest.mark.parametrize("other", [constant(2.0, op="Mul"), tf.compat.v1.GraphDef()], ids=["another", "empty"])
def test_networks_of_other_structure_are_refused(other: tf.compat.v1.GraphDef) -> None:
    with pytest.raises(QuantizationError, match="different structure for two bands"):
        energy_bands.merge([constant(1.0), other])


def test_a_scaled_network_gives_multiples() -> None:
    graph = constant(1.0, bias=1.0)
    np.testing.assert_array_equal(run(energy_bands.scale(graph, 2.5), features=[0.0, 2.0]), [5, 10])
    np.testing.assert_array_equal(energy_bands.run(graph, np.array([0.0, 2.0], np.float32)), [2, 4])


def test_the_energy_of_each_band_is_that_of_float32(generators: dict[str, Generator]) -> None:
    for low, high in itertools.pairwise((2.0, *LatentNetwork.energy_bands, 500.0)):
        energy = np.linspace(low, high, 102)[1:-1].astype(np.float32)
        float32, int8 = (
            generators[precision].sample(energy, seed=5).showers.sum() for precision in ("float32", "int8")
        )
        assert int8 == pytest.approx(float32, rel=0.02)


def test_empty_int8_showers_are_refused(
    model: Path, geant4: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_bands, "run", lambda *_: np.zeros(3, np.float32))
    with pytest.raises(QuantizationError, match="int8 showers of 2 to 5 GeV are empty or not finite; keep the last"):
        quantize(model, geant4[:32], Quantization(calibration_showers=16), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_boundaries_outside_the_range_do_not_count() -> None:
    assert energy_bands.within((10.0, 200.0), (5.0, 10.0, 31.0, 78.0, 200.0)) == (31.0, 78.0)


def test_calibration_covers_a_band() -> None:
    energy = energy_bands.spread(5.0, 12.5, 9)
    assert energy.dtype == np.float32
    assert (energy.min(), energy.max()) == (5.0, 12.5)
    assert (np.diff(energy) > 0).all()


def test_the_model_names_its_bands(model: Path) -> None:
    description = model_folder.read(model)
    assert description.bands("int8") == LatentNetwork.energy_bands
    assert description.bands("float32") == ()
    others = description.model_copy(update={"energy_bands": (6.0, *description.energy_bands[1:])})
    assert others.version("int8") != description.version("int8")
    assert others.version("float32") == description.version("float32")


@pytest.mark.parametrize("energy", [2.0, 20.0, 499.0])
def test_int8_follows_float32_at_every_energy(generators: dict[str, Generator], energy: float) -> None:
    float32, int8 = (
        generators[precision].sample(np.full(32, energy, np.float32), seed=1).showers
        for precision in ("float32", "int8")
    )
    difference = np.abs(int8 - float32).sum(axis=(1, 2, 3)) / float32.sum(axis=(1, 2, 3))
    assert difference.mean() < 0.1


def test_a_shower_does_not_depend_on_the_others(generators: dict[str, Generator]) -> None:
    energy = np.geomspace(2, 500, 200).astype(np.float32)
    np.random.default_rng(1).shuffle(energy)
    whole = generators["int8"].sample(energy, seed=3).showers
    for first, last in ((0, 1), (7, 30), (150, 200)):
        part = generators["int8"].sample(energy[first:last], seed=3, first=first).showers
        np.testing.assert_array_equal(part, whole[first:last])


def test_a_network_without_the_input_is_refused(model: Path, tmp_path: Path) -> None:
    model_folder.copy(model, tmp_path)
    description = model_folder.read(tmp_path)
    other = (tmp_path / description.network_files["float32"]).read_bytes()
    model_folder.replace_network(tmp_path, description, other, {}, energy_bands=(20.0,))
    with pytest.raises(ModelError, match="is not a graph of this package"):
        generator.load(tmp_path, precision="int8")
