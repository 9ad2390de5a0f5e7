import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.errors import ConfigError, EventsError, GateError, OutputError
from calogan.events import Events, open_events, packaged_sample, read_events, write_events
from calogan.validation import metrics, resampling, spreads, thorough, tree_classifier, validate
from calogan.validation.gates import Gate, judge, load_gates
from calogan.validation.metrics import Estimate
from calogan.validation.parts import divide, merge, observe_part
from calogan.validation.report import (
    ValidationReport,
    physics_score,
    report_to_dict,
    require_no_failure,
    require_proof,
    write_report,
)
from calogan.validation.resampling import match_energies, replica_means
from calogan.validation.standard import METRICS


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())[:600]


@pytest.fixture(scope="module")
def report(events: Events) -> ValidationReport:
    lines: list[str] = []
    candidate = events[1::2]
    result = validate.validate(events[::2], candidate, float32=candidate, progress=lines.append)
    assert lines == [
        "observing the reference: shower 0 of 300",
        "observing the candidate: shower 0 of 300",
        "comparing them",
        "comparing the reference with itself",
    ]
    return result


@pytest.fixture(scope="module")
def scaled_report(events: Events) -> ValidationReport:
    scaled = Events(events.showers * np.float32(1.1), events.energy)
    return validate.validate(events, scaled, floor=False)


def test_a_bin_of_energy_with_empty_showers_only_has_no_resolution(events: Events) -> None:
    # As int8 makes them of the lowest energies if one range of activations serves all.
    low = (events.energy < 25)[:, None, None, None]
    empty = Events(np.where(low, np.float32(0), events.showers), events.energy)
    curves = validate.validate(events, empty, floor=False, trees=False).curves
    assert np.isnan(curves["resolution"].candidate[:2]).all()
    assert np.isfinite(curves["resolution"].candidate[2:]).all()
    np.testing.assert_array_equal(curves["sampling_fraction"].candidate[:2], 0)


def test_metrics_are_those_announced(report: ValidationReport) -> None:
    names = set(METRICS) - {f"physics/{name}" for name in thorough.METRICS}  # those are not asked for
    in_bins = {f"physics/{name}_2_500gev" for name in spreads.METRICS}  # 300 showers are too few for several bins
    assert set(report.metrics) == names | in_bins
    assert set(report.floor) == {
        name for name in names | in_bins if "pixelwise" not in name and "_shift_2_50gev" not in name
    }
    assert report.metrics["physics/pixelwise_mean"] == Estimate(0.0, 0.0)
    assert report.showers["reference"] == report.showers["candidate"] == 300


def test_geant4_fails_no_gate_against_geant4(report: ValidationReport) -> None:
    assert {result.verdict for result in report.gates.values()} <= {"passed", "undecided"}
    assert physics_score(report) > 0.6


def test_a_wrong_energy_scale_fails_the_gates_it_should(scaled_report: ValidationReport) -> None:
    failures = set(scaled_report.failed)
    assert {"physics/sampling_fraction_shift", "physics/composite_mse"} <= failures
    assert "physics/z_mean_shift" not in failures


def test_the_score_falls_when_the_physics_does(report: ValidationReport, scaled_report: ValidationReport) -> None:
    assert 0 < physics_score(scaled_report) < physics_score(report) <= 1


def test_the_score_is_one_when_perfect_and_a_half_at_the_limits(report: ValidationReport) -> None:
    def score(auc: float) -> float:
        gates = {"physics/auc_high_level": judge(Gate(0.9, best=0.5), Estimate(auc, 0.01))}
        return physics_score(dataclasses.replace(report, gates=gates))

    assert (score(0.5), score(0.9)) == pytest.approx((1.0, 0.5))


