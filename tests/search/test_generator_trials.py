import json
from pathlib import Path

import pytest

from calogan.config import Benchmark, Choice, Config, Data, Search
from calogan.errors import ModelError
from calogan.events import Events, packaged_sample, write_events
from calogan.generation import model_folder
from calogan.search import generator_proposals, generator_trials
from calogan.search.generator_proposals import COST, Candidate
from calogan.search.records import Failure
from calogan.training.loop import Epoch

CHOICES = {"network.depth": 1, "network.width": 8}


@pytest.fixture(scope="module")
def config(geant4: Events, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The small configuration on the showers of a file, all that takes time made short."""
    path = write_events(tmp_path_factory.mktemp("candidates") / "geant4.h5", geant4, header={})
    return tiny_config.model_copy(
        update={
            "data": Data(path=str(path), train=0.4, validation=0.2, calibration=0.2, test=0.2),
            "search": Search(trials=3, draws=1, repeats=2, choices=(Choice(name="network.depth", values=(1, 2)),)),
            "benchmark": Benchmark(batch_size=16, repetitions=1),
        }
    )


def test_a_candidate_is_trained_quantized_measured_and_can_be_judged(config: Config, tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    candidate = generator_trials.attempt(config, CHOICES, tmp_path, on_epoch=epochs.append)
    assert isinstance(candidate, Candidate)
    model = model_folder.read(generator_trials.model_folder(tmp_path, CHOICES))
    assert (model.depth, model.width, model.kernel) == (1, 8, 3)
    assert candidate.metrics["quant/integer_convolutions"] == 2  # the one there is, and the last layer
    assert candidate.cost == candidate.metrics[COST] > 0
    assert len(candidate.aucs) == 2
    assert 0 < candidate.auc <= 1
    assert candidate.auc == pytest.approx(candidate.metrics["physics/auc_high_level"])
    assert 0 < candidate.metrics["physics/score"] <= 1
    assert candidate.seconds >= sum(epoch.seconds for epoch in epochs) > 0
    assert generator_trials.judge(config, candidate, tmp_path).gates


def test_a_training_that_fails_is_a_result(config: Config, tmp_path: Path) -> None:
    failure = generator_trials.attempt(config, {"training.shape_rate": 1e6}, tmp_path)
    assert isinstance(failure, Failure)
    assert "is not a finite number" in failure.reason


def test_an_unfinished_candidate_is_listed_until_it_has_a_record(tmp_path: Path) -> None:
    assert generator_trials.unfinished(tmp_path) == []
    for choices in (CHOICES, {"network.depth": 2, "network.width": 8}):
        folder = generator_trials.model_folder(tmp_path, choices)
        folder.mkdir(parents=True)
        (folder / "choices.json").write_text(json.dumps(choices))
    generator_trials.records(tmp_path).write(generator_trials.label(CHOICES), Failure(CHOICES, "no"))
    assert generator_trials.unfinished(tmp_path) == [{"network.depth": 2, "network.width": 8}]
    (folder / "choices.json").write_text("{")
    with pytest.raises(ModelError, match=r"choices\.json: is damaged .*; delete"):
        generator_trials.unfinished(tmp_path)


def test_a_record_is_found_whatever_the_order_of_its_choices(tmp_path: Path) -> None:
    candidate = Candidate(CHOICES, (0.5, 0.6), {COST: 0.1}, 2.0, {"cpu_isa": "AVX2"})
    generator_trials.records(tmp_path).write(generator_trials.label(CHOICES), candidate)
    turned = dict(reversed(CHOICES.items()))
    assert generator_trials.records(tmp_path).read(generator_trials.label(turned)) == candidate
    assert generator_trials.model_folder(tmp_path, turned) == generator_trials.model_folder(tmp_path, CHOICES)


def test_more_trials_resume_and_other_choices_start_a_new_search(config: Config, tmp_path: Path) -> None:
    def folder(**changes: object) -> Path:
        return generator_trials.search_folder(
            config.model_copy(update={"search": config.search.model_copy(update=changes)}), tmp_path
        )

    assert folder() == folder(trials=100)
    assert folder() != folder(choices=(Choice(name="network.depth", values=(1, 2, 3)),))
    other = config.model_copy(update={"data": Data(path=str(packaged_sample()))})
    assert generator_trials.search_folder(other, tmp_path) != folder()
    generator_proposals.check(config)
