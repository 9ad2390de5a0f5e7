"""One quantization trial: an Intel Neural Compressor configuration -> an int8 network that really is int8."""

import itertools
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan.config import Quantization
from calogan.errors import QuantizationError
from calogan.events import Events
from calogan.generation import freezing, model_folder
from calogan.generation.model_folder import ModelDescription
from calogan.generation.random_numbers import latent_numbers
from calogan.networks import rewrites
from calogan.networks.base import GeneratorNetwork
from calogan.quantization import energy_bands
from calogan.quantization.neural_compressor import compress, compress_each, name_operations
from calogan.quantization.operations import count_operations, count_weight_bits

_SCALED = 128  # showers in each band that its energy is scaled with


def quantize(folder: Path, calibration: Events, config: Quantization, target: Path) -> ModelDescription:
    """Quantize the network of a model to int8, after training.

    Args:
        folder: folder of the model, including its weights.
        calibration: showers of the calibration split, whose energies determine the ranges of the activations; no other
            split is used. A family with bands of energy is calibrated with energies spread over each band instead.
        config: the configuration to try.
        target: output folder of the model with its int8 network; may be the same folder. Readers of a model that is
            replaced see either the old model or the new one.

    Raises:
        ModelError: a file of the model is missing or altered.
        QuantizationError: the compressor returned nothing, a network without int8 convolutions, or one that does not
            match the configuration.
    """
    source = model_folder.read(folder)
    model = freezing.load_generator_network(folder, source)
    boundaries = energy_bands.within(source.energy_range, model.energy_bands)
    if boundaries:
        definition = _quantize_bands(model, source, boundaries, config)
    else:
        features = _features(model, source, calibration.energy[: config.calibration_showers])
        definition = compress(rewrites.lower(model.network, integer=True), features, config)
    counted = count_operations(definition)
    if counted.integer_convolutions == 0:
        raise QuantizationError(
            f"the quantized network has no int8 convolution ({counted.float_arithmetic} float32 operations): "
            "this machine's TensorFlow cannot run it in int8; check that oneDNN is on (TF_ENABLE_ONEDNN_OPTS=1)"
        )
    network = definition.SerializeToString(deterministic=True)
    bits = count_weight_bits(definition)
    return model_folder.replace_network(
        folder,
        source,
        network,
        config.model_dump(mode="json"),
        weight_bits=bits,
        energy_bands=boundaries,
        target=target,
    )


def operation_names(folder: Path) -> tuple[str, ...]:
    """Names of the operations of a model that can be quantized, see `neural_compressor.name_operations`."""
    model = freezing.load_generator_network(folder, model_folder.read(folder))
    return tuple(name_operations(rewrites.lower(model.network, integer=True)))


def _quantize_bands(
    model: GeneratorNetwork, description: ModelDescription, boundaries: tuple[float, ...], config: Quantization
) -> tf.compat.v1.GraphDef:
    """Quantize a network in each band of energy, and scale its energy there to that of float32."""
    low, high = description.energy_range
    bands = list(itertools.pairwise((low, *boundaries, high)))
    calibrations = [
        _features(model, description, energy_bands.spread(*band, config.calibration_showers)) for band in bands
    ]
    compressed = compress_each(rewrites.lower(model.network, integer=True), calibrations, config)
    graphs = []
    for band, graph in zip(bands, compressed, strict=True):
        features = _features(model, description, energy_bands.spread(*band, _SCALED))
        expected = np.asarray(model.network(features, training=False)).sum(dtype=np.float64)
        actual = energy_bands.run(graph, features).sum(dtype=np.float64)
        if not 0 < actual < np.inf:
            raise QuantizationError(
                f"the int8 showers of {band[0]:g} to {band[1]:g} GeV are empty or not finite; keep the last convolutions in "
                "float32, or more of them"
            )
        graphs.append(energy_bands.scale(graph, expected / actual))
    return energy_bands.merge(graphs)


def _features(
    model: GeneratorNetwork, description: ModelDescription, energy: NDArray[np.float32]
) -> NDArray[np.float32]:
    latent = latent_numbers(len(energy), seed=0, model=description)
    features, _ = model.prepare(energy, latent)
    return np.asarray(features, dtype=np.float32)
