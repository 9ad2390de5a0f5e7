import math

import pytest

from calogan.reporting import tables
from calogan.validation.gates import Gate, judge
from calogan.validation.metrics import Estimate
from calogan.validation.report import ValidationReport


def report_of(**gated: tuple[float, float, float] | None) -> ValidationReport:
    """A report with gates: value, error and limit of each metric, or None if it is not measured."""
    metrics = {f"physics/{name}": Estimate(*values[:2]) for name, values in gated.items() if values}
    limits = {f"physics/{name}": Gate(values[2] if values else 1.0) for name, values in gated.items()}
    gates = {name: judge(gate, metrics.get(name)) for name, gate in limits.items()}
    return ValidationReport(
        showers={"reference": 1000, "candidate": 500},
        metrics=metrics,
        floor={},
        gates=gates,
        curves={},
        provenance={"git_commit": "abc", "versions": '{"numpy": "2.4"}', "other_thing": "[1]"},
    )


def test_headlines_name_the_verdict_and_the_gates() -> None:
    reports = {
        "bad": report_of(hits_shift=(0.5, 0.01, 0.1), worst_layer=(0.01, 0.1, 0.1), z_mean_shift=(0.0, 0.01, 0.2)),
        "unsure": report_of(worst_layer=(0.01, 0.1, 0.1), z_mean_shift=(0.0, 0.01, 0.2)),
        "good": report_of(z_mean_shift=(0.0, 0.01, 0.2), hits_shift=None),
        "empty": report_of(hits_shift=None),
    }
    headlines = {headline.name: headline for headline in tables.headlines(reports)}
    assert [headline.verdict for headline in headlines.values()] == ["failed", "undecided", "passed", "not measured"]
    assert headlines["bad"].text == "1 of 3 gates failed: number of hits, shift; 1 undecided"
    assert headlines["unsure"].text.startswith("no gate failed, 1 of 2 gates undecided: mean energy of the worst layer")
    assert headlines["good"].text == "1 of 1 gate passed"
    assert [title for title, _ in headlines["bad"].gates] == [
        "number of hits, shift",
        "mean energy of the worst layer, shift",
    ]
    assert (
        "more showers" in headlines["bad"].gates[1][1].explanation
        or "times as many" in headlines["bad"].gates[1][1].explanation
    )


def test_a_headline_names_four_gates_and_counts_the_rest() -> None:
    report = report_of(**{f"{axis}_{what}": (1.0, 0.01, 0.1) for axis in "xyz" for what in ("mean_shift", "std_shift")})
    (headline,) = tables.headlines({"bad": report})
    assert headline.text.startswith("6 of 6 gates failed: centre along x")
    assert headline.text.endswith("; and 2 more")
    assert len(headline.gates) == 6


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("hits_shift", 0.01234, 0.0021, "1.23 ± 0.21"),
        ("hits_shift", -0.155, 0.05, "\N{MINUS SIGN}16 ± 5"),
        ("z_mean_shift", 1.0, 0.0354, "1.000 ± 0.035"),
        ("z_mean_shift", 1.0, 0.0356, "1.00 ± 0.04"),
        ("z_mean_shift", 123.4, 45.0, "123 ± 45"),
        ("z_mean_shift", -0.0001, 0.2, "0.00 ± 0.20"),
        ("z_mean_shift", 2e-6, 3e-7, "2.00e\N{MINUS SIGN}06 ± 3.0e\N{MINUS SIGN}07"),
        ("z_mean_shift", 0.0, 0.0, "0"),
        ("z_mean_shift", 1.0, 7e-17, "1"),
        ("z_mean_shift", 2.5, math.nan, "2.5 ± ?"),
        ("z_mean_shift", math.nan, 0.1, "not defined"),
        ("z_mean_shift", math.inf, math.nan, "infinite"),
    ],
)
def test_numbers_have_the_digits_that_their_error_allows(name: str, value: float, error: float, text: str) -> None:
    (row,) = tables.metric_rows({"int8": report_of(**{name: (value, error, 1.0)})})
    assert row.cells[0].text == text


def test_gates_are_given_in_the_unit_of_the_metric() -> None:
    reports = {"int8": report_of(hits_shift=(0.05, 0.01, 0.1)), "other": report_of(hits_shift=None)}
    (row,) = tables.gate_rows(reports)
    assert (row.title, row.unit, row.name) == ("number of hits, shift", "%", "hits_shift")
    assert row.limit == "10 or 100"
    assert [cell.verdict for cell in row.cells] == ["passed", "not measured"]
    assert row.cells[0].explanation.startswith("5.0 ± 1.0 %, limit 10 %")
    assert row.cells[1].explanation == "the samples do not allow this metric"


def test_the_summary_has_gates_key_metrics_and_speed() -> None:
    reports = {"a": report_of(hits_shift=(0.05, 0.01, 0.1), x_mean_shift=(0.0, 0.01, 0.1)), "b": report_of()}
    rows = {row.title: [cell.text for cell in row.cells] for row in tables.summary(reports, {"a": {"ms": 0.421}})}
    assert rows["gates passed, of those measured"] == ["2 of 2", "0 of 0"]
    assert rows["number of hits, shift"] == ["5.0 ± 1.0", ""]
    assert rows["ms"] == ["0.421", ""]
    assert rows["physics score (1 is best)"] == ["0.80", ""]  # 1 / (1 + (0.5 + 0) / 2)
    assert "centre along x, shift" not in rows


def test_provenance_is_given_once_where_it_is_the_same() -> None:
    reports = {"a": report_of(), "b": report_of()}
    rows = {row.title: [cell.text for cell in row.cells] for row in tables.provenance(reports)}
    assert rows == {"commit": ["abc"], "packages": ["numpy 2.4"], "other thing": ["[1]"]}
    counts = {row.title: [cell.text for cell in row.cells] for row in tables.counts(reports)}
    assert counts == {"showers: reference": ["1000", "1000"], "showers: candidate": ["500", "500"]}


def test_definitions_are_those_of_the_metrics_there_are() -> None:
    report = report_of(x_mean=(1.0, 0.1, 2.0), y_mean=(1.0, 0.1, 2.0), brand_new=(1.0, 0.1, 2.0))
    definitions = tables.used_definitions({"int8": report})
    assert [entry.title for entry in definitions] == ["centre of the mean profile along x, y or z", "brand new"]
