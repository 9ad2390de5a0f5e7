import importlib.util
import os

import pytest

from calogan.benchmark import geant4_speed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("geant4_pybind") is None, reason="needs the extra geant4"),
]


def test_a_shower_takes_seconds_of_a_core_and_the_cores_are_given_back() -> None:
    before = os.sched_getaffinity(0)
    speed = geant4_speed.measure(1)
    assert 0.2 < speed.cpu_s < 30
    assert speed.node_per_s == pytest.approx(len(before) / speed.cpu_s, rel=0.6)
    assert speed.latency_s > 0.1
    assert os.sched_getaffinity(0) == before
