from calogan.reporting import spread_tables, tables
from calogan.validation.gates import Gate, judge
from calogan.validation.metrics import Estimate
from calogan.validation.report import ValidationReport

METRICS = {
    "physics/hits_shift": Estimate(0.01, 0.001),
    "physics/spread_x_mean": Estimate(-0.2, 0.05),
    "physics/spread_x_mean_2_10gev": Estimate(-0.1, 0.06),
    "physics/spread_x_mean_10_25gev": Estimate(-0.2, 0.05),
    "physics/shift_hits_2_10gev": Estimate(0.03, 0.01),
}
GATE = "physics/spread_x_mean"
REPORT = ValidationReport(
    showers={},
    metrics=METRICS,
    floor={},
    gates={GATE: judge(Gate(0.07), METRICS[GATE])},
    curves={},
    provenance={},
)


def test_rows_are_quantities_and_columns_bins() -> None:
    table = spread_tables.spread_table(REPORT)
    assert table.bins == ("2-10", "10-25")
    spread, shift = table.rows
    assert (spread.title, spread.name) == ("spread of the centre along x", "spread_x_mean")
    assert spread.cells == ("\N{MINUS SIGN}10 ± 6", "\N{MINUS SIGN}20 ± 5")
    assert (spread.gate.text, spread.gate.verdict) == ("7", "failed")
    assert (shift.title, shift.cells, shift.gate.verdict) == ("mean of the number of hits", ("3.0 ± 1.0", ""), None)


def test_the_table_of_all_metrics_leaves_single_bins_to_it() -> None:
    assert [row.name for row in tables.metric_rows({"a": REPORT})] == ["hits_shift", "spread_x_mean"]


def test_a_report_without_spreads_has_no_table() -> None:
    bare = ValidationReport(showers={}, metrics={}, floor={}, gates={}, curves={}, provenance={})
    assert list(spread_tables.spread_tables({"a": REPORT, "b": bare})) == ["a"]
    assert spread_tables.spread_table(bare).rows == ()
