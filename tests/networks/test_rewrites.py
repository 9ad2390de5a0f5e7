from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from numpy.typing import NDArray

from calogan.config import Network, Quantization
from calogan.networks.families import build_generator
from calogan.networks.rewrites import lower
from calogan.quantization.neural_compressor import compress
from calogan.quantization.operations import count_operations

EXACT = 1e-5  # of the largest output: some roundings of float32
FEW = settings(max_examples=12, deadline=None)

kernels = st.tuples(st.integers(1, 6), st.integers(1, 6))
paddings = st.sampled_from(["same", "valid"])
activations = st.sampled_from(["leaky", "relu", "layer", "tanh", "none"])


def randomize(network: keras.Model, seed: int = 1) -> keras.Model:
    """Give normalisations random statistics as after training, including negative and zero scales."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape[0]
            gamma = rng.uniform(0.5, 1.5, size) * rng.choice([1, 1, -1], size)
            gamma[::7] = 0
            layer.set_weights([gamma, *rng.normal(0, 0.3, (2, size)), rng.uniform(0.5, 1.5, size)])
    return network


def functional(shape: tuple[int, ...], *chain: keras.Layer) -> keras.Model:
    x = features = keras.Input(shape)
    for layer in chain:
        x = layer(x)
    return randomize(keras.Model(features, x))


def assert_equal(network: keras.Model, lowered: keras.Model, scale: float = 1.0) -> None:
    x = np.float32(scale) * np.random.default_rng(2).standard_normal((3, *network.input_shape[1:]), np.float32)
    expected, outputs = np.asarray(network(x)), np.asarray(lowered(x))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=EXACT * np.abs(expected).max())


def kinds(network: keras.Model) -> set[type]:
    return {type(layer) for layer in network.layers}


@FEW
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernels,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    paddings,
    st.booleans(),
)
def test_a_transposed_convolution_is_ordinary_ones_interleaved(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], padding: str, bias: bool
) -> None:
    layer = layers.Conv2DTranspose(
        2, kernel, strides=strides, padding=padding, use_bias=bias, bias_initializer="glorot_uniform"
    )
    network = functional((*size, 3), layer)
    lowered = lower(network, integer=True)
    assert layers.Conv2DTranspose not in kinds(lowered)
    assert lowered.output_shape == network.output_shape
    assert_equal(network, lowered)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 3), (5, 2), (4, 2), (3, 3)])
def test_taking_a_transposed_convolution_apart_adds_no_multiplication(kernel: int, stride: int) -> None:
    network = functional((4, 4, 3), layers.Conv2DTranspose(2, kernel, strides=stride, padding="same", use_bias=False))
    parts = [layer for layer in lower(network, integer=True).layers if isinstance(layer, layers.Conv2D)]
    assert len(parts) == stride**2
    assert sum(layer.kernel.shape.num_elements() for layer in parts) == 3 * 2 * kernel**2
    assert all(layer.output.shape[1:3] == (4, 4) for layer in parts)


def block(
    kernel: tuple[int, int], padding: str, activation: str, stride: int = 1, bias: bool = False
) -> list[keras.Layer]:
    between = {"leaky": [layers.LeakyReLU(0.3)], "layer": [layers.ReLU()], "none": []}
    choice = between.get(activation)
    convolution = layers.Conv2D(
        4, kernel, strides=stride, padding=padding, use_bias=bias, activation=activation if choice is None else None
    )
    return [convolution, *(choice or []), layers.BatchNormalization(), layers.Dropout(0.2)]


@FEW
@given(st.lists(st.tuples(kernels, paddings, activations, st.integers(1, 2), st.booleans()), min_size=1, max_size=3))
def test_a_chain_with_normalisation_computes_the_same(blocks: list[tuple[Any, str, str, int, bool]]) -> None:
    network = functional((28, 27, 3), *(layer for choice in blocks for layer in block(*choice)))
    lowered = lower(network, integer=True)
    assert not {layers.BatchNormalization, layers.Dropout} & kinds(lowered)
    assert_equal(network, lowered)


@FEW
@given(kernels, paddings, paddings, activations)
def test_normalisation_around_a_transposed_convolution_folds(
    kernel: tuple[int, int], outer: str, inner: str, activation: str
) -> None:
    network = functional(
        (4, 5, 3),
        *block((2, 3), "same", activation, bias=True),
        layers.Conv2DTranspose(3, kernel, strides=2, padding=inner),
        layers.BatchNormalization(),
        layers.Conv2D(2, (4, 1), padding=outer),
    )
    for integer in (True, False):
        assert_equal(network, lower(network, integer=integer))


@pytest.mark.parametrize("activation", ["leaky", "relu", "none"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_only_the_shift_before_a_padded_convolution_is_left(activation: str, padding: str) -> None:
    network = functional((6, 6, 3), *block((3, 3), "same", activation), layers.Conv2D(2, 2, padding=padding))
    names = [operation.name.partition("_")[0] for operation in lower(network, integer=True).operations]
    assert names.count("add") == (padding == "same" and activation != "none")
    assert "multiply" not in names


def test_layers_without_a_rule_are_kept() -> None:
    network = functional(
        (4, 4, 6),
        layers.Conv2D(4, 3, dilation_rate=2, padding="same"),
        layers.BatchNormalization(),
        layers.Conv2D(4, 3, groups=2),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(3, activation="tanh"),
    )
    lowered = lower(network, integer=True)
    assert kinds(lowered) >= {layers.Conv2D, layers.MaxPooling2D, layers.Dense}
    assert_equal(network, lowered)


def test_a_shared_layer_is_computed_once() -> None:
    features = keras.Input((5, 5, 2))
    shared = layers.LeakyReLU()(layers.Conv2D(3, 2, padding="same")(features))
    branches = [layers.BatchNormalization()(shared), layers.Conv2D(3, 3, padding="same")(shared), shared]
    network = randomize(keras.Model(features, layers.Concatenate()(branches)))
    lowered = lower(network, integer=True)
    assert sum(isinstance(layer, layers.Conv2D) for layer in lowered.layers) == 2
    assert_equal(network, lowered)


@pytest.fixture(scope="module")
def published() -> keras.Model:
    keras.utils.set_random_seed(1)
    return randomize(build_generator(Network(family="rehm2021")).network)


@pytest.mark.parametrize("integer", [True, False])
def test_the_published_network_is_the_same_with_fewer_operations(published: keras.Model, integer: bool) -> None:
    before = [np.array(weight) for weight in published.get_weights()]
    lowered = lower(published, integer=integer)
    assert not {layers.BatchNormalization, layers.Dropout} & kinds(lowered)
    assert (layers.Conv2DTranspose in kinds(lowered)) is not integer
    assert lowered.count_params() <= published.count_params()
    assert_equal(published, lowered, scale=3.0)
    for weight, original in zip(published.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, original)


def features(network: keras.Model, n: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((n, *network.input_shape[1:]), np.float32)


@pytest.mark.parametrize(("integer", "remaining"), [(True, 0), (False, 1)])
def test_a_lowered_network_quantizes_fully(integer: bool, remaining: int) -> None:
    # The blocks of the published network, small.
    network = functional(
        (20,),
        layers.Dense(48),
        layers.Reshape((4, 4, 3)),
        *block((5, 5), "same", "leaky"),
        layers.Conv2DTranspose(4, 5, strides=2, padding="same"),
        *block((4, 4), "same", "leaky"),
        layers.Permute((3, 1, 2)),
        layers.Conv2D(2, 2, activation="relu"),
    )
    definition = compress(lower(network, integer=integer), features(network, 16), Quantization())
    operations = count_operations(definition)
    assert operations.float_arithmetic == remaining
    assert (operations.integer_convolutions, operations.integer_products) == (3 + 4 * integer, 1)
