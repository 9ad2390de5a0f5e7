import keras
import pytest
from keras import layers

from calogan.benchmark import peak
from calogan.config import Network
from calogan.networks.families import build_generator


def test_multiply_adds_of_known_layers() -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 3, padding="same")(inputs)  # 3 x 3 x 3 x 5 at 36 positions
    x = layers.Conv2DTranspose(2, 2, strides=2)(x)  # 2 x 2 x 5 x 2 at 36 positions of its input
    x = layers.Dense(7)(layers.Flatten()(layers.ReLU()(x)))  # 12 x 12 x 2 x 7
    assert peak.multiply_adds(keras.Model(inputs, x)) == 135 * 36 + 40 * 36 + 288 * 7


def test_the_published_network_has_the_arithmetic_of_its_layers() -> None:
    network = build_generator(Network(family="rehm2021")).network
    assert 3e8 < peak.multiply_adds(network) < 3e9


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_core_does_at_least_a_billion_multiply_adds_a_second(precision: str) -> None:
    assert 1e9 < peak.peak(precision) < 1e13  # type: ignore[arg-type]
