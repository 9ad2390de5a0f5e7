import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from scipy import integrate, special

from calogan.networks import compound_poisson, deposits

EXPONENTIAL = compound_poisson.law(deposits.exponential(3.5e-4))
# Half of the deposits are near 0.2 MeV, the others smaller: exponential, with a mean of 0.05 MeV.
_PEAK = np.exp(-0.5 * ((np.arange(deposits.BINS) - 69) / 3) ** 2)
UNEVEN = compound_poisson.law(0.5 * _PEAK / _PEAK.sum() + 0.5 * deposits.exponential(5e-5))
RATES = [1e-3, 0.05, 0.5, 2.0, 10.0, 200.0]


def even_normals(n: int) -> NDArray[np.float32]:
    """The standard normal deviates of n equally probable strips."""
    return special.ndtri((np.arange(n) + 0.5) / n).astype(np.float32)


def sample_at(rate: float, normal: NDArray[np.float32]) -> NDArray[np.float64]:
    return drawn_of(EXPONENTIAL, rate, normal)


def drawn_of(law: compound_poisson.Law, rate: float, normal: NDArray[np.float32]) -> NDArray[np.float64]:
    energy, _ = compound_poisson.sample(np.full_like(normal, rate), normal, law.quantiles)
    return np.maximum(np.asarray(energy, dtype=np.float64), 0.0)


def density(energy: float, rate: float, quantum: float) -> float:
    """The density as written in the module, with the Bessel function of scipy."""
    x = energy / quantum
    y = 2 * np.sqrt(rate * x)
    return float(np.exp(-rate - x + y) * np.sqrt(rate / x) * special.ive(1, y) / quantum)


@pytest.mark.parametrize("rate", RATES)
def test_occupancy_mean_and_variance_are_those_of_the_law(rate: float) -> None:
    cells = sample_at(rate, even_normals(2**17))
    assert (cells > 0).mean() == pytest.approx(-np.expm1(-rate), rel=0.01, abs=2e-5)
    assert cells.mean() == pytest.approx(rate, rel=0.01)
    assert cells.var() == pytest.approx(2 * rate, rel=0.04)


@pytest.mark.parametrize("rate", RATES)
def test_another_law_of_deposits_changes_the_variance_only(rate: float) -> None:
    cells = drawn_of(UNEVEN, rate, even_normals(2**17))
    assert (cells > 0).mean() == pytest.approx(-np.expm1(-rate), rel=0.01, abs=2e-5)
    assert cells.mean() == pytest.approx(rate, rel=0.01)
    assert cells.var() == pytest.approx((1 + UNEVEN.variation) * rate, rel=0.04)


