import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calogan import steps
from calogan.config import Benchmark, Config, Data, Quantization, Tuning, Validation
from calogan.errors import GateError, ModelError
from calogan.events import Events, packaged_sample, read_events, write_events
from calogan.generation import model_folder
from calogan.search import quantization_trials
from calogan.search.quantization_proposals import SCORE, Trial
from calogan.search.records import Failure
from calogan.validation.gates import load_gates
from calogan.validation.validate import validate

WIDE, NARROW = 10.0, 1e-9
CHOSEN = Quantization(calibration_showers=16, granularity="per_tensor", keep_float32=("convolution 3",))


@pytest.fixture(scope="module")
def config(geant4: Events, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The small configuration on the showers of a file, all that takes time made short."""
    path = write_events(tmp_path_factory.mktemp("trials") / "geant4.h5", geant4, header={})
    return tiny_config.model_copy(
        update={
            "data": Data(path=str(path), train=0.2, validation=0.2, calibration=0.2, test=0.4),
            "tuning": Tuning(draws=1, repeats=2),
            "benchmark": Benchmark(batch_size=16, repetitions=1),
        }
    )


@pytest.fixture(scope="module")
def trial(config: Config, tiny_model: Path) -> Trial:
    """A trial of a mixed network."""
    tried = quantization_trials.attempt(config, tiny_model, CHOSEN)
    assert isinstance(tried, Trial)
    return tried


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be written to."""
    model_folder.copy(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def judged_by(limit: float, config: Config, folder: Path) -> Config:
    gates = folder / "gates.toml"
    gates.write_text(f'"physics/separation_cell_energy" = {{ limit = {limit} }}')
    return config.model_copy(
        update={"validation": Validation(gates=str(gates), draws=1, thorough=False, cell_trainings=0)}
    )


def test_a_trial_has_the_scores_the_speed_and_the_counts_of_its_network(trial: Trial) -> None:
    assert len(trial.scores) == len(trial.float32_scores) == 2
    assert all(0 < score <= 1 for score in trial.scores + trial.float32_scores)
    assert trial.scores != trial.float32_scores
    metrics = trial.metrics()
    assert (metrics["quant/integer_convolutions"], metrics["quant/float_arithmetic"]) == (2, 1)
    assert metrics["quant/bfloat16_arithmetic"] == 0
    assert metrics["perf/network_speedup"] == trial.speedup > 0
    assert metrics["model/size_mb"] > 0
    assert metrics[f"{SCORE}_loss"] == pytest.approx(metrics[f"{SCORE}_float32"] - metrics[SCORE])
    assert "physics/score" not in metrics  # which has the classifier's gate in it
    assert "cpu_isa" in trial.header


def test_a_trial_leaves_the_model_alone(config: Config, model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    failure = quantization_trials.attempt(config, model, Quantization(keep_float32=("convolution 9",)))
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("this network has no operation 'convolution 9'")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_float32_loses_nothing_against_itself_and_the_pair_is_closer_than_either_to_geant4(
    config: Config, tiny_model: Path, trial: Trial
) -> None:
    quantization = Quantization(calibration_showers=16, keep_float32=("dense 1", "dense 2", "convolution 1"))
    attempt = quantization_trials.attempt(config, tiny_model, quantization)
    assert isinstance(attempt, Trial)
    assert attempt.float32_scores == trial.float32_scores
    # What differs between repeats is the showers, and both precisions have the same.
    assert attempt.loss_error < np.std(attempt.scores, ddof=1)


def test_a_trial_sees_the_calibration_and_validation_splits_only(
    config: Config, tiny_model: Path, trial: Trial, tmp_path: Path
) -> None:
    splits = {name: steps.read_split(config, name) for name in ("train", "validation", "calibration", "test")}
    identities = [{shower.tobytes() for shower in events.showers} for events in splits.values()]
    assert len(set.union(*identities)) == sum(map(len, identities)) == sum(map(len, splits.values()))
    parts = [splits["validation"], splits["calibration"], splits["train"][:1], splits["test"][:1]]
    fewer = Events(np.concatenate([part.showers for part in parts]), np.concatenate([part.energy for part in parts]))
    path = write_events(tmp_path / "fewer.h5", fewer, header={})
    alone = config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})
    again = quantization_trials.attempt(alone, tiny_model, CHOSEN)
    assert isinstance(again, Trial)
    assert (again.scores, again.float32_scores) == (trial.scores, trial.float32_scores)


def test_a_record_is_read_as_it_was_written(trial: Trial, tmp_path: Path) -> None:
    records = quantization_trials.records(tmp_path)
    for attempt in (trial, Failure(Quantization(), "no")):
        label = quantization_trials.label(attempt.what)
        assert records.read(label) is None
        records.write(label, attempt)
        assert records.read(label) == attempt


def test_a_record_with_an_invalid_score_is_reported(trial: Trial, tmp_path: Path) -> None:
    path = quantization_trials.records(tmp_path).write("a", trial)
    path.write_text(path.read_text().replace(str(trial.scores[0]), "-0.5"))
    with pytest.raises(ModelError, match=r"is not a record of a trial .*expected numbers above 0"):
        quantization_trials.records(tmp_path).read("a")


def test_trials_that_would_differ_have_separate_records(config: Config, model: Path) -> None:
    folder = quantization_trials.records_folder(config, model)
    assert folder.parent == model / "tuning"
    same = {"tuning": Tuning(draws=1, repeats=2, tolerance=0.1, attempts=9), "quantization": CHOSEN}
    assert quantization_trials.records_folder(config.model_copy(update=same), model) == folder
    model_folder.replace_network(model, model_folder.read(model), b"another", {})
    assert quantization_trials.records_folder(config, model) == folder
    other = {"tuning": Tuning(draws=2, repeats=2)}
    assert quantization_trials.records_folder(config.model_copy(update=other), model) != folder
    description = model_folder.read(model)
    hashes = description.sha256 | {description.network_files["float32"]: "0" * 64}
    model_folder.write(model, description.model_copy(update={"sha256": hashes}))
    assert quantization_trials.records_folder(config, model) != folder


def test_the_first_trial_that_passes_enters_the_model(
    config: Config, model: Path, trial: Trial, tmp_path: Path
) -> None:
    before = model_folder.read(model)
    files = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}
    adopted, report = quantization_trials.adopt(judged_by(WIDE, config, tmp_path), model, [trial])
    assert adopted == trial
    assert report.showers["reference"] == len(steps.read_split(config, "test"))
    after = model_folder.read(model)
    assert Quantization.model_validate(after.quantization) == CHOSEN
    assert after.weight_bits == before.weight_bits is not None
    assert after.version("int8") != before.version("int8")
    assert after.version("float32") == before.version("float32")
    for precision in before.network_files:
        model_folder.check_files(model, after, precision)
    model_folder.check_files(model, before, "int8")  # for who is just opening it
    names = files.keys() - {model_folder.DESCRIPTION}
    assert {name: (model / name).stat().st_mtime_ns for name in names} == {name: files[name] for name in names}


