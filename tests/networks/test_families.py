"""Families that exist only in this file and are added to the package's list."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from calogan.config import Config, Network, Quantization, Training, load_config
from calogan.errors import ConfigError, ModelError
from calogan.events import Events
from calogan.generation import generator, model_folder
from calogan.generation.freezing import freeze, load_generator_network
from calogan.generation.graphs import read_graph
from calogan.generation.random_numbers import latent_numbers
from calogan.geometry import CLIC
from calogan.networks import lean
from calogan.networks.base import DiscriminatorView, GeneratorNetwork, Tensor
from calogan.networks.families import FAMILIES, build_generator
from calogan.networks.stages import ADVERSARIAL, DISTANCE, WARMUP
from calogan.quantization.operations import count_operations
from calogan.quantization.quantize import quantize
from calogan.training.loop import TrainingResult, train
from calogan.training.selection import Scored
from calogan.training.survey import survey


def condition(energy: Tensor, latent: Tensor) -> Tensor:
    return ops.concatenate([ops.log(energy / 100.0)[:, None], latent], axis=1)


def image(outputs: layers.Layer, width: int, latent_size: int) -> tuple[Tensor, Tensor]:
    features = keras.Input((1 + latent_size,), name="features")
    x = layers.Reshape((5, 5, width))(layers.Dense(25 * width, activation="relu")(features))
    return features, outputs(layers.Conv2D(width, 3, padding="same", activation="relu")(x))


class Toy(GeneratorNetwork):
    """Its network gives the cells."""

    family = "toy"
    latent_size = 6
    cell_noise = False
    stages = (DISTANCE, WARMUP, ADVERSARIAL)
    seen_early: set[bool]

    def __init__(self, width: int) -> None:
        super().__init__(name="toy")
        features, cells = image(layers.Conv2D(625, 1, activation="relu", use_bias=False), width, self.latent_size)
        self.network = keras.Model(features, layers.Reshape(CLIC.shape)(cells))

    @classmethod
    def create(cls, config: Network) -> Self:
        return cls(config.width)

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        return condition(energy, latent), energy

    def discriminator_view(self) -> DiscriminatorView:
        Toy.seen_early = set()

        def view(energy: Tensor, latent: Tensor, noise: Tensor, *, early: bool, training: bool) -> Tensor:
            Toy.seen_early.add(early)
            return self.network(self.prepare(energy, latent)[0], training=training)

        return view


class ToyOfCells(GeneratorNetwork):
    """Its network gives the shares of the cells in their layers, as that of `lean`; the rest of it is fixed."""

    family = "toy-of-cells"
    latent_size = 5
    cell_noise = True
    stages = (ADVERSARIAL,)

    def __init__(self) -> None:
        super().__init__(name="toy-of-cells")
        logits = layers.Conv2D(625, 1, kernel_initializer="zeros")
        self.network = keras.Model(*image(logits, 8, self.latent_size))
        self.tail = build_generator(Network(width=8))  # its own network is not used

    def adapt(self, **statistics: NDArray[Any]) -> None:
        self.tail.adapt(**statistics)

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        return condition(energy, latent), 0.02 / 25 * energy[:, None] * ops.ones((1, 25))

    def finish(self, outputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        return self.tail.finish(outputs, context, noise)

    def adversarial_variables(self) -> list[keras.Variable]:
        return list(self.network.trainable_variables)

    def tables(self) -> Mapping[str, NDArray[Any]]:
        return self.tail.tables()


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    FAMILIES.extend([Toy, ToyOfCells])
    yield
    FAMILIES.remove(Toy)
    FAMILIES.remove(ToyOfCells)


def closeness(reference: Events, candidate: Events) -> Scored:
    return Scored(1 / (1 + abs(float(candidate.showers.mean() / reference.showers.mean()) - 1)), {})


def train_and_quantize(geant4: Events, config: Config, folder: Path) -> TrainingResult:
    """Train, freeze and quantize."""
    tf.config.run_functions_eagerly(True)  # compiling the published discriminator would take most of the time
    try:
        trained = train(geant4[:16], geant4[16:20], config, folder / "training", score=closeness)
    finally:
        tf.config.run_functions_eagerly(False)
    freeze(trained.weights, config, folder / "model")
    quantize(folder / "model", geant4[20:36], Quantization(calibration_showers=16), folder / "model")
    return trained


def samples(model: Path, energy: NDArray[np.float32]) -> dict[str, Events]:
    return {name: generator.load(model, precision=name).sample(energy, seed=1) for name in ("float32", "int8")}


def test_a_family_of_this_file_is_trained_frozen_quantized_and_sampled(geant4: Events, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(
        'name = "toy"\n[network]\nfamily = "toy"\nwidth = 16\n'
        "[training]\ndistance_epochs = 3\nscore_every = 2\nwarmup_epochs = 1\nadversarial_epochs = 1\n"
        "batch_size = 4\nsteps_per_epoch = 1\ngenerator_rate = 1e-7\n"
    )
    config = load_config(tmp_path / "toy.toml")
    trained = train_and_quantize(geant4, config, tmp_path)
    assert [(epoch.stage, epoch.score is not None) for epoch in trained.history] == [
        ("distance", False),
        ("distance", True),
        ("distance", True),
        ("warmup", False),
        ("adversarial", True),
    ]
    assert Toy.seen_early == {True}
    description = model_folder.read(tmp_path / "model")
    assert (description.family, description.latent_size, description.width) == ("toy", 6, 16)
    assert not list((tmp_path / "model").glob("cells.*"))
    energy = np.array([20, 100, 400], np.float32)
    results = samples(tmp_path / "model", energy)
    model = load_generator_network(tmp_path / "model", description)
    assert isinstance(model, Toy)
    expected = model(energy, latent_numbers(3, seed=1, model=description))
    np.testing.assert_allclose(results["float32"].showers, expected, rtol=1e-3, atol=1e-6)
    assert results["float32"].showers.sum() > 0
    counted = count_operations(read_graph(tmp_path / "model" / description.network_files["int8"]))
    assert (counted.integer_convolutions, counted.integer_products, counted.float_arithmetic) == (2, 1, 0)
    difference = np.abs(results["int8"].showers - results["float32"].showers).sum() / results["float32"].showers.sum()
    assert difference < 0.2


def test_the_tables_of_a_family_draw_its_cells(geant4: Events, tmp_path: Path) -> None:
    training = Training(adversarial_epochs=1, batch_size=4, steps_per_epoch=1)
    config = Config(name="cells", network=Network(family="toy-of-cells"), training=training)
    assert [epoch.stage for epoch in train_and_quantize(geant4, config, tmp_path).history] == ["adversarial"]
    description = model_folder.read(tmp_path / "model")
    assert description.cells in description.files("int8")
    model = load_generator_network(tmp_path / "model", description)
    assert isinstance(model, ToyOfCells)
    # The template comes from the training showers: it was zero, and adversarial training may not change it.
    np.testing.assert_array_equal(model.tail.template, lean.template(survey(geant4[:16]).mean_shower))
    energy = np.array([20, 100, 400], np.float32)
    for sample in samples(tmp_path / "model", energy).values():
        totals = sample.showers.sum(axis=(1, 2), dtype=np.float64)
        # Energy below the read-out threshold is lost.
        np.testing.assert_allclose(totals, np.repeat(0.02 / 25 * energy[:, None], 25, axis=1), rtol=0.05)


def test_the_error_of_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no generator family 'vae'; there are lean, rehm2021, conv3d, toy"):
        build_generator(Network(family="vae"))


def test_a_model_of_a_family_that_is_not_there_says_so(tiny_model: Path, tmp_path: Path) -> None:
    model_folder.copy(tiny_model, tmp_path / "model")
    description = tmp_path / "model" / model_folder.DESCRIPTION
    description.write_text(description.read_text().replace('"family": "lean"', '"family": "vae"'))
    with pytest.raises(ModelError, match="no generator family 'vae'; there are lean"):
        load_generator_network(tmp_path / "model", model_folder.read(tmp_path / "model"))