def test_no_gate_no_score(report: ValidationReport) -> None:
    with pytest.raises(GateError, match="no score"):
        physics_score(dataclasses.replace(report, gates={}))


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.05, 0.01, "passed"),
        (-0.05, 0.01, "passed"),
        (0.11, 0.01, "passed"),  # compatible with the limit
        (0.13, 0.01, "failed"),
        (-0.13, 0.01, "failed"),
        (0.05, 0.06, "undecided"),  # 0.2 would often look like this
        (0.30, 0.06, "failed"),
        (float("nan"), 0.01, "failed"),
        (float("inf"), float("nan"), "failed"),
    ],
)
def test_verdicts(value: float, error: float, verdict: str) -> None:
    assert judge(Gate(0.1), Estimate(value, error)).verdict == verdict


def test_a_metric_that_is_not_there_is_not_measured(report: ValidationReport) -> None:
    result = judge(Gate(0.1), None)
    assert result.verdict == "not measured"
    incomplete = dataclasses.replace(report, gates={"physics/worst_layer": result})
    assert (incomplete.failed, incomplete.undecided, incomplete.not_measured) == (
        {},
        {},
        {"physics/worst_layer": result},
    )


ESTIMATES = {"passed": Estimate(0.0, 0.01), "failed": Estimate(1.0, 0.01), "undecided": Estimate(0.0, 1.0)}


@pytest.mark.parametrize("verdict", ["failed", "undecided", "not measured"])
def test_proof_takes_every_gate_and_a_failure_only_one_that_failed(report: ValidationReport, verdict: str) -> None:
    gates = {"physics/hits_shift": judge(Gate(0.1), ESTIMATES["passed"])}
    proved = dataclasses.replace(report, gates=gates)
    require_proof(proved)
    other = dataclasses.replace(
        report, gates=gates | {"physics/auc_high_level": judge(Gate(0.1), ESTIMATES.get(verdict))}
    )
    with pytest.raises(GateError, match=f"^physics/auc_high_level (is |was )?{verdict}[^/]*$"):
        require_proof(other)
    if verdict != "failed":
        require_no_failure({"int8": proved, "float32": other})
        return
    with pytest.raises(GateError, match=r"^1 of 2 gates failed: physics/auc_high_level$"):
        require_no_failure({"int8": other})
    with pytest.raises(GateError, match=r"^float32: 1 of 2 gates failed: physics/auc_high_level$"):
        require_no_failure({"int8": proved, "float32": other})


@given(value=st.floats(-2, 2), limit=st.floats(0.6, 2))
def test_a_gate_is_symmetric_about_its_best_value(value: float, limit: float) -> None:
    gate = Gate(limit, best=0.5)
    assert gate.excess(0.5 + value) == pytest.approx(gate.excess(0.5 - value))
    assert judge(gate, Estimate(value, 0.0)).verdict == ("passed" if gate.excess(value) <= 1 else "failed")


def test_curves_hold_the_mean_profiles(events: Events, scaled_report: ValidationReport) -> None:
    z = scaled_report.curves["z"]
    expected = (events.showers.sum(axis=(1, 2), dtype=np.float64) / events.energy[:, None]).mean(axis=0)
    np.testing.assert_allclose(z.reference, expected, rtol=1e-5)
    np.testing.assert_allclose(z.candidate, 1.1 * expected, rtol=1e-5)
    fraction = scaled_report.curves["sampling_fraction"]
    np.testing.assert_allclose(fraction.candidate, 1.1 * fraction.reference, rtol=1e-4)
    assert 0.015 < fraction.reference.min() < fraction.reference.max() < 0.025


