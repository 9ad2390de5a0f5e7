"""Initial weights with which the published network outputs rough showers, for training on few showers.

With random weights all cells are hit alike, and much of a short training is spent on emptying them. With these, training
starts from showers with a core of about the right size and a total that is nearly proportional to Ep:

- The dense layer writes the latent numbers, times Ep, to the edge columns of the seed image of 5 x 5 x 5. Each branch owns
  some of these columns.
- The first convolution of a branch reads its columns only at the central position, where showers are: they are two positions
  away, and at the other positions these taps lie outside the image. It outputs random sums of them, and their negatives.
- LeakyReLU of a number and of its negative add up to its absolute value, times 0.7. A sum of absolute values of many normal
  numbers, times Ep, is proportional to Ep and fluctuates little.
- The other convolutions pass their images on: one tap is the identity, and the rest is random, so that channels can diverge.
  The last one of a branch distributes each channel like the mean shower, along the axis that this branch has as channels.
- The transposed convolutions enlarge the central position to a spot as wide as the core of a shower.
"""

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SEED = 1
_SIDE = 5  # of the seed image
_EDGES, _MIDDLE = (0, 4), (1, 2, 3)
_CENTRE = 2
_PAIRS = 16  # of opposite channels behind the first convolution
# Adam changes a weight by the learning rate, so that weights and activations must be large compared with it.
_AMPLITUDE = 500.0
_CORNER = 2.0  # of the columns in the corners, relative to the energy of a layer in the others
# Random parts of the kernels, as fractions of He's initial weights; less for the two largest, whose sums are the longest.
_RANDOM, _RANDOM_LARGE, _RANDOM_FIRST = 0.2, 0.03, 0.001
_SPOT = 1.2  # half width of the spot of the first transposed convolution, positions


def draw(network: keras.Model, mean_shower: Array) -> None:
    """Replace the weights of a network, up to a factor of its output.

    Args:
        network: made by `rehm2021.generator_network`.
        mean_shower: mean energy of each cell, shape (25, 25, 25), any unit.
    """
    rng = np.random.default_rng(_SEED)
    share = mean_shower / mean_shower.sum()
    _set(network, "seed", _seed_kernel(share, rng))
    # Each branch with the profile along its channels and the kernel that reads its columns.
    _draw_branch(network, "xy", share.sum(axis=(0, 1)), _corners(rng), rng)
    _draw_branch(network, "zx", share.sum(axis=(0, 2)), _edges(rng), rng)
    _draw_branch(network, "yz", share.sum(axis=(1, 2)), _edges(rng).transpose(1, 0, 2, 3), rng)
    mean = np.concatenate([np.eye(len(share))] * 3) / 3
    _set(network, "showers", _pass_on(network.get_layer("showers").kernel.shape, mean, 0.1 * _RANDOM, rng))


def _seed_kernel(share: Array, rng: np.random.Generator) -> Array:
    """Kernel from the latent numbers, shape (200, 125): corners for branch `xy`, the other edges for `zx` and `yz`."""
    amplitude = np.zeros((_SIDE, _SIDE, _SIDE))
    amplitude[_EDGES, :] = amplitude[:, _EDGES] = share.sum(axis=(0, 1)).reshape(_SIDE, -1).sum(axis=1)
    amplitude[np.ix_(_EDGES, _EDGES)] = _CORNER
    directions, _ = np.linalg.qr(rng.standard_normal((200, _SIDE**3)))
    return _AMPLITUDE * directions * amplitude.reshape(-1)


def _corners(rng: np.random.Generator) -> Array:
    """First kernel of branch `xy`, shape (5, 5, 5, 16): sums over the corners, whatever their layers."""
    kernel = np.zeros((_SIDE, _SIDE, _SIDE, _PAIRS))
    for corner in ((x, y) for x in _EDGES for y in _EDGES):
        kernel[corner] = rng.standard_normal((_SIDE, _PAIRS)) / (np.sqrt(4 * _SIDE) * _CORNER)
    return kernel


def _edges(rng: np.random.Generator) -> Array:
    """First kernel of branch `zx`, shape (5, 5, 5, 16): sums over the edges of a layer, without the corners."""
    kernel = np.zeros((_SIDE, _SIDE, _SIDE, _PAIRS))
    for x in _EDGES:
        kernel[_CENTRE, x, _MIDDLE] = rng.standard_normal((len(_MIDDLE), _PAIRS)) / np.sqrt(2 * len(_MIDDLE))
    return kernel


def _draw_branch(network: keras.Model, name: str, profile: Array, first: Array, rng: np.random.Generator) -> None:
    def shape(number: int) -> tuple[int, ...]:
        return tuple(network.get_layer(f"{name}_{number}").kernel.shape)

    half = first + _RANDOM_FIRST * _he(first.shape, rng)
    same, halved = np.eye(64), np.repeat(np.eye(32), 2, axis=0) / 2
    absolute = np.concatenate([np.repeat(np.eye(_PAIRS), 4, axis=1)] * 2)  # channels of a pair are added
    kernels = (
        np.concatenate([half, -half], axis=-1),
        _enlarge(shape(2), 3, absolute, _SPOT, rng),
        _pass_on(shape(3), same, _RANDOM, rng),
        _enlarge(shape(4), 2, same, 2.0, rng),
        _pass_on(shape(5), same, _RANDOM_LARGE, rng),
        _pass_on(shape(6), same, _RANDOM_LARGE, rng),
        _pass_on(shape(7), halved, _RANDOM, rng),
        _pass_on(shape(8), np.eye(32), _RANDOM, rng),
        _pass_on(shape(9), np.repeat(profile[None], 32, axis=0), 0.3 * _RANDOM, rng),
    )
    for number, kernel in enumerate(kernels, start=1):
        _set(network, f"{name}_{number}", kernel)


def _pass_on(shape: tuple[int, ...], channels: Array, random: float, rng: np.random.Generator) -> Array:
    """Kernel of a convolution, (height, width, inputs, outputs), that maps channels and keeps positions, and noise."""
    kernel = random * _he(shape, rng)
    # "same" padding reads (side - 1) // 2 positions before each position. Of the valid convolutions, that of side 5 cuts 2
    # positions off each side, and that of side 2 only the first one, which centres the image.
    tap = 1 if shape[0] == 2 else (shape[0] - 1) // 2
    kernel[tap, tap] += channels
    return kernel


def _enlarge(shape: tuple[int, ...], stride: int, channels: Array, width: float, rng: np.random.Generator) -> Array:
    """Kernel of a transposed convolution, (height, width, outputs, inputs), that draws a spot for every position."""
    side, _, _, inputs = shape
    hat = np.maximum(0.0, 1 - np.abs(np.arange(side) - (side - 1) / 2) / width)
    hat *= stride / hat.sum()
    noise: Array = 0.5 * _RANDOM * np.sqrt(2 / (inputs * side**2 / stride**2)) * rng.standard_normal(shape)
    kernel: Array = noise + hat[:, None, None, None] * hat[:, None, None] * channels.T
    return kernel


def _he(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    weights: Array = np.sqrt(2 / np.prod(shape[:-1])) * rng.standard_normal(shape)
    return weights


def _set(network: keras.Model, name: str, kernel: Array) -> None:
    layer = network.get_layer(name)
    layer.kernel.assign(kernel)
    if layer.use_bias:
        layer.bias.assign(np.zeros(layer.bias.shape))
