import numpy as np
import pytest

from calogan.events import Events
from calogan.networks import shower_shape
from calogan.training.survey import survey


def test_a_survey_in_stretches_is_that_of_the_whole(geant4: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = survey(geant4)
    monkeypatch.setattr("calogan.training.survey._CHUNK", 64)
    parts = survey(geant4)
    np.testing.assert_allclose(whole.mean_shower, geant4.showers.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(whole.ecal, geant4.showers.sum(axis=(1, 2, 3), dtype=np.float64), rtol=1e-5)
    np.testing.assert_array_equal(whole.layer_energies, parts.layer_energies)
    np.testing.assert_array_equal(whole.deposits, parts.deposits)
    np.testing.assert_array_equal(whole.shape, parts.shape)
    np.testing.assert_allclose(whole.shape, shower_shape.measure(geant4.showers), rtol=1e-4, atol=1e-5)
