import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from calogan.errors import TrainingError
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.training import selection
from calogan.training.selection import DRAWS


@pytest.mark.parametrize(
    ("score", "earlier", "expected"),
    [(0.5, [], True), (0.5, [None, 0.4], True), (0.5, [0.5], False), (0.5, [0.6, None, 0.1], False)],
)
def test_the_best_is_above_all_earlier_ones(score: float, earlier: list[float | None], expected: bool) -> None:
    assert selection.is_best(score, earlier) is expected


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([], 1, False),
        ([None, None], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4], 0, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, None, 0.5, None, 0.4], 2, True),  # an equal score is no better one, and None is no score
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.6, 0.5, 0.5], 2, True),
    ],
)
def test_patience_counts_scored_epochs_since_the_best(scores: list[float | None], patience: int, stops: bool) -> None:
    assert bool(selection.stop_reason(scores, patience)) is stops


def test_the_reason_names_the_best_score_and_the_epochs_waited() -> None:
    reason = selection.stop_reason([0.25, 0.2, 0.1], 2)
    assert reason == "no better physics score than 0.250 in 2 scored epochs, the patience of the configuration"


def test_weights_are_looked_at_one_by_one() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    selection.check_weights({"encoder": model}, "epoch 0 of shape")
    kernel = np.ones((3, 2), np.float32)
    kernel[1, 1], kernel[2, 0] = np.inf, np.nan
    model.layers[0].kernel.assign(kernel)
    with pytest.raises(
        TrainingError, match=r"2 of 6 weights of .*dense/kernel of the encoder are not finite after epoch 0"
    ):
        selection.check_weights({"encoder": model}, "epoch 0 of shape")


@pytest.fixture(scope="module")
def reference(geant4: Events) -> Events:
    return geant4[:60]


def repeated(events: Events) -> Events:
    return Events(np.repeat(events.showers, DRAWS, axis=0), np.repeat(events.energy, DRAWS))


@pytest.fixture
def generated(reference: Events, geant4: Events) -> Events:
    """Stands for a good generator: at each energy, the Geant4 showers whose energies are nearest."""
    nearest = np.argsort(np.abs(np.log(geant4.energy[None] / reference.energy[:, None])), axis=1)[:, :DRAWS]
    return Events(geant4.showers[nearest.ravel()].copy(), np.repeat(reference.energy, DRAWS))


def test_showers_like_those_of_geant4_have_its_spread(reference: Events, generated: Events) -> None:
    assert selection.relative_spread(reference, generated) == pytest.approx(1, abs=0.25)
    assert selection.check_showers(reference, generated, "epoch 0").keys() == {"relative_spread"}


def test_the_spread_of_equal_showers_is_zero(reference: Events) -> None:
    assert selection.relative_spread(reference, repeated(reference)) == pytest.approx(0, abs=1e-6)


def test_the_spread_does_not_depend_on_the_scale_of_the_energies(reference: Events, generated: Events) -> None:
    scaled = Events(3 * generated.showers, generated.energy)
    expected = selection.relative_spread(reference, generated)
    assert selection.relative_spread(reference, scaled) == pytest.approx(expected, rel=1e-4)


def test_what_the_energy_does_to_a_shower_is_no_spread() -> None:
    """Two cells share each shower: by log Ep, and a little by chance."""
    rng = np.random.default_rng(1)

    def sample(energy: NDArray[np.float32]) -> Events:
        share = 0.2 + 0.02 * np.log(energy / 32) + 0.005 * rng.standard_normal(len(energy))
        showers = np.zeros((len(energy), *CLIC.shape), np.float32)
        showers[:, 5, 5, 5], showers[:, 20, 20, 20] = share, 1 - share
        return Events(showers, energy)

    energy = np.geomspace(2, 500, 200).astype(np.float32)
    spread = selection.relative_spread(sample(energy), sample(np.repeat(energy, DRAWS)))
    assert spread == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("share", "collapse"), [(0.0, True), (0.01, True), (0.5, False)])
def test_a_collapsed_generator_is_reported(share: float, collapse: bool, reference: Events, generated: Events) -> None:
    """A generator whose showers of an energy are one shower with a share of another one mixed into each."""
    one = repeated(reference)
    mixed = Events((1 - share) * one.showers + share * generated.showers, generated.energy)
    if collapse:
        with pytest.raises(
            TrainingError, match=r"collapsed after epoch 3: .* differ from each other by 0\.?0?\d* of .*try"
        ):
            selection.check_showers(reference, mixed, "epoch 3")
    else:
        assert selection.check_showers(reference, mixed, "epoch 3")["relative_spread"] > 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_showers_that_are_not_finite_are_counted(bad: float, reference: Events, generated: Events) -> None:
    generated.showers[[1, 7], 0, 0, 0] = bad
    with pytest.raises(TrainingError, match="2 of 240 generated showers have cells that are not finite after epoch 3"):
        selection.check_showers(reference, generated, "epoch 3")


def test_a_dead_generator_is_reported(reference: Events, generated: Events) -> None:
    generated.showers[:121] = 0
    with pytest.raises(TrainingError, match=r"121 of 240 generated showers are empty after epoch 3: .* dead"):
        selection.check_showers(reference, generated, "epoch 3")


def test_some_empty_showers_do_not_end_a_training(reference: Events, generated: Events) -> None:
    generated.showers[0] = 0
    assert selection.check_showers(reference, generated, "epoch 3")["relative_spread"] > 0.5


def test_of_a_handful_of_showers_the_spread_is_not_asked(geant4: Events) -> None:
    assert selection.check_showers(geant4[:8], repeated(geant4[:8]), "epoch 0") == {}
