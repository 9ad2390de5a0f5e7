import numpy as np
import pytest

from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks import flow, shower_shape
from calogan.networks.shower_shape import ShapeFlow, measure, node_shares


def test_the_variables_of_a_shower_made_by_hand() -> None:
    shower = np.zeros((1, *CLIC.shape), np.float32)
    shower[0, 12, 12, 0] = 1.0
    shower[0, 14, 12, 10] = 1.0  # 2 cells to the side, 10 layers deeper
    x, y, slope_x, slope_y, *depths = measure(shower)[0]
    # Mean z 5, variance 25, to which 1 is added; covariance of x and z 5.
    assert (x, y, slope_x, slope_y) == pytest.approx((1.0, 0.0, 5 / 26, 0.0), abs=1e-6)
    logs = np.log([0.05, 1.01, 2.05, 0.01, 0.05, 0.01])  # first range: core only; second: radius 2; third: empty
    assert depths == pytest.approx(logs, abs=1e-5)


def test_a_mirrored_shower_has_mirrored_variables(geant4: Events) -> None:
    np.testing.assert_allclose(
        measure(geant4.showers[:16, ::-1]), measure(geant4.showers[:16]) * shower_shape.MIRROR, atol=1e-4
    )


def test_an_empty_shower_has_finite_variables() -> None:
    assert np.isfinite(measure(np.zeros((2, *CLIC.shape), np.float32))).all()


def test_the_nodes_share_every_energy() -> None:
    energy = np.geomspace(2, 500, 50).astype(np.float32)
    shares = np.asarray(node_shares(flow.log_energy(energy)))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    nodes = np.asarray(shower_shape.NODES_GEV, np.float32)
    np.testing.assert_allclose(node_shares(flow.log_energy(nodes)), np.eye(len(nodes)), atol=1e-5)


def test_without_calibration_the_measured_variables_are_the_expected_ones(geant4: Events) -> None:
    variables = measure(geant4.showers)
    sticks = np.random.default_rng(1).standard_normal((len(variables), flow.SIZE)).astype(np.float32)
    shapes = ShapeFlow()
    shapes.fit_scale(variables, geant4.energy, sticks)
    scaled = shapes.normalise(variables, geant4.energy)
    condition = np.asarray(flow.log_energy(geant4.energy), np.float32)
    expected = shapes.expected(shapes.residuals(scaled, sticks), condition, sticks)
    np.testing.assert_allclose(expected, scaled, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=0.35)
