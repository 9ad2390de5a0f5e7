"""`conv3d`: EnergyGAN, the three-dimensional network that `rehm2021` was designed to replace.

Layers and constants as in the authors' public code (svalleco/3Dgan, branch master, keras/EcalEnergyGan.py). It is
included for comparison: the same showers, 0.25 GMAC in three-dimensional convolutions.
"""

import keras
from keras import layers

from calogan.geometry import CLIC
from calogan.networks.base import LatentNetwork, Tensor

_SLOPE, _EPSILON, _MOMENTUM = 0.3, 1e-3, 0.99


class Conv3D(LatentNetwork):
    """Generator family `conv3d`."""

    family = "conv3d"

    def __init__(self) -> None:
        super().__init__(generator_network())


def generator_network() -> keras.Model:
    """The published generator: four convolutions, two up-samplings; padding yields the 25 x 25 x 25 cells."""
    features = keras.Input((LatentNetwork.latent_size,), name="features")
    x = layers.Reshape((7, 7, 8, 8))(layers.Dense(64 * 7 * 7)(features))
    x = _normalised(layers.Conv3D(64, (6, 6, 8), padding="same", kernel_initializer="he_uniform")(x))
    x = layers.ZeroPadding3D((2, 2, 0))(layers.UpSampling3D((2, 2, 2))(x))
    x = _normalised(layers.Conv3D(6, (6, 5, 8), kernel_initializer="he_uniform")(x))
    x = layers.ZeroPadding3D((1, 0, 3))(layers.UpSampling3D((2, 2, 3))(x))
    x = layers.LeakyReLU(_SLOPE)(layers.Conv3D(6, (3, 3, 8), kernel_initializer="he_uniform")(x))
    x = layers.Conv3D(1, (2, 2, 2), use_bias=False, activation="relu")(x)
    return keras.Model(features, layers.Reshape(CLIC.shape)(x), name="generator")


def _normalised(x: Tensor) -> Tensor:
    return layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM)(layers.LeakyReLU(_SLOPE)(x))
