import keras
import numpy as np
import pytest
from keras import layers

from calogan.training.optimizers import FanInAdam


@pytest.fixture
def network() -> keras.Model:
    image = keras.Input((6, 6, 4))
    x = layers.Conv2DTranspose(8, 4, strides=2, padding="same")(image)  # 4 x 4 x 4 / 2^2 inputs of an output
    x = layers.Conv2D(2, 10, padding="same")(x)  # 10 x 10 x 8
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.BatchNormalization()(x))))  # 12 x 12 x 2


def step(network: keras.Model, rate: float = 1e-3) -> tuple[dict[str, float], FanInAdam]:
    """Take a first step with gradients of 1, and return how far the variables moved."""
    variables = network.trainable_variables
    optimizer = FanInAdam(rate, network, variables, bias=10)
    before = [variable.numpy() for variable in variables]
    optimizer.apply_gradients([(np.ones(variable.shape, np.float32), variable) for variable in variables])
    moves = {v.path: float(np.mean(old - v.numpy())) for v, old in zip(variables, before, strict=True)}
    return {
        path.partition("/")[0].rstrip("_0123456789") + path[path.index("/") :]: m for path, m in moves.items()
    }, optimizer


def test_the_rate_of_a_kernel_falls_with_its_fan_in(network: keras.Model) -> None:
    moves, _ = step(network)
    assert moves["conv2d_transpose/kernel"] == pytest.approx(1e-3, rel=0.01)
    assert moves["conv2d/kernel"] == pytest.approx(1e-3 * 200 / 800, rel=0.01)
    assert moves["dense/kernel"] == pytest.approx(1e-3 * 200 / 288, rel=0.01)
    assert moves["conv2d/bias"] == pytest.approx(1e-2, rel=0.01)
    assert moves["batch_normalization/beta"] == pytest.approx(1e-2, rel=0.01)
    assert moves["batch_normalization/gamma"] == pytest.approx(1e-3, rel=0.01)


def test_a_layer_can_have_another_rate(network: keras.Model) -> None:
    variables = network.trainable_variables
    dense = network.layers[-1]
    usual, faster = (
        FanInAdam(1e-3, network, variables, bias=10, factors=factors)._rates
        for factors in ({}, {dense.name: 10.0, "other": 3.0})
    )
    changed = {v.path: new / old for v, old, new in zip(variables, usual, faster, strict=True) if new != old}
    assert changed == {dense.kernel.path: pytest.approx(10)}


def test_the_averages_lag_behind_and_replace_the_weights(network: keras.Model) -> None:
    kernel = network.layers[-1].kernel
    _, optimizer = step(network)
    first = kernel.numpy()
    gradients = [(np.ones(v.shape, np.float32), v) for v in network.trainable_variables]
    optimizer.apply_gradients(gradients)
    second = kernel.numpy()
    optimizer.finalize_variable_values(network.trainable_variables)
    np.testing.assert_allclose(kernel.numpy(), 0.99 * first + 0.01 * second, atol=1e-7)
