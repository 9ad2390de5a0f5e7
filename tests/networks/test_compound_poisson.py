import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from scipy import integrate, special

from calogan.networks import compound_poisson

RATES = [1e-3, 0.05, 0.5, 2.0, 10.0, 200.0]


def even_normals(n: int) -> NDArray[np.float32]:
    """The standard normal deviates of n equally probable strips."""
    return special.ndtri((np.arange(n) + 0.5) / n).astype(np.float32)


def drawn(rate: float, normal: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(compound_poisson.sample(np.full_like(normal, rate), normal), dtype=np.float64)


def density(energy: float, rate: float, quantum: float) -> float:
    """The density as written in the module, with the Bessel function of scipy."""
    x = energy / quantum
    y = 2 * np.sqrt(rate * x)
    return float(np.exp(-rate - x + y) * np.sqrt(rate / x) * special.ive(1, y) / quantum)


@pytest.mark.parametrize("rate", RATES)
def test_occupancy_mean_and_variance_are_those_of_the_law(rate: float) -> None:
    cells = drawn(rate, even_normals(2**17))
    assert (cells > 0).mean() == pytest.approx(-np.expm1(-rate), rel=0.01, abs=2e-5)
    assert cells.mean() == pytest.approx(rate, rel=0.01)
    assert cells.var() == pytest.approx(2 * rate, rel=0.04)


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
    found = drawn(rate, special.ndtri(levels).astype(np.float32))
    slack = 0.01 * (1 + expected)
    assert (found >= low - slack).all()
    assert (found[:-1] <= (high + slack)[:-1]).all()
    assert found[-1] == pytest.approx(expected[-1], rel=0.1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("quantum", [1.0, 3.5e-4])
def test_the_likelihood_agrees_with_scipy(rate: float, quantum: float) -> None:
    energy = (quantum * np.array([1e-3, 0.1, 1.0, rate + 0.1, 3 * rate + 1])).astype(np.float32)
    found = np.asarray(compound_poisson.log_likelihood(energy, np.full_like(energy, rate), np.float32(quantum)))
    np.testing.assert_allclose(found, [np.log(density(float(e), rate, quantum)) for e in energy], rtol=1e-4, atol=1e-4)


def test_an_empty_cell_has_the_probability_of_no_crossing() -> None:
    rate = np.float32(RATES)
    np.testing.assert_allclose(compound_poisson.log_likelihood(np.zeros_like(rate), rate, np.float32(1)), -rate)


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0, 10.0])
def test_the_density_integrates_to_the_occupancy(rate: float) -> None:
    def found(energy: float) -> float:
        one = np.float32([energy])
        return float(np.exp(compound_poisson.log_likelihood(one, np.float32([rate]), np.float32(0.5)))[0])

    total = integrate.quad(found, 0, 0.5 * (rate + 12 * np.sqrt(2 * rate) + 12), epsrel=1e-3, epsabs=1e-4)[0]
    assert total == pytest.approx(-np.expm1(-rate), rel=2e-3)


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0, 10.0])
def test_the_mean_rises_as_the_rate(rate: float) -> None:
    rates = tf.constant(np.full(2**16, rate, np.float32))
    with tf.GradientTape() as tape:
        tape.watch(rates)
        total = tf.reduce_sum(compound_poisson.sample(rates, compound_poisson.normal_table()))
    assert np.mean(tape.gradient(total, rates)) == pytest.approx(1.0, rel=0.03)


def test_more_is_drawn_for_a_higher_deviate_or_rate() -> None:
    normal = even_normals(101)
    rates = np.geomspace(1e-4, 3e3, 60, dtype=np.float32)
    cells = np.asarray(compound_poisson.sample(*np.broadcast_arrays(rates[:, None], normal)))
    assert (np.diff(cells, axis=0) >= -1e-5 * cells[1:]).all()
    assert (np.diff(cells, axis=1) >= 0).all()


@pytest.mark.parametrize("rate", [1e-9, 1e6])
@pytest.mark.parametrize("normal", [-30.0, 30.0])
def test_beyond_the_table_the_draw_stays_finite(rate: float, normal: float) -> None:
    (cell,) = drawn(rate, np.float32([normal]))
    assert np.isfinite(cell)
    assert cell >= 0


def test_the_normal_table_is_standard_and_odd() -> None:
    table = compound_poisson.normal_table().astype(np.float64)
    assert table.shape == (65536,)
    np.testing.assert_allclose(table, -table[::-1], atol=1e-6)
    assert table.var() == pytest.approx(1, rel=1e-3)
