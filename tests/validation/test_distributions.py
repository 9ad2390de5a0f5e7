import numpy as np
import pytest

from calogan.validation import distributions
from calogan.validation.observables import Floats

RNG = np.random.default_rng(0)


def test_separation_power_of_equal_disjoint_and_known_histograms() -> None:
    x = RNG.random(1000)
    assert distributions.separation_power(x, x).value == pytest.approx(0, abs=1e-12)
    assert distributions.separation_power(x, x + 2).value == pytest.approx(1)
    # two bins with shares 3/4, 1/4 and 1/4, 3/4: (1/4 + 1/4) / 2
    r, c = np.repeat([0.0, 1], [75, 25]), np.repeat([0.0, 1], [25, 75])
    assert distributions.separation_power(r, c, bins=2).value == pytest.approx(0.25)


def test_separation_power_of_one_distribution_is_that_of_the_noise() -> None:
    estimates = [distributions.separation_power(*RNG.random((2, 500)), bins=20, seed=k) for k in range(20)]
    assert np.mean([e.value for e in estimates]) == pytest.approx(19 * 2 / 500 / 4, rel=0.2)


def test_separation_power_does_not_depend_on_the_unit() -> None:
    r, c = RNG.exponential(size=500), RNG.exponential(1.3, 700)
    energy = distributions.separation_power(r, c)
    assert distributions.separation_power(np.log(r), np.log(c)).value == pytest.approx(energy.value)
    assert distributions.separation_power(np.append(r, np.nan), c).value == pytest.approx(energy.value)


def test_kolmogorov_smirnov_distance_by_hand() -> None:
    r, c = np.arange(100.0), np.arange(100.0) + 25
    estimate = distributions.kolmogorov_smirnov(r, c)
    assert estimate.value == pytest.approx(0.25)
    assert estimate.error == pytest.approx(0.06, rel=0.4)


def test_moment_shifts_in_bins_of_energy() -> None:
    energy = np.repeat([20.0, 200, 450], [50, 60, 10])
    moments = np.stack([10 + RNG.standard_normal(120), 5 + RNG.standard_normal(120)], axis=1)
    changed = moments.copy()
    changed[:50, 0] *= 1.1
    changed[3, 1] = np.nan

    shifts = distributions.moment_shifts(moments, changed, (energy, energy), [(2, 50), (50, 300), (300, 500)])
    assert shifts.mean.shape == shifts.std_error.shape == (3, 2)
    assert (shifts.mean[0, 0], shifts.std[0, 0]) == pytest.approx((0.1, 0.1))
    assert shifts.mean[1] == pytest.approx([0, 0], abs=1e-12)
    assert np.isnan(shifts.mean[2]).all()
    assert shifts.overall.value == pytest.approx((0.1 + abs(shifts.mean[0, 1])) / 4)
    assert shifts.mean_error[1, 0] == pytest.approx(0.1 * np.sqrt(2 / 60), rel=0.5)


def test_correlations_of_known_layers() -> None:
    def layers(n: int, rho: float) -> Floats:
        common, own = RNG.standard_normal((n, 1)), RNG.standard_normal((n, 3))
        return np.hstack([np.sqrt(rho) * common + np.sqrt(1 - rho) * own, np.full((n, 1), 7.0)])

    correlations = distributions.layer_correlation(layers(2000, 0.5), layers(3000, 0.7))
    assert correlations.reference[0, 1] == pytest.approx(0.5, abs=0.06)
    assert correlations.candidate[1, 2] == pytest.approx(0.7, abs=0.06)
    assert np.diag(correlations.reference)[:3] == pytest.approx(np.ones(3))
    assert (correlations.reference[3] == 0).all()
    # three pairs of six differ by 0.2
    assert correlations.difference.value == pytest.approx(0.1, abs=4 * correlations.difference.error)
    # the difference of atanh over 1/sqrt(n - 3)
    expected = (np.arctanh(0.7) - np.arctanh(0.5)) / np.sqrt(1 / 2000 + 1 / 3000)
    assert correlations.pull[0, 1] == pytest.approx(expected, rel=0.35)
    assert correlations.largest_pull == np.abs(correlations.pull).max()


def test_pulls_of_one_distribution_are_about_one() -> None:
    correlations = distributions.layer_correlation(RNG.random((1000, 12)), RNG.random((800, 12)))
    assert correlations.pull[np.triu_indices(12, 1)].std() == pytest.approx(1, abs=0.3)
    assert correlations.largest_pull < 4.5
