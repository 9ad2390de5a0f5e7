import io
from typing import Any

import pytest
from rich.console import Console

from calogan.reporting import terminal
from calogan.validation.gates import Gate, judge
from calogan.validation.metrics import Estimate
from calogan.validation.report import ValidationReport

METRICS = (
    *("sampling_fraction_shift", "worst_layer", "composite_mse", "y_mean", "y_std", "z_mean", "z_std"),
    *("pixelwise_relative", "auc_high_level"),
)
PERFORMANCE = {
    "perf/ms_per_shower": 1.5,
    "perf/showers_per_s": 667.4,
    "perf/speedup": 1.25,
    "perf/network_ms_per_shower": 0.75,
    "perf/network_speedup": 2.5,
    "model/size_mb": 0.35,
    "quant/integer_convolutions": 4,
}


def precision(**gates: str) -> dict[str, Any]:
    physics = {f"physics/{name}": {"value": 0.0123, "error": 0.004} for name in METRICS}
    return {"physics": physics, "performance": PERFORMANCE, "gates": gates}


def test_the_table_compares_float32_with_int8() -> None:
    summary = {
        "model": "lean",
        "header": {"cpu_isa": "AVX512_VNNI"},
        "precisions": {
            "float32": precision(a="passed", b="passed", c="not measured"),
            "int8": precision(a="passed", b="undecided", c="not measured"),
        },
    }
    screen = io.StringIO()
    Console(file=screen, width=100).print(terminal.summary_table(summary))
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:4]]
        for line in screen.getvalue().splitlines()
        if len(cells := line.replace("┃", "│").split("│")) == 5
    }
    assert "AVX512_VNNI" in screen.getvalue()
    assert rows[""] == ["float32", "int8"]
    assert rows["sampling fraction shift"] == ["1.2 ± 0.4 %"] * 2
    assert rows["AUC against Geant4"] == ["0.012 ± 0.004"] * 2
    assert rows["composite MSE (10^-3)"] == ["12 ± 4"] * 2
    assert rows["mean y / std (cells)"] == ["0.01 / 0.01"] * 2
    assert rows["gates passed"] == ["2 of 2", "1 of 2"]
    assert rows["ms per shower, one core"] == ["1.500"] * 2
    assert rows["ratio to float32"] == ["2.50x"] * 2
    assert rows["showers/s, one core"] == ["667"] * 2
    assert rows["network size (MB)"] == ["0.35"] * 2
    assert rows["int8 convolutions"] == ["4"] * 2
    assert sum("│" in line for line in screen.getvalue().splitlines()) == 15


def test_other_models_have_columns_beside_with_their_names() -> None:
    summary = {
        "model": "calogan-lean",
        "header": {"cpu_isa": "AVX512_VNNI"},
        "precisions": {"float32": precision(a="passed"), "int8": precision(a="passed")},
        "beside": {"rehm2021": {"float32": precision(a="failed"), "int8": precision(a="failed")}},
    }
    screen = io.StringIO()
    Console(file=screen, width=120).print(terminal.summary_table(summary, title="against 7 showers"))
    lines = [
        [cell.strip() for cell in line.replace("┃", "│").split("│")[2:6]] for line in screen.getvalue().splitlines()
    ]
    assert "against 7 showers; AVX512_VNNI" in screen.getvalue()
    assert ["calogan-lean", "calogan-lean", "rehm2021", "rehm2021"] in lines
    assert ["float32", "int8", "float32", "int8"] in lines
    assert ["1 of 1", "1 of 1", "0 of 1", "0 of 1"] in lines


def test_a_wide_table_is_whole_if_the_output_is_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"candidate {number} with a long name" for number in range(5)]
    summary = {"model": "m", "header": {"cpu_isa": "AVX2"}, "precisions": {name: precision() for name in names}}
    terminal.show(terminal.summary_table(summary))
    output = capsys.readouterr().out
    assert all(name in output for name in names)


def test_spreads_in_bins_are_a_table_of_their_own() -> None:
    metrics = {
        "physics/spread_x_mean": Estimate(0.2, 0.05),
        "physics/spread_x_mean_2_10gev": Estimate(0.2, 0.05),
    }
    gates = {"physics/spread_x_mean": judge(Gate(0.07), metrics["physics/spread_x_mean"])}
    counts = {"reference": 3, "candidate": 4}
    report = ValidationReport(showers=counts, metrics=metrics, floor={}, gates=gates, curves={}, provenance={})
    screen = io.StringIO()
    for table in (terminal.report_table(report, "int8"), terminal.spread_table(report, "int8")):
        Console(file=screen, width=120).print(table)
    lines = screen.getvalue().splitlines()
    assert sum("physics/spread_x_mean" in line for line in lines) == 1
    (row,) = (line for line in lines if "spread of the centre along x" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["20 ± 5", "7", "failed"]
