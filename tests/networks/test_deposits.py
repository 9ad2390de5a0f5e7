import numpy as np
import pytest

from calogan.events import Events, packaged_sample, read_events
from calogan.networks import deposits


def test_the_exponential_law_has_its_moments() -> None:
    law = deposits.exponential(3e-4)
    assert law.sum() == pytest.approx(1)
    mean, variation = deposits.moments(law)
    assert mean == pytest.approx(3e-4, rel=0.01)
    assert variation == pytest.approx(1, rel=0.01)
    x = np.array([0.1, 1.0, 3.0])
    np.testing.assert_allclose(deposits.below(law, x), -np.expm1(-x), atol=5e-3)
    np.testing.assert_allclose(deposits.log_density(law, np.log(x)), -x, atol=0.05)


def test_cells_are_counted_by_their_energy(geant4: Events) -> None:
    shower = np.zeros((3, 25, 25, 25), np.float32)
    shower[0, 2, 3, 4] = 1.001e-6
    shower[1, 2, 3, 4] = 0.5e-6  # below the threshold
    shower[2, 2, 3, 4] = 10.0  # beyond the end
    counts = deposits.histogram(shower)
    cell = (2 * 25 + 3) * 25 + 4
    assert counts.sum() == 2
    assert counts[cell, 0] == counts[cell, -1] == 1
    assert deposits.histogram(geant4.showers).sum() == (geant4.showers >= 1e-6).sum()


def test_the_law_of_geant4_begins_where_a_fast_electron_does() -> None:
    sample = read_events(packaged_sample())
    law = deposits.single(deposits.histogram(sample.showers), len(sample))
    mean, variation = deposits.moments(law)
    assert mean == pytest.approx(2.9e-4, rel=0.05)
    assert variation == pytest.approx(0.92, abs=0.1)
    # 0.12 MeV, the least a fast electron leaves in half a millimetre of silicon: a step up.
    density = np.exp(deposits.log_density(law, np.log(np.array([1.0e-4, 1.5e-4]) / mean)) + np.log([1.0, 1.5]))
    assert density[1] > 1.5 * density[0]


def test_too_few_deposits_leave_an_exponential_law(geant4: Events) -> None:
    counts = deposits.histogram(geant4.showers[:20])
    np.testing.assert_array_equal(deposits.single(counts, 20), deposits.exponential(3.5e-4))
