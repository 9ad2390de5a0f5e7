import itertools
import math
import tomllib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.config import Quantization, as_toml
from calogan.errors import GateError, QuantizationError
from calogan.search.quantization_proposals import COMBINED, SCORE, Attempt, Trial, describe, propose, rank, summary
from calogan.search.records import Failure

BASE = Quantization()
OPERATIONS = ("dense 1", "convolution 1", "convolution 2", "convolution 3")
FLOAT32 = 0.8
Outcome = Callable[[Quantization], Attempt]


def trial(quantization: Quantization = BASE, loss: float = 0.0, speedup: float = 3.0, spread: float = 0.0) -> Trial:
    """A trial with a loss and its spread over two repeats."""
    scores = (FLOAT32 - loss - spread, FLOAT32 - loss + spread)
    return Trial(quantization, scores, (FLOAT32, FLOAT32), {"perf/network_speedup": speedup}, 1.0, {})


def keeping(*names: str, precision: str = "float32", **changes: object) -> Quantization:
    return Quantization.model_validate({f"keep_{precision}": names, **changes})


def run(outcome: Outcome, operations: tuple[str, ...] = OPERATIONS, showers: int = 128) -> list[Attempt]:
    """Run a search to its end."""
    history: list[Attempt] = []
    while proposed := propose(BASE, operations, showers, history):
        history += map(outcome, proposed)
    return history


def losing(harm: dict[str, float], time: dict[str, float] | None = None) -> Outcome:
    """Each operation costs score in int8, and time in float32."""

    def outcome(quantization: Quantization) -> Trial:
        floats = quantization.keep_float32 + quantization.keep_bfloat16
        loss = sum(amount for name, amount in harm.items() if name not in floats)
        duration = 0.3 + sum((time or {}).get(name, 0.1) for name in floats)
        return trial(quantization, loss, 1 / duration)

    return outcome


def test_a_search_that_the_configuration_asks_for_is_the_same_search() -> None:
    quantization = Quantization(tune=True)
    assert propose(quantization, OPERATIONS, 128, []) == propose(BASE, OPERATIONS, 128, [])
    history = run(trial)
    assert propose(quantization, OPERATIONS, 128, history) == ()
    assert quantization.model_dump_json() == BASE.model_dump_json()


def test_the_first_trials_change_one_thing_each() -> None:
    first = propose(BASE, OPERATIONS, 128, [])
    assert first[0] == BASE
    assert [q.keep_float32 for q in first if q.keep_float32] == [(name,) for name in OPERATIONS]
    changes = [{k: v for k, v in q.model_dump().items() if v != BASE.model_dump()[k]} for q in first[1:]]
    assert all(len(change) == 1 for change in changes)
    assert {name for change in changes for name in change} == {
        *("granularity", "algorithm", "smooth", "calibration_showers", "keep_float32")
    }
    assert {q.calibration_showers for q in first} == {32, 64, 128}


def test_no_more_calibration_showers_than_there_are_are_proposed() -> None:
    first = propose(BASE, OPERATIONS, 51, [])
    assert {q.calibration_showers for q in first} == {32, 64}
    assert {"per_tensor", "kl"} <= {q.granularity for q in first} | {q.algorithm for q in first}


def test_operations_kept_by_the_base_are_not_proposed() -> None:
    first = propose(keeping("dense 1"), OPERATIONS, 128, [])
    assert [q.keep_float32 for q in first if len(q.keep_float32) > 1] == [
        tuple(sorted(("dense 1", name))) for name in OPERATIONS[1:]
    ]


def test_only_missing_trials_are_proposed_again() -> None:
    first = propose(BASE, OPERATIONS, 128, [])
    assert propose(BASE, OPERATIONS, 128, [trial(q) for q in first[2:]]) == first[:2]


def test_the_most_useful_operations_are_combined_the_cheapest_gain_first() -> None:
    harm = {"dense 1": 0.02, "convolution 2": 0.02, "convolution 3": 0.001}
    history = run(losing(harm, {"dense 1": 0.01, "convolution 2": 0.1, "convolution 3": 0.1}))
    combined = [q.what.keep_float32 for q in history if len(q.what.keep_float32) > 1]
    assert combined == [("convolution 2", "dense 1"), ("convolution 2", "convolution 3", "dense 1")]
    bfloat16 = [q.what.keep_bfloat16 for q in history if q.what.keep_bfloat16]
    assert bfloat16 == [("dense 1",), *combined]


def test_insignificant_gains_are_not_combined() -> None:
    def outcome(quantization: Quantization) -> Trial:
        return trial(
            quantization, 0.01 if quantization == BASE else 0.009, spread=0.0 if quantization == BASE else 0.01
        )

    assert {len(q.what.keep_float32) for q in run(outcome)} == {0, 1}


def test_the_best_change_of_settings_is_combined_too() -> None:
    def outcome(quantization: Quantization) -> Trial:
        loss = 0.02 - 0.005 * (quantization.algorithm == "kl") - 0.01 * ("dense 1" in quantization.keep_float32)
        return trial(quantization, loss)

    assert keeping("dense 1", algorithm="kl") in [attempt.what for attempt in run(outcome)]


