import subprocess
import sys

import pytest

from calogan.errors import EventsError
from calogan.events import Events, packaged_sample, read_events
from calogan.validation.cell_classifier import auc_low_level


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())[:240]


def test_showers_with_permuted_layers_are_distinguished(events: Events) -> None:
    reversed_depth = Events(events.showers[1::2, :, :, ::-1], events.energy[1::2])
    separability = auc_low_level(events[::2], reversed_depth, trainings=1, epochs=3)
    assert separability.auc.value > 0.95
    assert separability.jsd.value > 0.5


def test_two_halves_of_geant4_are_not_distinguished(events: Events) -> None:
    separability = auc_low_level(events[::2], events[1::2], trainings=2, epochs=3)
    assert separability.auc.value == pytest.approx(0.5, abs=3 * separability.auc.error)
    assert len(separability.trainings) == 2


def test_a_shower_without_primary_energy_is_refused(events: Events) -> None:
    energy = events.energy.copy()
    energy[0] = 0
    with pytest.raises(EventsError, match="Ep 0 GeV"):
        auc_low_level(events, Events(events.showers, energy))


def test_the_import_does_not_load_tensorflow() -> None:
    code = "import sys, calogan.validation.cell_classifier; print(*({'tensorflow', 'keras'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not answer.stdout.strip()
