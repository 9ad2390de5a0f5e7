"""Exact rewrites of a trained network, so that Intel Neural Compressor can quantize all of it.

TensorFlow has integer kernels for convolutions and matrix products, not for transposed convolutions and batch
normalisation. `lower` returns a network that computes the same function, to float32 rounding, without them:

- Normalisation behind a convolution is folded into it. Behind LeakyReLU or ReLU, f(c x) = c f(x) for c >= 0, so its
  scale moves through the activation into the convolution before, its sign into the one behind. Its shift becomes a
  bias of the convolution behind if that pads nothing; otherwise it stays as an addition, since zeros are padded
  behind the shift.
- A transposed convolution of stride s becomes s x s ordinary ones, each with the taps that meet input at one phase of
  the output, with their results interleaved (the sub-pixel form; Shi et al. 2016, arXiv 1609.07009): no
  multiplication by zero, no weight more.
- Dropout, idle after training, is left out.

LeakyReLU stays as it is: TensorFlow's integer convolution fuses ReLU only, so it is computed in float32 between two
integer convolutions. Written as relu(x) - a relu(-x) it would fuse, for four times the multiplications of the chain.
"""

import collections
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from calogan.networks.base import Tensor

_Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Convolution:
    """A convolution, or a transposed one.

    Attributes:
        kernel: shape (height, width, channels in, channels out).
        bias: shape (channels out,).
        strides: rows and columns.
        padding: "same" or "valid".
        transposed: whether the strides enlarge.
    """

    kernel: _Array
    bias: _Array
    strides: tuple[int, int]
    padding: str
    transposed: bool


@dataclass(frozen=True)
class Affine:
    """scale * x + shift, each of shape (channels,)."""

    scale: _Array
    shift: _Array


@dataclass(frozen=True)
class Kept:
    """A layer that stays as it is."""

    layer: keras.Layer


Step: TypeAlias = Convolution | Affine | Kept
_Steps: TypeAlias = tuple[Step, ...]


def lower(network: keras.Model, *, integer: bool) -> keras.Model:
    """Rewrite a network into one that computes the same in fewer operations.

    Args:
        network: functional and of layers only, one input and one output, images of fixed size with channels last, no
            layer used twice; it is not changed.
        integer: whether transposed convolutions are taken apart too. Quantization needs that; in float32 they are
            faster as they are.
    """
    used = collections.Counter(id(tensor) for layer in network.layers for tensor in _sources(layer))
    # Each tensor of the network by what it is made from and the steps that are still to be done.
    chains: dict[int, tuple[Tensor, _Steps]] = {}

    def built(tensor: Tensor) -> Tensor:
        start, steps = chains[id(tensor)]
        return apply(simplify(steps), start, integer=integer)

    for layer in network.layers:
        match _sources(layer):
            case []:
                chain: tuple[Tensor, _Steps] = (layer.output, ())
            case [source]:
                start, steps = chains[id(source)]
                chain = (start, steps + read(layer))
            case sources:
                chain = (_copy(layer)([built(source) for source in sources]), ())
        chains[id(layer.output)] = chain
        if used[id(layer.output)] > 1:
            chains[id(layer.output)] = (built(layer.output), ())
    return keras.Model(network.input, built(network.output), name=network.name)


def read(layer: keras.Layer) -> _Steps:
    """The steps of a trained layer."""
    if isinstance(layer, layers.Dropout):
        return ()
    if isinstance(layer, layers.BatchNormalization) and layer.axis in {-1, len(layer.output.shape) - 1}:
        return (_normalisation(layer),)
    plain = isinstance(layer, layers.Conv2D | layers.Conv2DTranspose) and layer.data_format == "channels_last"
    if not plain or layer.dilation_rate != (1, 1) or getattr(layer, "groups", 1) > 1:
        return (Kept(layer),)
    transposed = isinstance(layer, layers.Conv2DTranspose)
    kernel = np.asarray(layer.kernel, np.float64)
    bias = np.asarray(layer.bias, np.float64) if layer.use_bias else np.zeros(layer.filters)
    step = Convolution(kernel.swapaxes(2, 3) if transposed else kernel, bias, layer.strides, layer.padding, transposed)
    if layer.activation is keras.activations.linear:
        return (step,)
    return step, Kept(layers.Activation(layer.activation))


def fold_backwards(steps: _Steps) -> _Steps | None:
    """Convolution -> Affine becomes one convolution, whatever its padding."""
    match steps:
        case Convolution() as convolution, Affine(scale, shift):
            return (_scaled(convolution, scale, shift),)
    return None


def scale_backwards(steps: _Steps) -> _Steps | None:
    """Convolution -> LeakyReLU -> Affine: the absolute scale of the Affine moves into the convolution."""
    match steps:
        case Convolution() as convolution, Kept(activation), Affine(scale, shift) if _is_homogeneous(activation):
            if not (np.abs(scale) == 1).all():
                return (
                    _scaled(convolution, np.abs(scale)),
                    Kept(activation),
                    Affine(np.where(scale < 0, -1.0, 1.0), shift),
                )
    return None


def fold_forwards(steps: _Steps) -> _Steps | None:
    """Affine -> Convolution: all of it moves if nothing is padded, otherwise only the signs of the scale do."""
    match steps:
        case Affine(scale, shift), Convolution(kernel, bias) as convolution:
            scaled = dataclasses.replace(convolution, kernel=kernel * scale[:, None])
            if convolution.padding == "valid" and not convolution.transposed:
                return (dataclasses.replace(scaled, bias=bias + np.einsum("hwio,i->o", kernel, shift)),)
            if (np.abs(scale) == 1).all() and not (scale == 1).all():
                return Affine(np.ones_like(scale), scale * shift), scaled
    return None


