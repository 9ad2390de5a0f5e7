import numpy as np
import pytest

from calogan.events import Events
from calogan.training.survey import moments, survey


def test_a_survey_in_stretches_is_that_of_the_whole(geant4: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = survey(geant4)
    monkeypatch.setattr("calogan.training.survey._CHUNK", 64)
    parts = survey(geant4)
    np.testing.assert_allclose(whole.mean_shower, geant4.showers.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(whole.ecal, geant4.showers.sum(axis=(1, 2, 3), dtype=np.float64), rtol=1e-5)
    np.testing.assert_array_equal(whole.layer_energies, parts.layer_energies)
    np.testing.assert_array_equal(whole.deposits, parts.deposits)
    np.testing.assert_allclose(whole.moments_spread, parts.moments_spread, rtol=1e-5)
    centred = (np.asarray(moments(geant4.showers)) - whole.moments_centre) / whole.moments_spread
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(centred.std(axis=0), 1, atol=1e-2)


def test_moments_of_a_known_shower() -> None:
    shower = np.zeros((1, 25, 25, 25), np.float32)
    shower[0, 14, 12, 3] = 1.0
    shower[0, 10, 13, 3] = 3.0
    x, width_x, y, width_y, hits, core = np.asarray(moments(shower)).reshape(6, 25)
    assert x[3] == pytest.approx(-1)  # (1 * 2 - 3 * 2) / 4
    assert y[3] == pytest.approx(0.75)
    assert width_x[3] == pytest.approx(np.log(4 + 0.05))
    assert width_y[3] == pytest.approx(np.log(0.75 + 0.05))
    assert hits[3] == pytest.approx(np.log(3))
    assert core[3] == pytest.approx(np.log(1e-3))
    assert hits[4] == 0


def test_mirrored_showers_have_mirrored_moments(geant4: Events) -> None:
    there, back = (np.asarray(moments(showers)) for showers in (geant4.showers[:5], geant4.showers[:5, ::-1]))
    np.testing.assert_allclose(back[:, :25], -there[:, :25], atol=1e-5)
    np.testing.assert_allclose(back[:, 25:], there[:, 25:], rtol=1e-4, atol=1e-5)