def test_a_base_that_cannot_be_made_ends_the_search_after_the_first_trials() -> None:
    def outcome(quantization: Quantization) -> Attempt:
        return Failure(quantization, "no") if quantization == BASE else trial(quantization)

    history = run(outcome)
    assert len(history) == 10
    assert BASE not in [each.quantization for each in rank(history, 0.01)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_search_ends_repeats_nothing_and_names_only_operations_of_the_network(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 12))
    names = tuple(f"convolution {k + 1}" for k in range(number))

    def outcome(quantization: Quantization) -> Attempt:
        if data.draw(st.booleans(), label="fails"):
            return Failure(quantization, "no")
        loss, speed = data.draw(st.floats(-0.1, 0.1)), data.draw(st.floats(0.1, 5))
        return trial(quantization, loss, speed, data.draw(st.floats(0, 0.01)))

    configurations = [attempt.what for attempt in run(outcome, names)]
    assert len(set(configurations)) == len(configurations) <= 6 + number + 4 * COMBINED
    assert configurations[0] == BASE
    assert {name for q in configurations for name in q.keep_float32 + q.keep_bfloat16} <= set(names)


@given(st.permutations(OPERATIONS), st.integers(0, COMBINED))
@settings(max_examples=30, deadline=None)
def test_the_operations_that_must_stay_float_are_found(order: list[str], number: int) -> None:
    needed = order[:number]
    history = run(losing(dict.fromkeys(needed, 0.02)))
    best = rank(history, 0.01)[0].quantization
    assert set(best.keep_float32 + best.keep_bfloat16) == set(needed)


def test_the_fastest_within_the_tolerance_comes_first() -> None:
    trials = [
        trial(keeping("a"), 0.004, 2),
        trial(BASE, 0.1, 4),
        trial(keeping("b"), -0.001, 3),
        trial(keeping("c"), 0.007, 2.5),
    ]
    assert [each.speedup for each in rank(trials, 0.01)] == [3, 2.5, 2]


def test_a_loss_that_is_not_proved_small_is_not_tolerated() -> None:
    sure, unsure = trial(keeping("a"), 0.004), trial(keeping("b"), 0.004, 4.0, spread=0.01)
    assert rank([unsure, sure], 0.01) == [sure]


def test_of_equal_speeds_the_smaller_loss_comes_first() -> None:
    trials = [trial(keeping("a"), 0.004, 3.05), trial(keeping("b"), 0.001, 3.0), trial(keeping("c"), 0.0, 2.0)]
    assert [each.quantization.keep_float32 for each in rank(trials, 0.01)] == [("b",), ("a",), ("c",)]


@given(st.lists(st.tuples(st.floats(-0.1, 0.1), st.floats(0.1, 5)), min_size=1, max_size=8))
def test_ranking_drops_and_invents_nothing(points: list[tuple[float, float]]) -> None:
    trials = [trial(keeping(str(k)), loss, speed) for k, (loss, speed) in enumerate(points)]
    good = [one for one in trials if one.loss + 2 * one.loss_error <= 0.01 * one.float32_score]
    if not good:
        with pytest.raises(GateError, match=rf"none of {len(trials)} .* increase"):
            rank(trials, 0.01)
        return
    ranked = rank(trials, 0.01)
    assert sorted(map(id, ranked)) == sorted(map(id, good))
    for first, second in itertools.pairwise(ranked):
        assert second.speedup <= first.speedup / 0.95


def test_no_trial_at_all_is_an_error_with_the_reasons() -> None:
    with pytest.raises(QuantizationError, match="no quantization succeeded: out of luck; no model"):
        rank([Failure(BASE, "out of luck"), Failure(keeping("a"), "no model"), Failure(keeping("b"), "no model")], 0.01)
    with pytest.raises(QuantizationError, match="there was no trial"):
        rank([], 0.01)


@pytest.mark.parametrize("bad", [0.0, -0.3, math.nan, math.inf])
def test_a_score_that_is_no_score_is_refused(bad: float) -> None:
    for scores, float32 in (((0.5, bad), (0.5, 0.5)), ((0.5, 0.5), (bad, 0.5))):
        with pytest.raises(QuantizationError, match=r"have the score .*; expected numbers above 0, higher is better"):
            Trial(BASE, scores, float32, {}, 1.0, {})
    with pytest.raises(QuantizationError, match="score none"):
        Trial(BASE, (), (), {}, 1.0, {})


def test_common_fluctuations_cancel_in_the_loss() -> None:
    result = Trial(BASE, (0.69, 0.79, 0.62), (0.70, 0.80, 0.63), {"perf/network_speedup": 3.0}, 1.0, {})
    assert result.loss == pytest.approx(0.01)
    assert result.loss_error == pytest.approx(0, abs=1e-12)
    assert result.metrics()[f"{SCORE}_float32"] == pytest.approx(0.71)
    assert "loss +0.0100 +- 0.0000, network 3.00x" in summary(result)


def test_a_quantization_is_written_as_the_file_that_repeats_it() -> None:
    quantization = Quantization(smooth=0.5, keep_float32=("dense 1",), keep_bfloat16=("convolution 4",), algorithm="kl")
    assert (
        Quantization.model_validate(tomllib.loads(as_toml(quantization=quantization))["quantization"]) == quantization
    )
    assert Quantization.model_validate(tomllib.loads(as_toml(quantization=BASE))["quantization"]) == BASE
    text = "per_channel kl, 64 showers; SmoothQuant 0.5; dense 1 in float32; convolution 4 in bfloat16"
    assert describe(quantization) == text
    assert summary(Failure(quantization, "no")) == f"{text}: failed, no"
