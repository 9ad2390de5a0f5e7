"""The energies of the 25 layers, drawn in float32: a conditional normalizing flow.

Quantization never touches this part, so int8 cannot shift the sampling fraction or the longitudinal profile. The
energies of the layers are expressed as the sampling fraction and, layer by layer, the share of the remaining energy
(stick breaking), centred and scaled as a function of Ep, and mapped to independent normal numbers by affine couplings
(Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017, eq. 7-8).
"""

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from calogan.networks.base import Tensor

SIZE = 25
_SHARE_MIN = 1e-5
DEGREE = 4  # number of terms of the polynomials in log Ep for centre and scale
LOG_EP_CENTRE, LOG_EP_WIDTH = float(np.log(100.0)), 1.5
_SCALE_MAX = 1.5


def log_energy(energy: Tensor) -> Tensor:
    """The condition: log Ep shifted and scaled to order one, shape (n, 1), of Ep in GeV, shape (n,)."""
    return ((ops.log(energy) - LOG_EP_CENTRE) / LOG_EP_WIDTH)[:, None]


def to_sticks(layer_energies: NDArray[np.float32], energy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Express layer energies as unconstrained numbers.

    Args:
        layer_energies: energy of each layer, shape (n, 25), GeV.
        energy: primary energies, shape (n,), GeV.

    Returns:
        Sticks, shape (n, 25): logit of the share of the remaining energy for layers 0 to 23, then log(ECAL / Ep).
    """
    e = np.asarray(layer_energies, dtype=np.float64)
    rest = np.cumsum(e[:, ::-1], axis=1)[:, ::-1]
    share = np.clip(e[:, :-1] / np.maximum(rest[:, :-1], 1e-12), _SHARE_MIN, 1 - _SHARE_MIN)
    total = np.log(np.maximum(rest[:, 0], 1e-9) / energy)
    return np.concatenate([np.log(share / (1 - share)), total[:, None]], axis=1)


class Couplings(keras.Model):  # type: ignore[misc]  # Keras has no types
    """Invertible map between `size` standard normal numbers and as many others, given a condition.

    Args:
        size: number of the transformed numbers.
        condition: number of conditions.
        couplings: number of coupling layers; in each, one half of the numbers transforms the other.
        width: width of the small networks in the coupling layers.
        name: name of the map.
    """

    def __init__(self, size: int, condition: int, *, couplings: int, width: int, name: str) -> None:
        super().__init__(name=name)
        order = np.random.Generator(np.random.Philox(key=0))
        self.orders = [order.permutation(size) for _ in range(couplings)]
        self.size, self.condition, self.half = size, condition, size // 2
        self.blocks = [
            _coupling(self.half + condition, size - self.half, width, name=f"coupling_{k}") for k in range(couplings)
        ]

    def log_likelihood(self, numbers: Tensor, condition: Tensor) -> Tensor:
        """Log density, shape (n,), of numbers, shape (n, size), for conditions, shape (n, condition)."""
        x, log_det = numbers, 0.0
        for order, block in zip(self.orders, self.blocks, strict=True):
            x = ops.take(x, order, axis=1)
            fixed, moved = x[:, : self.half], x[:, self.half :]
            scale, shift = _scale_shift(block, fixed, condition)
            x = ops.concatenate([fixed, moved * ops.exp(scale) + shift], axis=1)
            log_det = log_det + ops.sum(scale, axis=1)
        return log_det - 0.5 * ops.sum(ops.square(x), axis=1) - 0.5 * self.size * float(np.log(2 * np.pi))

    def call(self, normal: Tensor, condition: Tensor) -> Tensor:
        """Transform standard normal numbers, shape (n, size), to numbers of the learnt distribution, same shape."""
        x = normal
        for order, block in zip(reversed(self.orders), reversed(self.blocks), strict=True):
            fixed, moved = x[:, : self.half], x[:, self.half :]
            scale, shift = _scale_shift(block, fixed, condition)
            x = ops.concatenate([fixed, (moved - shift) * ops.exp(-scale)], axis=1)
            x = ops.take(x, np.argsort(order), axis=1)
        return x


class LayerFlow(Couplings):
    """Flow between normal numbers and the energies of the layers, given log Ep."""

    def __init__(self, *, couplings: int = 6, width: int = 32) -> None:
        super().__init__(SIZE, 1, couplings=couplings, width=width, name="layer_flow")
        self.centre = self.add_weight(name="centre", shape=(DEGREE, SIZE), initializer="zeros", trainable=False)
        self.spread = self.add_weight(name="spread", shape=(DEGREE, SIZE), initializer="zeros", trainable=False)
        self.mix = self.add_weight(name="mix", shape=(SIZE, SIZE), initializer="identity", trainable=False)
        self.unmix = self.add_weight(name="unmix", shape=(SIZE, SIZE), initializer="identity", trainable=False)

    def fit_scale(self, sticks: NDArray[np.float64], energy: NDArray[np.float32]) -> None:
        """Fit centre and spread as polynomials of log Ep, and the uncorrelated axes, to `to_sticks` of a sample."""
        centre, spread, scaled = self_scaled(sticks, energy)
        variance, axes = np.linalg.eigh(np.cov(scaled, rowvar=False))
        width = np.sqrt(np.maximum(variance, 1e-4))
        self.centre.assign(centre)
        self.spread.assign(spread)
        self.mix.assign(axes / width)
        self.unmix.assign((axes * width).T)

    def normalise_alike(self, sticks: NDArray[np.float64], energy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Centre and scale another sample by its own fit, and rotate it to the axes of `fit_scale`, shape (n, 25)."""
        return np.asarray(self_scaled(sticks, energy)[2] @ np.asarray(self.mix), np.float32)

    def normalise(self, sticks: Tensor, condition: Tensor) -> Tensor:
        """Centre, scale and decorrelate sticks, shape (n, 25), for conditions of shape (n, 1)."""
        centre, spread = self._scale(condition)
        return ops.matmul((sticks - centre) / spread, self.mix)

    def layer_energies(self, scaled: Tensor, condition: Tensor, energy: Tensor) -> Tensor:
        """Energies of the layers, shape (n, 25), GeV, from centred and scaled sticks."""
        centre, spread = self._scale(condition)
        sticks = ops.matmul(scaled, self.unmix) * spread + centre
        # log share = log sigmoid(s_l) + sum of log(1 - sigmoid(s_k)) over the layers before it
        logit = ops.clip(sticks[:, :-1], -11.5, 11.5)
        log_rest = ops.cumsum(ops.log_sigmoid(-logit), axis=1)
        zero = ops.zeros_like(log_rest[:, :1])
        log_share = ops.concatenate([ops.log_sigmoid(logit), zero], axis=1) + ops.concatenate([zero, log_rest], axis=1)
        return ops.exp(log_share + sticks[:, -1:]) * energy[:, None]

    def _scale(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        basis = ops.concatenate([ops.power(condition, k) for k in range(DEGREE)], axis=1)
        return ops.matmul(basis, self.centre), ops.exp(ops.matmul(basis, self.spread))


def powers(condition: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polynomials' terms, shape (n, 4), of conditions, shape (n, 1)."""
    return np.vander(condition[:, 0], DEGREE, increasing=True)


def self_scaled(
    sticks: NDArray[np.float64], energy: NDArray[np.float32]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Polynomials in log Ep for centre and log spread of k numbers, shape (4, k) each, and the scaled numbers, (n, k)."""
    basis = powers(np.asarray(log_energy(energy), np.float64))
    centre = np.linalg.lstsq(basis, sticks, rcond=None)[0]
    residual = np.log(np.abs(sticks - basis @ centre) + 1e-3)
    spread = np.linalg.lstsq(basis, residual, rcond=None)[0]
    spread[0] += 0.635  # E[log|g|] of a standard normal g is -0.635
    return centre, spread, (sticks - basis @ centre) / np.exp(basis @ spread)


def _coupling(inputs: int, outputs: int, width: int, *, name: str) -> keras.Model:
    # The last layer starts at zero, so that the untrained flow is the identity.
    parts = [
        keras.Input((inputs,)),
        layers.Dense(width, activation="relu"),
        layers.Dense(width, activation="relu"),
        layers.Dense(2 * outputs, kernel_initializer="zeros"),
    ]
    return keras.Sequential(parts, name=name)


def _scale_shift(block: keras.Model, fixed: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = ops.split(block(ops.concatenate([fixed, condition], axis=1)), 2, axis=1)
    return _SCALE_MAX * ops.tanh(scale / _SCALE_MAX), shift
