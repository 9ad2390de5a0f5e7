import numpy as np
from numpy.typing import NDArray

from calogan.training.calibration import _response


def test_the_response_restores_a_spread_that_the_tail_widens() -> None:
    rng = np.random.default_rng(1)
    measured = rng.standard_normal((200_000, 2)) @ np.array([[1.0, 0.3], [0.0, 0.8]])
    follows, noise = np.array([[0.9, 0.0], [0.1, 0.7]]), np.array([0.6, 0.2])

    def drawn(shape: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(shape @ follows.T + noise * rng.standard_normal(shape.shape))

    response = _response(measured, drawn(measured), np.ones(len(measured)))
    np.testing.assert_allclose(np.cov(drawn(measured @ response.T).T), np.cov(measured.T), atol=0.03)


def test_where_there_is_only_noise_the_network_gets_the_mean() -> None:
    rng = np.random.default_rng(1)
    measured = rng.standard_normal((50_000, 1))
    response = _response(measured, measured + 1.5 * rng.standard_normal((50_000, 1)), np.ones(50_000))
    np.testing.assert_allclose(response, 0, atol=1e-6)
