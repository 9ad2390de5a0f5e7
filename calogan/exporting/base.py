"""Common parts of the exports: one precision of a model, its inputs, its graph and its description."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from calogan import provenance
from calogan.generation import freezing, model_folder
from calogan.generation.graphs import read_graph
from calogan.generation.model_folder import ModelDescription
from calogan.generation.random_numbers import latent_numbers
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork

Floats: TypeAlias = NDArray[np.float32]

DESCRIPTION = "calogan.json"


@dataclass(frozen=True)
class Source:
    """One precision of a model.

    Attributes:
        description: contents of the model's model.json.
        precision: name of the precision.
        generator: the steps before and after the network, in float32.
        network: the network in that precision, features -> out_outputs.
    """

    description: ModelDescription
    precision: str
    generator: GeneratorNetwork
    network: tf.compat.v1.GraphDef

    @property
    def name(self) -> str:
        """Model and precision, for messages."""
        return f"{self.description.name} in {self.precision}"


@dataclass(frozen=True)
class Inputs:
    """Inputs of the showers.

    Attributes:
        energy: primary energies, shape (n,), GeV.
        latent: standard normal numbers, shape (n, latent_size).
        noise: standard normal numbers, shape (n, 25, 25, 25), for families with cell noise.
    """

    energy: Floats
    latent: Floats
    noise: Floats | None

    def arrays(self) -> dict[str, Floats]:
        """The inputs that the family of the model has, by name."""
        arrays = {"energy": self.energy, "latent": self.latent, "noise": self.noise}
        return {name: array for name, array in arrays.items() if array is not None}


def open_source(folder: Path, precision: str) -> Source:
    """Open one precision of a model.

    Raises:
        ModelError: the model does not have this precision, or a file is missing or altered.
    """
    description = model_folder.read(folder)
    model_folder.check_files(folder, description, precision)
    network = read_graph(folder / description.network_files[precision])
    for node in network.node:  # a function, unlike a session, does not accept attributes without a value
        for name in [name for name, value in node.attr.items() if value.WhichOneof("value") is None]:
            del node.attr[name]
    return Source(description, precision, freezing.load_generator_network(folder, description), network)


def draw_inputs(description: ModelDescription, n: int, seed: int) -> Inputs:
    """Inputs to test an export with: energies spread over the range of the model, and random numbers."""
    energy = np.geomspace(*description.energy_range, n, dtype=np.float32)
    latent = latent_numbers(n, seed=seed, model=description)
    rng = np.random.Generator(np.random.Philox(key=seed))
    noise = rng.standard_normal((n, *CLIC.shape), np.float32) if description.cell_noise else None
    return Inputs(energy, latent, noise)


def freeze(source: Source) -> tf.compat.v1.GraphDef:
    """The whole generator as one graph of operations and constants: energy, latent and (some families) noise -> showers.

    The graph refers to its inputs by name, but has no placeholders for them: `splice` connects others, and these would
    remain, unused and in arbitrary order.
    """
    shapes = {"energy": (), "latent": (source.description.latent_size,)}
    if source.description.cell_noise:
        shapes["noise"] = CLIC.shape
    specs = [tf.TensorSpec((None, *shape), tf.float32, name=name) for name, shape in shapes.items()]

    @tf.function(input_signature=specs)  # type: ignore[untyped-decorator]
    def showers(energy: tf.Tensor, latent: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        features, context = source.generator.prepare(energy, latent)
        outputs = run_network(source.network, features, **_band(source, energy))
        return tf.identity(source.generator.finish(outputs, context, noise), name="showers")

    frozen = convert_variables_to_constants_v2(showers.get_concrete_function(), lower_control_flow=True)
    definition = frozen.graph.as_graph_def()
    for placeholder in [node for node in definition.node if node.op == "Placeholder"]:
        definition.node.remove(placeholder)
    return definition


def run_network(definition: tf.compat.v1.GraphDef, features: tf.Tensor, **others: tf.Tensor) -> tf.Tensor:
    """Add a frozen network to the current graph or function; returns its outputs."""
    inputs = {f"{name}:0": tensor for name, tensor in {"features": features, **others}.items()}
    (outputs,) = tf.import_graph_def(definition, input_map=inputs, return_elements=["out_outputs:0"], name="network")
    return outputs


def _band(source: Source, energy: tf.Tensor) -> dict[str, tf.Tensor]:
    """The band of the highest energy of a call, as an input of the network; nothing for a network without bands."""
    boundaries = source.description.bands(source.precision)
    if not boundaries:
        return {}
    return {"band": tf.reduce_sum(tf.cast(tf.reduce_max(energy) >= tf.constant(boundaries), tf.int32))}


def splice(frozen: tf.compat.v1.GraphDef, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Add the result of `freeze` to the current graph; returns its showers."""
    (showers,) = tf.import_graph_def(frozen, input_map=inputs, return_elements=["showers:0"], name="")
    return showers


def compute_showers(source: Source, inputs: Inputs) -> Floats:
    """Compute the reference for an export by running the three parts in sequence, shape (n, 25, 25, 25), GeV.

    TensorFlow's graph rewriting is switched off, because it has faults: the network runs exactly as written.
    """
    features, context = source.generator.prepare(inputs.energy, inputs.latent)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        placeholder = tf.compat.v1.placeholder(tf.float32, features.shape)
        outputs = run_network(source.network, placeholder, **_band(source, tf.constant(inputs.energy)))
        outputs = session.run(outputs, {placeholder: np.asarray(features)})
    return np.asarray(source.generator.finish(outputs, context, inputs.noise))


def describe(source: Source) -> dict[str, Any]:
    """Describe a model for the programs that use an export, as JSON-compatible values."""
    model = source.description
    return {
        "name": model.name,
        "version": model.version(source.precision),
        "precision": source.precision,
        "family": model.family,
        "energy_unit": "GeV",
        "energy_range_gev": list(model.energy_range),
        "cells": list(CLIC.shape),
        "axes": "x, y, z; z is the depth, its 25 indices are the layers; z runs fastest in memory",
        "entry_cell": list(CLIC.entry_cell),
        "cell_mm": CLIC.cell_mm,
        "threshold_gev": CLIC.threshold_gev,
        "latent_size": model.latent_size,
        "cell_noise": model.cell_noise,
        "random_numbers": "latent numbers and cell noise are independent and standard normal",
        "provenance": {"model": model.header, "export": provenance.header()},
    }
