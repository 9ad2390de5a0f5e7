"""The effective media: averages calculated by hand."""

import pytest

from calogan.geometry import CLIC
from calogan.simulation.medium import LAYER_EDGES_X0, MIP_GEV, THICK, THIN, effective_medium


def test_stack_is_as_deep_as_its_plates() -> None:
    tungsten_only = sum(CLIC.absorber_mm) / 10 * 17.8 / 6.97
    assert LAYER_EDGES_X0[0] == 0
    assert len(LAYER_EDGES_X0) == CLIC.layers + 1
    assert tungsten_only < LAYER_EDGES_X0[-1] < 1.1 * tungsten_only
    assert 21.5 < LAYER_EDGES_X0[-1] < 22.6


def test_medium_of_a_thick_plate_is_tungsten() -> None:
    medium = effective_medium(1e6)
    assert medium.atomic_number == pytest.approx(70.8, rel=1e-4)
    assert medium.critical_energy == pytest.approx(2.66 * (6.97 * 70.8 / 175.4) ** 1.1, rel=1e-4)
    assert medium.moliere_mm == pytest.approx(21.2 * 6.97 / medium.critical_energy / 17.8 * 10, rel=1e-4)
    assert medium.mip_fraction == pytest.approx(0, abs=1e-5)


def test_medium_of_the_front_section() -> None:
    """By hand: masses 4.272, 0.707, 0.1165 g/cm2 in 4.9 mm."""
    assert THIN.layer_x0 == pytest.approx(4.272 / 6.97 + 0.707 / 14.6 + 0.1165 / 21.82)
    assert THIN.atomic_number == pytest.approx((4.272 * 70.8 + 0.707 * 25.9 + 0.1165 * 14) / 5.0955)
    assert THIN.sampling_frequency == pytest.approx(1 / THIN.layer_x0)
    assert THIN.mip_fraction == pytest.approx(0.19386 / (4.272 * 1.163 + 0.707 * 1.45 + 0.19386), rel=1e-4)
    assert THIN.e_mip == THICK.e_mip == pytest.approx(1 / 1.3976)


def test_minimum_ionising_particle_in_half_a_millimetre_of_silicon() -> None:
    assert pytest.approx(0.194e-3, rel=0.01) == MIP_GEV
