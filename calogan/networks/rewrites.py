"""Exact rewrites of a trained network, so that Intel Neural Compressor can quantize all of it.

TensorFlow has integer kernels for convolutions and matrix products, not for transposed convolutions and batch
normalisation. `lower` returns a network that computes the same function, to float32 rounding, without them:

- Normalisation after a convolution is folded into it. After LeakyReLU or ReLU, f(c x) = c f(x) for c >= 0, so its
  scale moves through the activation into the previous convolution, its sign into the next one. Its shift becomes a
  bias of the next convolution if that has no padding; otherwise it stays as an addition, because the zeros are padded
  after the shift.
- A transposed convolution of stride s becomes s x s ordinary ones, each with the taps that meet input at one phase of
  the output, with their results interleaved (the sub-pixel form; Shi et al. 2016, arXiv 1609.07009): no
  multiplication by zero and no additional weights.
- Dropout, inactive after training, is removed.

LeakyReLU is not changed: TensorFlow's integer convolution fuses ReLU only, so LeakyReLU is computed in float32 between
two integer convolutions. Written as relu(x) - a relu(-x) it would fuse, at four times the multiplications.
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
        transposed: whether it is a transposed convolution, whose strides enlarge the image.
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
class Unchanged:
    """A layer that is not rewritten."""

    layer: keras.Layer


Step: TypeAlias = Convolution | Affine | Unchanged
_Steps: TypeAlias = tuple[Step, ...]


def lower(network: keras.Model, *, integer: bool) -> keras.Model:
    """Rewrite a network into one that computes the same function with fewer operations.

    Args:
        network: functional model made of layers only, with one input and one output, images of fixed size with
            channels last, and no layer used twice; it is not changed.
        integer: whether to split transposed convolutions too. Quantization needs that; in float32 they are faster
            unsplit.
    """
    uses = collections.Counter(id(tensor) for layer in network.layers for tensor in _sources(layer))
    # For each tensor of the network: the tensor it starts from, and the steps still to be applied.
    chains: dict[int, tuple[Tensor, _Steps]] = {}

    def build(tensor: Tensor) -> Tensor:
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
                chain = (_copy(layer)([build(source) for source in sources]), ())
        chains[id(layer.output)] = chain
        if uses[id(layer.output)] > 1:
            chains[id(layer.output)] = (build(layer.output), ())
    return keras.Model(network.input, build(network.output), name=network.name)


def read(layer: keras.Layer) -> _Steps:
    """The steps of a trained layer."""
    if isinstance(layer, layers.Dropout):
        return ()
    if isinstance(layer, layers.BatchNormalization) and layer.axis in {-1, len(layer.output.shape) - 1}:
        return (_normalisation(layer),)
    plain = isinstance(layer, layers.Conv2D | layers.Conv2DTranspose) and layer.data_format == "channels_last"
    if not plain or layer.dilation_rate != (1, 1) or getattr(layer, "groups", 1) > 1:
        return (Unchanged(layer),)
    transposed = isinstance(layer, layers.Conv2DTranspose)
    kernel = np.asarray(layer.kernel, np.float64)
    bias = np.asarray(layer.bias, np.float64) if layer.use_bias else np.zeros(layer.filters)
    step = Convolution(kernel.swapaxes(2, 3) if transposed else kernel, bias, layer.strides, layer.padding, transposed)
    if layer.activation is keras.activations.linear:
        return (step,)
    return step, Unchanged(layers.Activation(layer.activation))


def fold_backwards(steps: _Steps) -> _Steps | None:
    """Convolution -> Affine becomes one convolution, with any padding."""
    match steps:
        case Convolution() as convolution, Affine(scale, shift):
            return (_rescale(convolution, scale, shift),)
    return None


def scale_backwards(steps: _Steps) -> _Steps | None:
    """Convolution -> LeakyReLU -> Affine: the absolute scale of the Affine moves into the convolution."""
    match steps:
        case Convolution() as convolution, Unchanged(activation), Affine(scale, shift) if _is_homogeneous(activation):
            if not (np.abs(scale) == 1).all():
                return (
                    _rescale(convolution, np.abs(scale)),
                    Unchanged(activation),
                    Affine(np.where(scale < 0, -1.0, 1.0), shift),
                )
    return None


def fold_forwards(steps: _Steps) -> _Steps | None:
    """Affine -> Convolution: the whole Affine moves if there is no padding, otherwise only the signs of its scale."""
    match steps:
        case Affine(scale, shift), Convolution(kernel, bias) as convolution:
            scaled = dataclasses.replace(convolution, kernel=kernel * scale[:, None])
            if convolution.padding == "valid" and not convolution.transposed:
                return (dataclasses.replace(scaled, bias=bias + np.einsum("hwio,i->o", kernel, shift)),)
            if (np.abs(scale) == 1).all() and not (scale == 1).all():
                return Affine(np.ones_like(scale), scale * shift), scaled
    return None


# Each rule with the number of consecutive steps that it takes.
_RULES: tuple[tuple[Callable[[_Steps], _Steps | None], int], ...] = (
    (fold_backwards, 2),
    (scale_backwards, 3),
    (fold_forwards, 2),
)


def simplify(steps: _Steps) -> _Steps:
    """Apply all the rules to steps."""
    for rule, length in _RULES:
        at = 0
        while at + length <= len(steps):
            replacement = rule(steps[at : at + length])
            if replacement is None:
                at += 1
            else:
                steps = steps[:at] + replacement + steps[at + length :]
    return steps


def apply(steps: _Steps, x: Tensor, *, integer: bool) -> Tensor:
    """Build the layers of steps on top of a tensor; `integer` splits transposed convolutions."""
    for step in steps:
        if isinstance(step, Unchanged):
            x = _copy(step.layer)(x)
        elif isinstance(step, Affine):
            x = x if (step.scale == 1).all() else x * step.scale.astype(np.float32)
            x += step.shift.astype(np.float32)
        elif step.transposed and integer:
            x = _interleave(x, step)
        else:
            x = _convolve(x, step)
    return x


def _sources(layer: keras.Layer) -> list[Tensor]:
    if isinstance(layer, layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def _copy(layer: keras.Layer) -> keras.Layer:
    copy = type(layer).from_config(layer.get_config())
    if layer.weights:
        copy.build(layer.input.shape)
        copy.set_weights(layer.get_weights())
    return copy


def _normalisation(layer: layers.BatchNormalization) -> Affine:
    mean, variance = (np.asarray(value, np.float64) for value in (layer.moving_mean, layer.moving_variance))
    scale = 1 / np.sqrt(variance + layer.epsilon)
    scale *= np.asarray(layer.gamma, np.float64) if layer.scale else 1.0
    shift = np.asarray(layer.beta, np.float64) if layer.center else 0.0
    return Affine(scale, shift - mean * scale)


def _rescale(convolution: Convolution, scale: _Array, shift: _Array | float = 0.0) -> Convolution:
    return dataclasses.replace(convolution, kernel=convolution.kernel * scale, bias=convolution.bias * scale + shift)


def _is_homogeneous(layer: keras.Layer) -> bool:
    """Whether f(c x) = c f(x) for c >= 0."""
    if isinstance(layer, layers.Activation):
        return layer.activation in {keras.activations.relu, keras.activations.leaky_relu}
    return isinstance(layer, layers.LeakyReLU) or (
        isinstance(layer, layers.ReLU) and layer.max_value is None and layer.threshold == 0
    )


def _convolve(x: Tensor, step: Convolution) -> Tensor:
    kind = layers.Conv2DTranspose if step.transposed else layers.Conv2D
    layer = kind(step.bias.size, step.kernel.shape[:2], strides=step.strides, padding=step.padding)
    y = layer(x)
    layer.set_weights([step.kernel.swapaxes(2, 3) if step.transposed else step.kernel, step.bias])
    return y


def _interleave(x: Tensor, step: Convolution) -> Tensor:
    """A transposed convolution as one convolution for each phase of its output, interleaved."""
    extra = [(0, max(stride - size, 0)) for stride, size in zip(step.strides, step.kernel.shape, strict=False)]
    kernel = np.pad(step.kernel, [*extra, (0, 0), (0, 0)])  # so that every phase has a tap
    rows, columns = (
        _phases(x.shape[1 + axis], kernel.shape[axis], step.strides[axis], step.padding) for axis in (0, 1)
    )
    padded = layers.ZeroPadding2D((rows.padding, columns.padding))(x)
    lines = []
    for row_taps, row_window in zip(rows.taps, rows.windows, strict=True):
        cells = [
            _convolve(
                padded[:, row_window, column_window],
                Convolution(kernel[row_taps][:, column_taps], step.bias, (1, 1), "valid", transposed=False),
            )
            for column_taps, column_window in zip(columns.taps, columns.windows, strict=True)
        ]
        # Phases of columns side by side in memory give the columns in order; likewise for rows.
        line = layers.Concatenate(axis=3)(cells)
        lines.append(layers.Reshape((rows.steps, -1, step.bias.size))(line))
    width = columns.steps * step.strides[1]
    y = layers.Reshape((-1, width, step.bias.size))(layers.Concatenate(axis=2)(lines))
    return y if y.shape[1:3] == (rows.length, columns.length) else y[:, : rows.length, : columns.length]


@dataclass(frozen=True)
class _Phases:
    """One axis of a transposed convolution, split into phases.

    Attributes:
        length: length of the output.
        steps: positions of the output in each phase, some of which may lie beyond the length.
        padding: number of zeros before and after the input.
        taps: taps of the kernel that meet input, by phase, in the order that a convolution expects.
        windows: part of the padded input that each phase reads.
    """

    length: int
    steps: int
    padding: tuple[int, int]
    taps: list[list[int]]
    windows: list[slice]


def _phases(size: int, kernel: int, stride: int, padding: str) -> _Phases:
    """Split one axis into phases: output o gets input i through tap o - stride i + before."""
    excess = max(kernel - stride, 0)
    length, before = (size * stride, excess // 2) if padding == "same" else (size * stride + excess, 0)
    steps = math.ceil(length / stride)
    taps = [[tap for tap in reversed(range(kernel)) if (phase + before - tap) % stride == 0] for phase in range(stride)]
    # Input i = o // stride + offset.
    offsets = [[(phase + before - tap) // stride for tap in row] for phase, row in enumerate(taps)]
    lowest, highest = min(map(min, offsets)), max(map(max, offsets))
    windows = [slice(row[0] - lowest, row[-1] - lowest + steps) for row in offsets]
    return _Phases(length, steps, (-lowest, steps - size + highest), taps, windows)