def test_a_report_is_reproducible_and_written_as_strict_json(events: Events, tmp_path: Path) -> None:
    part = events[:60]  # so few that some bins are empty: NaN, which JSON does not know
    paths = [write_report(tmp_path / name, validate.validate(part, part, floor=False, seed=3)) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    read = json.loads(paths[0].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read["provenance"]["seed"] == "3"
    assert read["metrics"]["physics/composite_mse"]["value"] == 0
    assert read["gates"]["physics/composite_mse"]["gate"]["limit"] == 0.01
    assert len(read["curves"]["x"]["edges"]) == 26


def test_a_report_into_nowhere_is_an_error(report: ValidationReport, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none: no such folder; create it first"):
        write_report(tmp_path / "none" / "report.json", report)


def test_samples_in_parts_give_the_same_report(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 32)
    reference, candidate = events[:250], events[200:420]
    float32 = Events(candidate.showers * np.float32(1.01), candidate.energy)
    whole = validate.validate(reference, candidate, float32=float32, seed=3)

    plan = validate.prepare(reference, candidate, float32=float32, seed=3)
    # Workers finish in any order.
    of_reference = [observe_part(reference, part) for part in reversed(list(divide(plan, 0, blocks=3)))]
    of_candidate = [observe_part(candidate, part, float32) for part in reversed(list(divide(plan, 1, blocks=100)))]
    samples = merge(of_reference[::-1], len(reference)), merge(of_candidate[::-1], len(candidate))
    report = validate.conclude(plan, *samples, gates=load_gates())

    assert json.dumps(report_to_dict(report)) == json.dumps(report_to_dict(whole))


def test_the_seed_is_that_of_sums_replicas_and_classifier(events: Events) -> None:
    samples = events[:100], events[100:200]
    report = validate.validate(*samples, floor=False, seed=3)

    plan = validate.prepare(*samples, floor=False, seed=3)
    wholes = [merge([observe_part(s, part) for part in divide(plan, of)], len(s)) for of, s in enumerate(samples)]
    r, c = match_energies(*(whole.observables for whole in wholes), seed=3)
    planes = [metrics.projections(s, m.planes[0]) for s, m in zip((r, c), wholes, strict=True)]
    # Each replica has the same showers in the sums of its projections as elsewhere.
    np.testing.assert_allclose(
        planes[0].mean.sum(axis=-1), np.tile(replica_means(r, lambda s: s.sampling_fraction[:, None]), 3)
    )
    assert report.metrics["physics/composite_mse"] == metrics.composite_mse(*planes)
    trees, showers = tree_classifier.compare(r, c, seed=3)
    assert report.metrics["physics/auc_high_level"] == trees["physics/auc_high_level"]
    assert report.showers["classifier_each"] == showers == 50
    assert report.metrics["physics/hits_shift"] == metrics.hits_shift(r, c)


def test_files_are_validated_without_being_read_whole(events: Events, tmp_path: Path) -> None:
    for name, some in (("a", events[:150]), ("b", events[150:300])):
        write_events(tmp_path / f"{name}.h5", some, header={})
    files = open_events(tmp_path)
    result, expected = (validate.validate(s, events[300:], floor=False, trees=False) for s in (files, events[:300]))
    assert json.dumps(report_to_dict(result)) == json.dumps(report_to_dict(expected))


def test_float32_showers_of_other_energies_are_an_error(events: Events) -> None:
    with pytest.raises(EventsError, match="same energies and seed"):
        validate.validate(events[:100], events[100:200], float32=events[200:300])


def test_too_few_showers_are_an_error(events: Events) -> None:
    with pytest.raises(EventsError, match="at least 20"):
        validate.validate(events, events[:5])


def test_packaged_gates_are_of_known_metrics() -> None:
    gates = load_gates()
    assert set(gates) <= set(METRICS)
    assert gates["physics/auc_high_level"] == Gate(limit=0.9, best=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"physics/z_depth" = { limit = 1 }', "unknown metrics physics/z_depth"),
        ('"physics/worst_layer" = 0.1', "is not a gate"),
        ('"physics/worst_layer" = { limit = "much" }', "is not a gate"),
        ('"physics/worst_layer" = { limit = 0.1, colour = 2 }', "is not a gate"),
        ('"physics/worst_layer" = { limit = nan }', "is not a gate"),
        ('"physics/worst_layer" = { limit = true }', "is not a gate"),
        ('"physics/worst_layer" = { limit = -0.1 }', "must be above"),
        ("limit =", "cannot be read as TOML"),
    ],
)
def test_bad_gates_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_gates(path)


def test_a_gate_may_name_one_bin_of_energy(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text('"physics/spread_x_mean_100_250gev" = { limit = 0.1 }', encoding="utf-8")
    assert load_gates(path) == {"physics/spread_x_mean_100_250gev": Gate(0.1)}


def test_missing_gates_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_gates(tmp_path / "gates.toml")
