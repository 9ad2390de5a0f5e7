import os

import keras
import pytest
from keras import layers

from calogan.benchmark import arithmetic
from calogan.networks import conv3d, rehm2021


def test_multiply_adds_are_those_counted_by_hand() -> None:
    x = keras.Input((6,))
    y = layers.Reshape((3, 3, 4))(layers.Dense(36)(x))  # 6 * 36
    y = layers.Conv2D(5, 3, padding="same")(y)  # 9 positions * 9 taps * 4 * 5
    y = layers.Conv2DTranspose(2, 4, strides=2, padding="same")(y)  # 9 inputs * 16 taps * 5 * 2
    y = layers.Conv2D(1, 2, padding="valid")(layers.LeakyReLU()(y))  # 25 positions * 4 taps * 2
    y = layers.Conv3D(3, (1, 2, 1))(layers.Reshape((5, 5, 1, 1))(y))  # 20 positions * 2 taps * 3
    assert arithmetic.multiply_adds(keras.Model(x, y)) == 6 * 36 + 9 * 9 * 20 + 9 * 16 * 10 + 25 * 8 + 20 * 6


def test_the_published_networks_have_their_arithmetic() -> None:
    # 383.0 million in each of three branches, 10.55 and 0.025 million in the last and the first layer.
    assert arithmetic.multiply_adds(rehm2021.generator_network()) == pytest.approx(1.1596e9, rel=1e-4)
    assert arithmetic.multiply_adds(conv3d.generator_network()) == pytest.approx(0.2557e9, rel=1e-3)


def test_a_narrowed_network_has_the_layers_and_the_arithmetic_asked_for() -> None:
    whole = rehm2021.generator_network()
    narrow = arithmetic.narrowed(whole, 250_000_000)
    assert arithmetic.multiply_adds(narrow) == pytest.approx(250_000_000, rel=0.1)
    assert [type(layer) for layer in narrow.layers] == [type(layer) for layer in whole.layers]
    assert narrow.output_shape == whole.output_shape == (None, 25, 25, 25)
    assert all(layer.filters % 4 == 0 or layer.filters == 25 for layer in narrow.layers if hasattr(layer, "filters"))


@pytest.mark.slow
@pytest.mark.parametrize("onednn", [True, False])
def test_families_are_timed_with_the_library_asked_for(onednn: bool) -> None:
    before = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    times = arithmetic.time_families(2, rounds=1, onednn=onednn)
    assert tuple(times) == arithmetic.NETWORKS
    assert all(ms > 0 for ms in times.values())
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == before