# What each rule takes in a row.
_RULES: tuple[tuple[Callable[[_Steps], _Steps | None], int], ...] = (
    (fold_backwards, 2),
    (scale_backwards, 3),
    (fold_forwards, 2),
)


def simplify(steps: _Steps) -> _Steps:
    """Rewrite steps by all the rules."""
    for rule, length in _RULES:
        at = 0
        while at + length <= len(steps):
            replaced = rule(steps[at : at + length])
            if replaced is None:
                at += 1
            else:
                steps = steps[:at] + replaced + steps[at + length :]
    return steps


def apply(steps: _Steps, x: Tensor, *, integer: bool) -> Tensor:
    """Build the layers of steps behind a tensor, with transposed convolutions taken apart or not."""
    for step in steps:
        if isinstance(step, Kept):
            x = _copy(step.layer)(x)
        elif isinstance(step, Affine):
            x = x if (step.scale == 1).all() else x * step.scale.astype(np.float32)
            x += step.shift.astype(np.float32)
        elif step.transposed and integer:
            x = _interleaved(x, step)
        else:
            x = _convolved(x, step)
    return x


def _sources(layer: keras.Layer) -> list[Tensor]:
    if isinstance(layer, layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def _copy(layer: keras.Layer) -> keras.Layer:
    copied = type(layer).from_config(layer.get_config())
    if layer.weights:
        copied.build(layer.input.shape)
        copied.set_weights(layer.get_weights())
    return copied


def _normalisation(layer: layers.BatchNormalization) -> Affine:
    mean, variance = (np.asarray(value, np.float64) for value in (layer.moving_mean, layer.moving_variance))
    scale = 1 / np.sqrt(variance + layer.epsilon)
    scale *= np.asarray(layer.gamma, np.float64) if layer.scale else 1.0
    shift = np.asarray(layer.beta, np.float64) if layer.center else 0.0
    return Affine(scale, shift - mean * scale)


def _scaled(convolution: Convolution, scale: _Array, shift: _Array | float = 0.0) -> Convolution:
    return dataclasses.replace(convolution, kernel=convolution.kernel * scale, bias=convolution.bias * scale + shift)


def _is_homogeneous(layer: keras.Layer) -> bool:
    """Whether f(c x) = c f(x) for c >= 0."""
    if isinstance(layer, layers.Activation):
        return layer.activation in {keras.activations.relu, keras.activations.leaky_relu}
    return isinstance(layer, layers.LeakyReLU) or (
        isinstance(layer, layers.ReLU) and layer.max_value is None and layer.threshold == 0
    )


def _convolved(x: Tensor, step: Convolution) -> Tensor:
    kind = layers.Conv2DTranspose if step.transposed else layers.Conv2D
    layer = kind(step.bias.size, step.kernel.shape[:2], strides=step.strides, padding=step.padding)
    y = layer(x)
    layer.set_weights([step.kernel.swapaxes(2, 3) if step.transposed else step.kernel, step.bias])
    return y


def _interleaved(x: Tensor, step: Convolution) -> Tensor:
    """A transposed convolution as one convolution for each phase of its output, interleaved."""
    missing = [(0, max(stride - size, 0)) for stride, size in zip(step.strides, step.kernel.shape, strict=False)]
    kernel = np.pad(step.kernel, [*missing, (0, 0), (0, 0)])  # so that every phase has a tap
    rows, columns = (
        _phases(x.shape[1 + axis], kernel.shape[axis], step.strides[axis], step.padding) for axis in (0, 1)
    )
    padded = layers.ZeroPadding2D((rows.padding, columns.padding))(x)
    lines = []
    for row_taps, row_window in zip(rows.taps, rows.windows, strict=True):
        cells = [
            _convolved(
                padded[:, row_window, column_window],
                Convolution(kernel[row_taps][:, column_taps], step.bias, (1, 1), "valid", transposed=False),
            )
            for column_taps, column_window in zip(columns.taps, columns.windows, strict=True)
        ]
        # Phases of columns side by side in memory are the columns in their order; the same then holds for rows.
        line = layers.Concatenate(axis=3)(cells)
        lines.append(layers.Reshape((rows.steps, -1, step.bias.size))(line))
    width = columns.steps * step.strides[1]
    y = layers.Reshape((-1, width, step.bias.size))(layers.Concatenate(axis=2)(lines))
    return y if y.shape[1:3] == (rows.length, columns.length) else y[:, : rows.length, : columns.length]


@dataclass(frozen=True)
class _Phases:
    """One axis of a transposed convolution taken apart.

    Attributes:
        length: of the output.
        steps: positions of the output in each phase, of which some may be beyond the length.
        padding: zeros before and behind the input.
        taps: of the kernel that meet input, by phase, in the order a convolution wants.
        windows: part of the padded input that each phase is computed from.
    """

    length: int
    steps: int
    padding: tuple[int, int]
    taps: list[list[int]]
    windows: list[slice]


def _phases(size: int, kernel: int, stride: int, padding: str) -> _Phases:
    """Take one axis apart: output o gets input i through tap o - stride i + before."""
    excess = max(kernel - stride, 0)
    length, before = (size * stride, excess // 2) if padding == "same" else (size * stride + excess, 0)
    steps = math.ceil(length / stride)
    taps = [[tap for tap in reversed(range(kernel)) if (phase + before - tap) % stride == 0] for phase in range(stride)]
    # Input i = o // stride + offset.
    offsets = [[(phase + before - tap) // stride for tap in used] for phase, used in enumerate(taps)]
    lowest, highest = min(map(min, offsets)), max(map(max, offsets))
    windows = [slice(used[0] - lowest, used[-1] - lowest + steps) for used in offsets]
    return _Phases(length, steps, (-lowest, steps - size + highest), taps, windows)
