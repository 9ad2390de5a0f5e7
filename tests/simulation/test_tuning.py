"""The fit of the parametrisation: on showers that the parametrisation itself made."""

import dataclasses

import numpy as np
import pytest

from calogan.errors import EventsError
from calogan.simulation.parametric import PUBLISHED, TUNED, simulate
from calogan.simulation.tuning import tune

ENERGY = np.random.default_rng(0).uniform(10, 30, 60).astype(np.float32)


def test_fit_finds_the_response_and_depth_of_its_reference() -> None:
    truth = dataclasses.replace(PUBLISHED, depth=1.08, response_thin=0.9, onset=0.2, onset_x0=1.15)
    found = tune(simulate(ENERGY, seed=5, tuning=truth), seed=5)
    assert found.depth == pytest.approx(truth.depth, rel=0.03)
    assert found.response_thin == pytest.approx(truth.response_thin, rel=0.03)


def test_fit_is_the_same_for_the_same_seed() -> None:
    reference = simulate(ENERGY[:20], seed=6, tuning=TUNED)
    assert tune(reference, seed=1) == tune(reference, seed=1)


def test_too_few_showers_are_refused() -> None:
    with pytest.raises(EventsError, match="too few to fit"):
        tune(simulate(ENERGY[:5], seed=1), seed=1)
