"""The formulas: numbers calculated by hand, and limits that do not depend on the fit."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from calogan.simulation.medium import LAYER_EDGES_X0, MIP_GEV, MOLIERE_MM, THIN
from calogan.simulation.profiles import (
    PUBLISHED,
    TUNED,
    Profile,
    Tuning,
    deposits,
    layer_shares,
    longitudinal_profile,
    mean_spots,
    onset_tracks,
    radial_profile,
)

LN_Y = np.full((20000, 1), 9.0)
COMMON, OPPOSITE, EARLY = np.random.default_rng(0).random((3, 20000, 1))
HALF = np.full((1, 1), 0.5)


def profile(gev: float, tuning: Tuning = PUBLISHED) -> tuple[NDArray[np.float64], Profile]:
    """The median profile of a shower, with its energy."""
    energy = np.array([[gev]])
    return energy, longitudinal_profile(np.log(energy * 1000 / THIN.critical_energy), HALF, HALF, tuning)


def test_longitudinal_profile_fluctuates_as_published() -> None:
    shower = longitudinal_profile(LN_Y, COMMON, OPPOSITE, PUBLISHED)
    depth, shape = np.log(shower.depth[:, 0]), np.log(shower.shape[:, 0])
    median_depth = 9 - 0.812 - 0.55 * THIN.layer_x0 - 0.69 * (1 - 1 / 1.3976)
    assert depth.mean() == pytest.approx(np.log(median_depth), abs=0.003)
    assert depth.std() == pytest.approx(1 / (-2.5 + 1.25 * 9), rel=0.03)
    assert shape.mean() == pytest.approx(
        np.log(0.81 + (0.458 + 2.26 / THIN.atomic_number) * 9 - 0.476 * THIN.layer_x0), abs=0.004
    )
    assert shape.std() == pytest.approx(1 / (-0.82 + 0.79 * 9), rel=0.03)
    assert np.corrcoef(depth, shape)[0, 1] == pytest.approx(0.784 - 0.023 * 9, abs=0.02)


def test_skewness_leaves_mean_and_spread() -> None:
    skewed = PUBLISHED.model_copy(update={"skewness": 1.2})
    before, after = (
        np.log(longitudinal_profile(LN_Y, COMMON, OPPOSITE, tuning).depth[:, 0]) for tuning in (PUBLISHED, skewed)
    )
    assert after.mean() == pytest.approx(before.mean(), abs=0.003)
    assert after.std() == pytest.approx(before.std(), rel=0.03)
    assert (((after - after.mean()) / after.std()) ** 3).mean() > 0.7
    assert abs((((before - before.mean()) / before.std()) ** 3).mean()) < 0.1


def test_nearly_all_energy_is_deposited_in_the_stack() -> None:
    _, shower = profile(50)
    shares = layer_shares(shower.depth, shower.shape)[0]
    assert shares.sum() == pytest.approx(1, rel=0.02)
    deepest = shares[:17].argmax()
    assert LAYER_EDGES_X0[deepest] < shower.depth < LAYER_EDGES_X0[deepest + 1]


def test_deposits_have_the_sampling_fraction_and_resolution() -> None:
    """One layer with all energy: the mean is the visible fraction of it, the spread c/sqrt(E)."""
    none = np.zeros((1, 25))
    needle = Profile(*[np.array([[value]]) for value in (0.3, 500.0, 0.3, 500.0)])
    mean, variance = deposits(np.array([[50.0]]), needle, none, PUBLISHED)
    assert mean[0, 0] == pytest.approx(50 * THIN.e_mip * THIN.mip_fraction, rel=1e-6)
    assert np.sqrt(variance[0, 0]) / mean[0, 0] == pytest.approx(0.2 / np.sqrt(50), rel=1e-6)
    two_tracks = none.copy()
    two_tracks[0, 5] = 2
    mean, variance = deposits(np.array([[50.0]]), needle, two_tracks, PUBLISHED)
    assert mean[0, 5] == pytest.approx(2 * MIP_GEV)
    assert np.sqrt(variance[0, 5]) == pytest.approx(mean[0, 5])  # one pair
    assert mean[0, 0] == pytest.approx(50 * THIN.e_mip * THIN.mip_fraction - 2 * MIP_GEV, rel=1e-6)


def test_resolution_is_worse_behind_thick_plates() -> None:
    gev, shower = profile(500)
    mean, variance = deposits(gev, shower, np.zeros((1, 25)), PUBLISHED)
    absorbed = gev * layer_shares(shower.depth, shower.shape)
    resolution = np.sqrt(variance * absorbed)[0] / mean[0]
    assert resolution[:17] == pytest.approx(0.2)
    assert resolution[17:] == pytest.approx(0.2 * np.sqrt(2))


def test_radial_profile_at_the_depth_of_the_maximum() -> None:
    gev, shower = profile(100)
    core, tail, weight = radial_profile(gev, shower, PUBLISHED)
    middle = 0.5 * (LAYER_EDGES_X0[1:] + LAYER_EDGES_X0[:-1])
    at = int(np.abs(middle - shower.depth[0, 0]).argmin())
    tau, z, ln_e, per_fs, rest = middle[at] / shower.depth[0, 0], THIN.atomic_number, np.log(100), THIN.layer_x0, 0.2845
    core_rm = 0.0251 + 0.00319 * ln_e + (0.1162 - 0.000381 * z) * tau - 0.0203 * rest + 0.0397 * per_fs * np.exp(-tau)
    tail_rm = (0.659 - 0.00309 * z) * (np.exp(-2.59 * (tau - 0.645)) + np.exp((0.3585 + 0.0421 * ln_e) * (tau - 0.645)))
    tail_rm += -0.14 * rest - 0.495 * per_fs * np.exp(-tau)
    u = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * ln_e)
    share = (2.632 - 0.00094 * z) * np.exp(u - np.exp(u)) + rest * (0.348 - 0.642 * per_fs * np.exp(-((tau - 1) ** 2)))
    assert core[0, at] == pytest.approx(core_rm * MOLIERE_MM[at], rel=1e-3)
    assert tail[0, at] == pytest.approx(tail_rm * MOLIERE_MM[at], rel=1e-3)
    assert weight[0, at] == pytest.approx(share, rel=1e-3)


def test_lateral_profile_follows_the_shower_or_the_calorimeter() -> None:
    gev = np.array([[50.0]])
    shower = Profile(np.array([[9.0]]), np.array([[5.0]]), np.array([[7.0]]), np.array([[5.0]]))
    typical = Profile(*[np.array([[value]]) for value in (7.0, 5.0, 7.0, 5.0)])
    own, fixed = (
        radial_profile(gev, shower, PUBLISHED.model_copy(update={"scaling": scaling}))[0] for scaling in (1, 0)
    )
    assert np.array_equal(fixed, radial_profile(gev, typical, PUBLISHED)[0])
    assert (own < fixed).all()  # a late shower is younger, and narrower, at every depth


def test_number_of_spots_is_the_published_one() -> None:
    gev, shower = profile(100)
    spots = mean_spots(gev, shower, PUBLISHED)[0] * np.where(np.arange(25) < 17, 1, 2)
    assert spots.sum() == pytest.approx(10.3 / 0.2 * 100**0.959, rel=0.02)


def test_onset_is_the_primary_and_few_more() -> None:
    _, shower = profile(100, TUNED)
    assert not onset_tracks(shower, EARLY[:1], PUBLISHED).any()
    many = Profile(shower.depth, shower.shape, np.repeat(shower.median_depth, 20000, axis=0), shower.median_shape)
    tracks = onset_tracks(many, EARLY, TUNED)
    assert 3 < tracks[:, 0].mean() < 15
    assert 0.3 < tracks[:, 1].std() / tracks[:, 1].mean() < 0.8
    assert tracks.min() >= 0


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"spots": -1}, {"scaling": 1.1}, {"sampling": float("nan")}, {"x": 1}])
def test_impossible_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Tuning.model_validate(wrong)
