import keras
import numpy as np
import pytest
from keras import ops

from calogan.config import Network, Training
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks.families import build_generator
from calogan.training import discriminators
from calogan.training.run import TrainingRun
from calogan.training.survey import survey


def test_mape_of_known_numbers() -> None:
    # |2 - 1| / 2 and |4 - 5| / 4
    assert float(discriminators.mape(np.array([2, 4], np.float32), np.array([1, 5], np.float32))) == pytest.approx(
        37.5, rel=1e-5
    )


def test_binary_crossentropy_of_known_numbers() -> None:
    loss = float(
        discriminators.binary_crossentropy(np.array([1, 0, 0.9], np.float32), np.array([0.5, 0.25, 0.5], np.float32))
    )
    assert loss == pytest.approx((np.log(2) + np.log(4 / 3) + np.log(2)) / 3, rel=1e-5)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_binary_crossentropy_of_certainty_is_finite(probability: float) -> None:
    loss = float(
        discriminators.binary_crossentropy(np.array([1 - probability], np.float32), np.array([probability], np.float32))
    )
    assert loss == pytest.approx(-np.log(2e-7), rel=0.02)


def test_the_published_loss_weighs_its_three_terms() -> None:
    answer = (np.array([[0.5]], np.float32), np.array([[1.5]], np.float32), np.array([[3.0]], np.float32))
    loss = discriminators.published_loss(
        np.array([1], np.float32), np.array([100], np.float32), np.array([4], np.float32), answer
    )
    assert float(loss) == pytest.approx(6 * np.log(2) + 0.2 * 50 + 0.1 * 25, rel=1e-5)


def test_the_critic_sees_the_numbers_of_a_known_shower() -> None:
    shower = np.zeros((1, *CLIC.shape), np.float32)
    shower[0, 12, 12, 4], shower[0, 12, 16, 4] = 0.6, 0.2
    seen = np.asarray(discriminators.observe(shower, np.array([40.0], np.float32)))[0]
    assert seen.shape == (86,)
    x, y, z, numbers = seen[:25], seen[25:50], seen[50:75], seen[75:]
    np.testing.assert_allclose([x[12], y[12], y[16], z[4]], np.sqrt([1, 0.75, 0.25, 1]), rtol=1e-4)
    np.testing.assert_allclose(x[13], 1e-3, rtol=1e-4)
    np.testing.assert_allclose(numbers[:4], np.log(3), rtol=1e-4)  # two hits
    assert numbers[4] == pytest.approx(np.log1p(2 - np.exp(-6) - np.exp(-2)), rel=1e-4)  # above about 0.1 GeV
    mean = np.log(1e-4) + (np.log(0.6001 / 1e-4) + np.log(0.2001 / 1e-4)) / 25**3
    assert numbers[5] == pytest.approx(mean, rel=1e-5)
    np.testing.assert_allclose(numbers[7:], np.log([0.75 + 1e-3, 0.75 + 1e-4, 0.8 / 40, 40]), rtol=1e-4)


def test_what_the_critic_sees_of_empty_and_negative_showers_is_finite() -> None:
    showers = np.stack([np.zeros(CLIC.shape, np.float32), np.full(CLIC.shape, -1.0, np.float32)])
    assert np.isfinite(np.asarray(discriminators.observe(showers, np.array([2.0, 500.0], np.float32)))).all()


def test_the_critic_takes_its_units_from_real_showers(geant4: Events) -> None:
    network = discriminators.critic_network(geant4[:64])
    observed = discriminators.observe(geant4.showers[:64], geant4.energy[:64])
    scaled = np.asarray(network.layers[1](observed))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-2)
    assert scaled.std(axis=0).max() < 1.01
    probability = np.asarray(network(observed))
    assert probability.shape == (64, 1)
    assert ((probability > 0) & (probability < 1)).all()


def test_a_critic_learns_to_tell_wider_showers(geant4: Events) -> None:
    keras.utils.set_random_seed(1)
    some = geant4[:64]
    wider = np.asarray(0.5 * (some.showers + np.roll(some.showers, 2, axis=2)))
    run = TrainingRun(build_generator(Network(width=8)), some, survey(some), Training(critic_weight=1.0))
    critic = discriminators.critic(run)
    seen = ops.concatenate([discriminators.observe(each, some.energy) for each in (some.showers, wider)], axis=0)
    critic.network.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    critic.network.fit(seen, np.repeat([1.0, 0.0], 64)[:, None], epochs=20, verbose=0)
    label, ecal = np.ones(64, np.float32), some.showers.sum(axis=(1, 2, 3))
    real, fake = (
        float(critic.loss_of(showers, some.energy, ecal, label, training=False)) for showers in (some.showers, wider)
    )
    assert real < 1 < fake
