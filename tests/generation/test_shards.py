from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calogan.errors import ModelError, RequestError
from calogan.events import EnergyRange, Hits, read_events
from calogan.events.productions import begin, finish
from calogan.generation import generator, shards
from calogan.generation.model_folder import find, read

FLAT = EnergyRange(2.0, 500.0)


def test_the_shards_together_are_the_showers_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    plan = shards.plan(tiny_model, "int8", FLAT, showers=50, seed=3, shard_showers=20)
    for shard in reversed(begin(tmp_path, plan)):
        shards.make_shard(tmp_path, plan, shard, model=tiny_model)
    finish(tmp_path, plan)
    events = read_events(tmp_path)
    np.testing.assert_array_equal(events.energy, FLAT.draw(50, 3))
    at_once = generator.load(tiny_model, precision="int8").sample(events.energy, seed=3)
    np.testing.assert_array_equal(events.showers, Hits.from_dense(at_once).to_dense().showers)


def test_a_plan_names_the_version_of_its_model(tiny_model: Path) -> None:
    plan = shards.plan(tiny_model, "float32", FLAT, showers=5, seed=1)
    assert plan.settings == {"model_version": read(tiny_model).version("float32"), "precision": "float32"}


def test_a_shard_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    plan = shards.plan(tiny_model, "int8", FLAT, showers=5, seed=1)
    other = replace(plan, settings={**plan.settings, "model_version": "another"})
    (shard,) = begin(tmp_path, other)
    with pytest.raises(ModelError, match=r"has version \w+, but the production is of another; give the model"):
        shards.make_shard(tmp_path, other, shard, model=tiny_model)


@pytest.mark.parametrize("energy", [EnergyRange(0.1, 10.0), EnergyRange(2.0, 1e4)])
def test_energies_that_the_model_does_not_know_are_refused(tiny_model: Path, energy: EnergyRange) -> None:
    low, high = read(tiny_model).energy_range
    with pytest.raises(RequestError, match=f"outside the range of this model; ask for {low:g} to {high:g} GeV"):
        shards.plan(tiny_model, "int8", energy, showers=5, seed=1)


def test_a_precision_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ModelError, match="has no float16"):
        shards.plan(find("rehm2021"), "float16", FLAT, showers=5, seed=1)