def test_a_lone_deposit_has_its_law() -> None:
    """The peak is lognormal around 0.2075 MeV, the middle of bin 69, with a spread of three bins, 0.23."""
    assert UNEVEN.mean == pytest.approx(0.5 * 5e-5 + 0.5 * 2.075e-4 * np.exp(0.5 * 0.23**2), rel=0.02)
    energies = UNEVEN.mean * drawn_of(UNEVEN, 1e-3, even_normals(2**20))
    energies = energies[energies > 0]
    # Half of the exponential deposits, and hardly any of the peak, are below log(2) of 0.05 MeV.
    assert (energies < np.log(2) * 5e-5).mean() == pytest.approx(0.25, abs=0.05)
    assert (energies > 2.075e-4).mean() == pytest.approx(0.25 + 0.5 * np.exp(-4.15), abs=0.03)


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0, 10.0])
def test_quantiles_are_those_of_a_simulation(rate: float) -> None:
    rng = np.random.default_rng(1)
    crossings = rng.poisson(rate, 200_000)
    simulated = np.where(crossings > 0, rng.standard_gamma(np.maximum(crossings, 1)), 0.0)
    levels = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999])
    expected = np.quantile(simulated, levels)
    # Five times the error of a quantile, whose density is estimated from its neighbours.
    error = 5 * np.sqrt(levels * (1 - levels) / 200_000)
    low, high = (
        np.quantile(simulated, np.clip(levels - error, 0, 1)),
        np.quantile(simulated, levels + error * (levels < 0.999)),
    )
    energies = sample_at(rate, special.ndtri(levels).astype(np.float32))
    slack = 0.01 * (1 + expected)
    assert (energies >= low - slack).all()
    assert (energies[:-1] <= (high + slack)[:-1]).all()
    assert energies[-1] == pytest.approx(expected[-1], rel=0.1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("quantum", [1.0, 3.5e-4])
def test_the_likelihood_agrees_with_scipy(rate: float, quantum: float) -> None:
    energy = (quantum * np.array([1e-3, 0.1, 1.0, rate + 0.1, 3 * rate + 1])).astype(np.float32)
    log_density = np.asarray(
        compound_poisson.log_likelihood(energy, np.full_like(energy, rate), np.float32(quantum), EXPONENTIAL)
    )
    np.testing.assert_allclose(
        log_density, [np.log(density(float(e), rate, quantum)) for e in energy], rtol=3e-3, atol=0.02
    )


def test_an_empty_cell_has_the_probability_of_no_crossing() -> None:
    rate = np.array(RATES, np.float32)
    np.testing.assert_allclose(
        compound_poisson.log_likelihood(np.zeros_like(rate), rate, np.float32(1), EXPONENTIAL), -rate
    )


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0, 10.0, 50.0])
@pytest.mark.parametrize("law", [EXPONENTIAL, UNEVEN], ids=["exponential", "uneven"])
def test_the_density_integrates_to_occupancy_and_mean(rate: float, law: compound_poisson.Law) -> None:
    energy = 0.5 * np.geomspace(3e-3, 3 * rate + 40, 20_001).astype(np.float32)
    density = np.exp(compound_poisson.log_likelihood(energy, np.full_like(energy, rate), np.float32(0.5), law))
    assert integrate.trapezoid(density, energy) == pytest.approx(-np.expm1(-rate), rel=0.01)
    assert integrate.trapezoid(density * energy, energy) == pytest.approx(0.5 * rate, rel=0.01)


@pytest.mark.parametrize("rate", [0.055, 0.55, 2.2, 11.0])  # between the rates of the table
def test_the_mean_rises_as_the_rate(rate: float) -> None:
    rates = tf.constant(np.full(2**16, rate, np.float32))
    with tf.GradientTape() as tape:
        tape.watch(rates)
        total = tf.reduce_sum(tf.nn.relu(compound_poisson.sample(rates, even_normals(2**16), EXPONENTIAL.quantiles)[0]))
    assert np.mean(tape.gradient(total, rates)) == pytest.approx(1.0, rel=0.08)


def test_more_is_drawn_for_a_higher_deviate_or_rate() -> None:
    normal = even_normals(101)
    rates, normals = np.broadcast_arrays(np.geomspace(1e-4, 3e3, 60, dtype=np.float32)[:, None], normal)
    cells = np.maximum(np.asarray(compound_poisson.sample(rates, normals, EXPONENTIAL.quantiles)[0]), 0.0)
    assert (np.diff(cells, axis=0) >= -1e-5 * cells[1:]).all()
    assert (np.diff(cells, axis=1) >= 0).all()


@pytest.mark.parametrize("rate", [1e-9, 1e6])
@pytest.mark.parametrize("normal", [-30.0, 30.0])
def test_beyond_the_table_the_draw_stays_finite(rate: float, normal: float) -> None:
    (cell,) = sample_at(rate, np.array([normal], np.float32))
    assert np.isfinite(cell)
    assert cell >= 0


@pytest.mark.parametrize("rate", [0.3, 3.0, 30.0])
def test_the_slope_is_how_the_energy_grows_with_the_logarithm_of_the_rate(rate: float) -> None:
    normal = even_normals(200)
    low, high = (
        compound_poisson.sample(np.full_like(normal, rate * f), normal, EXPONENTIAL.quantiles)[0] for f in (0.9, 1.1)
    )
    slope = np.asarray(compound_poisson.sample(np.full_like(normal, rate), normal, EXPONENTIAL.quantiles)[1])
    numeric = np.asarray(high - low) / np.log(1.1 / 0.9)
    hit = np.asarray(low) > 0
    # The rows of the table are evenly spaced in the rate between powers of two, not in its logarithm.
    np.testing.assert_allclose(slope[hit], numeric[hit], rtol=0.5, atol=0.05)
