"""`rehm2021`: the published three-branch Conv2D network, layer by layer.

Rehm et al., "Reduced Precision Strategies for Deep Learning: A High Energy Physics GAN Use Case" (2021,
arXiv 2103.10142); layers and constants as in the authors' public code. Each branch sees the same image with
another axis as channels, so that two-dimensional convolutions see all three planes.
"""

from types import MappingProxyType

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from calogan.geometry import CLIC
from calogan.networks import sketch
from calogan.networks.base import DiscriminatorView, LatentNetwork, Tensor

_SLOPE, _EPSILON, _MOMENTUM, _DROPOUT = 0.3, 1e-3, 0.99, 0.2
# Spatial axes of each branch, the permutation that brings them to the front, and its inverse.
_BRANCHES = (("xy", None, None), ("zx", (3, 1, 2), (2, 3, 1)), ("yz", (2, 3, 1), (3, 1, 2)))


class Rehm2021(LatentNetwork):
    """Generator family `rehm2021`."""

    family = "rehm2021"
    # Activations and the weights of the first layer are large, see `sketch`. Without biases of the same size the network is
    # homogeneous: showers of all energies would have the same shape.
    bias_rate = 300.0
    rate_factors = MappingProxyType({"seed": 30.0})

    def __init__(self) -> None:
        super().__init__(generator_network())

    def sketch(self, mean_shower: NDArray[np.float64], energy: float) -> None:
        """Replace the weights by those of `sketch.draw`."""
        sketch.draw(self.network, mean_shower)
        latent = np.random.default_rng(1).standard_normal((64, self.latent_size)).astype(np.float32)
        features, _ = self.prepare(np.full(len(latent), energy, np.float32), latent)
        showers = self.network.layers[-1]
        showers.kernel.assign(showers.kernel / ops.mean(self.network(features)))

    def discriminator_view(self) -> DiscriminatorView:
        """As published: without threshold, and early in training without the ReLU at the end."""
        linear = without_relu(self.network)

        def view(energy: Tensor, latent: Tensor, noise: Tensor, *, early: bool, training: bool) -> Tensor:  # noqa: ARG001
            features, _ = self.prepare(energy, latent)
            return (linear if early else self.network)(features, training=training)

        return view


def generator_network() -> keras.Model:
    """The published generator, 2,055,324 parameters, with the ReLU output of its epochs 3 and later."""
    features = keras.Input((LatentNetwork.latent_size,), name="features")
    seed = layers.Reshape((5, 5, 5))(layers.Dense(125, name="seed")(features))
    branches = []
    for axes, there, back in _BRANCHES:
        x = layers.Permute(there)(seed) if there else seed
        x = _block(x, 32, 5, initializer="glorot_uniform", name=f"{axes}_1")
        x = layers.Conv2DTranspose(64, 5, strides=3, padding="same", name=f"{axes}_2")(x)
        x = _block(x, 64, 5, name=f"{axes}_3")
        x = layers.Conv2DTranspose(64, 5, strides=2, padding="same", name=f"{axes}_4")(x)
        x = _block(x, 64, 8, name=f"{axes}_5")
        x = _block(x, 64, 5, padding="valid", name=f"{axes}_6")
        x = _block(x, 32, 4, name=f"{axes}_7")
        x = _block(x, 32, 3, name=f"{axes}_8")
        x = _block(x, CLIC.layers, 2, padding="valid", name=f"{axes}_9")
        branches.append(layers.Permute(back)(x) if back else x)
    joined = layers.Concatenate()(branches)
    last = layers.Conv2D(
        CLIC.layers,
        3,
        padding="same",
        use_bias=False,
        activation="relu",
        kernel_initializer="he_uniform",
        dtype="float32",  # showers keep their precision if the network is trained in bfloat16
        name="showers",
    )
    return keras.Model(features, last(joined), name="generator")


def without_relu(network: keras.Model) -> keras.Model:
    """The published generator with the linear output of its first two epochs, on the weights of `generator_network`."""
    last = network.layers[-1]
    showers = layers.Lambda(lambda joined: ops.conv(joined, last.kernel, padding="same"), dtype="float32")(last.input)
    return keras.Model(network.input, showers, name="linear_generator")


def discriminator() -> keras.Model:
    """The published discriminator, 714,114 parameters.

    Returns:
        A model from showers, shape (n, 25, 25, 25), GeV, to the probability of being real, the estimate
        of Ep / 100 GeV, and ECAL in GeV, each of shape (n, 1).
    """
    showers = keras.Input(CLIC.shape, name="showers")
    branches = []
    for _, there, back in _BRANCHES:
        x = layers.Permute(there)(showers) if there else showers
        x = _block(x, 64, 8, initializer="glorot_uniform")
        for filters, kernel in ((32, 6), (32, 5), (32, 4), (32, 3), (9, 3)):
            x = _block(x, filters, kernel, padding="valid")
        branches.append(layers.Permute(back)(x) if back else x)
    x = layers.Flatten()(layers.Concatenate()(branches))
    x = layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM)(layers.LeakyReLU(_SLOPE)(layers.Dense(10)(x)))
    real = layers.Dense(1, activation="sigmoid", dtype="float32", name="generation")(x)
    energy = layers.Dense(1, dtype="float32", name="auxiliary")(x)
    ecal = ops.sum(showers, axis=(1, 2, 3))[:, None]
    return keras.Model(showers, [real, energy, ecal], name="discriminator")


def _block(
    x: Tensor,
    filters: int,
    kernel: int,
    *,
    padding: str = "same",
    initializer: str = "he_uniform",
    name: str | None = None,
) -> Tensor:
    # The published order: the normalisation follows the activation.
    x = layers.Conv2D(filters, kernel, padding=padding, use_bias=False, kernel_initializer=initializer, name=name)(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM)(layers.LeakyReLU(_SLOPE)(x))
    return layers.Dropout(_DROPOUT)(x)