def test_a_model_that_was_replaced_meanwhile_is_not_modified(
    config: Config, model: Path, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = steps.validate_model

    def validate_model(*arguments: Any) -> object:
        description = model_folder.read(model)
        hashes = description.sha256 | {description.network_files["float32"]: "0" * 64}
        model_folder.write(model, description.model_copy(update={"sha256": hashes}))
        return real(*arguments)

    monkeypatch.setattr(steps, "validate_model", validate_model)
    networks = {path.name for path in model.glob("*.pb")}
    with pytest.raises(ModelError, match="was replaced while its quantizations were validated; start the search again"):
        quantization_trials.adopt(judged_by(WIDE, config, tmp_path), model, [trial])
    assert {path.name for path in model.glob("*.pb")} == networks


def test_the_next_is_tried_when_the_first_fails(
    config: Config, model: Path, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, quantizations = steps.validate_model, []

    def validate_model(config: Config, folder: Path, precision: str) -> object:
        quantizations.append(config.quantization)
        return real(judged_by(NARROW if len(quantizations) == 1 else WIDE, config, tmp_path), folder, precision)

    monkeypatch.setattr(steps, "validate_model", validate_model)
    second = dataclasses.replace(trial, quantization=Quantization(calibration_showers=16))
    assert quantization_trials.adopt(config, model, [trial, second])[0] is second
    assert quantizations == [trial.quantization, second.quantization]


def test_when_none_passes_the_model_is_left_as_it_was(
    config: Config, model: Path, trial: Trial, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    strict = judged_by(NARROW, config, tmp_path).model_copy(update={"tuning": Tuning(attempts=1)})
    with pytest.raises(
        GateError,
        match=r"per_tensor .* convolution 3 in float32 fails physics/separation_cell_energy; the model is unchanged",
    ):
        quantization_trials.adopt(strict, model, [trial, trial])
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def scaled(events: Events, factor: NDArray[np.floating]) -> Events:
    return Events((events.showers * factor).astype(np.float32), events.energy)


def tails(events: Events) -> Events:
    """Half of the energy in the outer cells along x is gone."""
    factor = np.ones((1, 25, 1, 1))
    factor[:, :5] = factor[:, -5:] = 0.5
    return scaled(events, factor)


def response(events: Events) -> Events:
    """High energies give too much, low ones too little; the mean shower over Ep is as it was."""
    share = events.showers.sum(axis=(1, 2, 3)) / events.energy
    high = events.energy > 300
    factor = np.where(high, 1.04, 1 - 0.04 * share[high].sum() / share[~high].sum())
    return scaled(events, factor[:, None, None, None])


def spectrum(events: Events) -> Events:
    """Every other cell has the energy of two; each cell has its mean."""
    return scaled(events, 2.0 * np.random.default_rng(1).integers(0, 2, events.showers.shape))


@pytest.mark.parametrize(
    ("damage", "metric"),
    [
        (tails, "physics/x_tail_first"),
        (response, "physics/sampling_fraction_shift_300_500gev"),
        (spectrum, "physics/separation_cell_energy"),
    ],
)
def test_a_candidate_with_the_right_mean_squared_error_but_wrong_physics_scores_lower(
    damage: Callable[[Events], Events], metric: str
) -> None:
    sample = read_events(packaged_sample())
    reference, candidate = sample[:500], sample[500:]
    damaged = validate(reference, damage(candidate), floor=False)
    gate = load_gates()
    assert abs(damaged.metrics["physics/composite_mse"].value) < 0.2 * gate["physics/composite_mse"].limit
    assert abs(damaged.metrics[metric].value) > gate[metric].limit
    assert (
        steps.score_without_classifier(reference, damage(candidate))
        < steps.score_without_classifier(reference, candidate) - 0.02
    )


def test_the_score_is_one_for_the_reference_itself_and_the_same_every_time(geant4: Events) -> None:
    assert steps.score_without_classifier(geant4, geant4) > 0.999
    halves = geant4[:100], geant4[100:]
    assert steps.score_without_classifier(*halves) == steps.score_without_classifier(*halves) < 1
