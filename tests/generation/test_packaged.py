"""The packaged model of the published network against the packaged Geant4 showers, which it was not trained on."""

from functools import cache

import numpy as np
import pytest

from calogan.errors import ModelError
from calogan.events import Events, packaged_sample, read_events
from calogan.generation import generator
from calogan.validation.observables import moments, profile

PRECISIONS = ["float32", "bfloat16", "int8"]


@cache
def geant4() -> Events:
    return read_events(packaged_sample())[:192]


@cache
def showers(precision: str) -> Events:
    return generator.load("rehm2021", precision=precision).sample(geant4().energy, seed=1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_energy_centres_and_widths_are_those_of_geant4(precision: str) -> None:
    sample = showers(precision)
    assert sample.showers.sum() == pytest.approx(geant4().showers.sum(), rel=0.05)
    for axis, (centre, width) in {"y": (0.05, 0.1), "z": (0.3, 0.25)}.items():
        actual, expected = (moments(profile(each.showers, axis)) for each in (sample, geant4()))
        assert np.mean(actual[0]) == pytest.approx(np.mean(expected[0]), abs=centre)
        assert np.mean(actual[1]) == pytest.approx(np.mean(expected[1]), abs=width)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_showers_of_high_energy_are_deeper(precision: str) -> None:
    depth, _ = moments(profile(showers(precision).showers, "z"))
    energy = geant4().energy
    assert depth[energy > 250].mean() - depth[energy < 50].mean() > 1.0  # layers; Geant4's: 2.6


@pytest.mark.parametrize("precision", PRECISIONS)
def test_showers_of_an_energy_differ(precision: str) -> None:
    sample = generator.load("rehm2021", precision=precision).sample(np.full(64, 200, np.float32), seed=2)
    depth, _ = moments(profile(sample.showers, "z"))
    assert 0.4 < depth.std() < 1.4  # layers; Geant4's: 0.87


def test_a_precision_that_is_not_packaged_is_an_error() -> None:
    with pytest.raises(ModelError, match="has no float16, only float32, bfloat16, int8; choose one of these"):
        generator.load("rehm2021", precision="float16")


def test_int8_has_the_energy_of_float32() -> None:
    float32, int8 = (showers(precision).showers.sum(axis=(1, 2, 3)) for precision in ("float32", "int8"))
    assert int8.sum() == pytest.approx(float32.sum(), rel=0.03)
    assert np.corrcoef(int8, float32)[0, 1] > 0.99
