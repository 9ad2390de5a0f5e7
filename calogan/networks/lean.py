"""`lean`: a generator made for integer arithmetic.

Three parts. A float32 flow draws the energies of the layers (`flow`). A small convolutional network, the
part that is quantized, gives the expected share of each cell in its layer. A float32 tail draws each
cell around its expected energy with the fluctuation that sampling gives (`compound_poisson`) and scales
every layer to the energy the flow has drawn. So quantization can change the shape inside a layer only:
it cannot move the sampling fraction, the resolution or the longitudinal profile.
"""

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from calogan.geometry import CLIC
from calogan.networks import compound_poisson, flow
from calogan.networks.base import GeneratorNetwork, Tensor

SHAPE_LATENT = 16
_RINGS = 8
_LOGIT_MAX = 30.0  # beyond any share; keeps the exponential finite
_RATE_MIN = 1e-7  # keeps the logarithm of the rate of an empty layer finite
_BLOCK = 5  # side of the square of cells that one position of the small image becomes


class Lean(GeneratorNetwork):
    """Generator family `lean`; see the module.

    Attributes:
        flow: draws the energies of the layers.
        network: the quantized part: features, shape (n, 2 + 25 + 16) -> logits, shape (n, 25, 25, 25).
        template: logarithm of each cell's mean share of its layer, shape (25, 25, 25).
        log_quantum: logarithm of the mean deposit of one crossing, GeV, by layer and ring around the axis.
    """

    family = "lean"
    latent_size = flow.SIZE + SHAPE_LATENT
    cell_noise = True

    def __init__(self, *, width: int = 32) -> None:
        super().__init__(name="lean")
        self.width = width
        self.flow = flow.LayerFlow()
        self.network = shape_network(width)
        self.template = self.add_weight(name="template", shape=CLIC.shape, initializer="zeros")
        self.log_quantum = self.add_weight(
            name="log_quantum",
            shape=(CLIC.layers, _RINGS),
            initializer=keras.initializers.Constant(float(np.log(3.5e-4))),
        )
        self.ring = _rings()
        self.central = np.zeros((1, *CLIC.shape), dtype=np.float32)
        self.central[:, *CLIC.entry_cell] = 1.0

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Draw what stays float32 before the network.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).

        Returns:
            the network's features, shape (n, 43), and the layers' energies, shape (n, 25), GeV.
        """
        condition = flow.log_energy(energy)
        scaled = self.flow(latent[:, : flow.SIZE], condition)
        features = self.features(condition, scaled, latent[:, flow.SIZE :])
        return features, self.flow.layer_energies(scaled, condition, energy)

    def features(self, condition: Tensor, scaled: Tensor, shape_latent: Tensor) -> Tensor:
        """Join condition (n, 1), scaled sticks (n, 25) and shape latent (n, 16) to the network's input."""
        inside = ops.clip(scaled, -4.0, 4.0)
        return ops.concatenate([condition, ops.square(condition), inside, shape_latent], axis=1)

    def rates(self, logits: Tensor, layer_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Expected crossings of each cell and the energy of one.

        Args:
            logits: output of the network, shape (n, 25, 25, 25).
            layer_energies: shape (n, 25), GeV.

        Returns:
            rates, shape (n, 25, 25, 25), and quanta, shape (25, 25, 25), GeV.
        """
        quantum = ops.exp(ops.take(ops.transpose(self.log_quantum), self.ring, axis=0))
        # A softmax over the cells of a layer; the logits are small, so their maximum need not be taken off.
        weight = ops.exp(ops.minimum(logits + self.template, _LOGIT_MAX))
        factor = layer_energies / ops.sum(weight, axis=(1, 2))
        return weight * factor[:, None, None, :] * (1.0 / quantum) + _RATE_MIN, quantum

    def finish(self, logits: Tensor, layer_energies: Tensor, noise: Tensor) -> Tensor:
        """Draw the cells around their expected energies.

        Args:
            logits: output of the network, shape (n, 25, 25, 25).
            layer_energies: shape (n, 25), GeV; every layer of the result sums to it.
            noise: standard normal numbers, shape (n, 25, 25, 25).

        Returns:
            showers, shape (n, 25, 25, 25), GeV.
        """
        rate, quantum = self.rates(logits, layer_energies)
        cells = compound_poisson.sample(rate, noise) * quantum
        total = ops.sum(cells, axis=(1, 2), keepdims=True)
        # A layer in which no cell was hit has its energy in the central cell.
        cells = ops.where(total > 0, cells, self.central)
        total = ops.where(total > 0, total, 1.0)
        showers = cells * (layer_energies[:, None, None, :] / total)
        return ops.where(showers < CLIC.threshold_gev, 0.0, showers)


def shape_network(width: int) -> keras.Model:
    """The convolutional network of the family: Dense, then 5x5 positions, then 25x25 cells.

    Every convolution is followed by ReLU, which fuses into the integer convolution; the enlargement is
    sub-pixel (Shi et al. 2016), since a transposed convolution stays float32 in TensorFlow.
    """
    x = features = keras.Input((2 + flow.SIZE + SHAPE_LATENT,), name="features")
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dense(_BLOCK * _BLOCK * width, activation="relu")(x)
    x = layers.Reshape((_BLOCK, _BLOCK, width))(x)
    x = layers.Conv2D(_BLOCK * _BLOCK * width // 2, 3, padding="same", activation="relu")(x)
    x = layers.Reshape((_BLOCK, _BLOCK, _BLOCK, _BLOCK, width // 2))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    x = layers.Reshape((_BLOCK * _BLOCK, _BLOCK * _BLOCK, width // 2))(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    near_zero = keras.initializers.RandomNormal(0, 0.02)
    logits = layers.Conv2D(CLIC.layers, 3, padding="same", kernel_initializer=near_zero)(x)
    return keras.Model(features, logits, name="shape")


def template(mean_shower: NDArray[np.float64]) -> NDArray[np.float32]:
    """Log of the share of each cell in its layer of the mean shower, both of shape (25, 25, 25), smoothed where it is rare."""
    mirrored = 0.5 * (mean_shower + mean_shower[::-1])
    share = mirrored / mirrored.sum(axis=(0, 1), keepdims=True)
    return np.asarray(np.log(share + 1e-6), dtype=np.float32)


def _rings() -> NDArray[np.int32]:
    """Number of the ring of each (x, y) around the entry cell, shape (25, 25); the last takes the rest."""
    x, y = np.indices(CLIC.shape[:2])
    radius = np.hypot(x - CLIC.entry_cell[0], y - CLIC.entry_cell[1])
    return np.asarray(np.minimum(np.round(radius), _RINGS - 1), dtype=np.int32)
