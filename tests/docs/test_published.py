"""Rows of the results page against values calculated by hand."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from calogan.benchmark.comparison import Comparison
from calogan.benchmark.precisions import BenchmarkReport, Timing
from calogan.quantization.operations import OperationCount
from calogan.validation.gates import Gate, judge
from calogan.validation.metrics import Estimate
from calogan.validation.report import ValidationReport

SCRIPTS = Path(__file__).parents[2] / "docs" / "scripts"
TIMING = Timing(2.0, 0.1, 1.5, 500.0, 1.0, 1.0, 8.0, OperationCount(0, 0, 3))
GATE = Gate(1.0)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/scripts/published.py, whose neighbours are on the path while a page is made."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("pages", "published"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import published  # noqa: PLC0415

    return published


def report(**metrics: tuple[float, float]) -> ValidationReport:
    estimates = {f"physics/{name}": Estimate(*values) for name, values in metrics.items()}
    gates = {name: judge(GATE, estimate) for name, estimate in estimates.items()}
    return ValidationReport({"reference": 9}, estimates, {}, gates, {}, {})


def measured(published: ModuleType, reports: Mapping[str, ValidationReport]) -> object:
    speeds = {"float32": TIMING, "int8": replace(TIMING, network_ms_per_shower=0.5, network_speedup=3.0, size_mb=2.0)}
    timed = BenchmarkReport("some", speeds, 256, 3, {})
    profiles = {"float32": {"Conv2D": 3.0, "Pad": 1.0}, "int8": {"QuantizedConv2D": 1.0, "Pad": 1.0}}
    return published.Measured(Comparison(reports, timed), profiles, {"int8": {(1, 2): 7.0}}, Estimate(0.5, 0.1))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_speed_and_size_are_ratios_to_float32(published: ModuleType) -> None:
    models = {"some": measured(published, {})}
    lines = [cells(line) for line in (*published.table_1(models), *published.memory(models))]
    assert ["paper", "55.7 (1.00x)", "32.3 (1.72x)"] in lines
    assert ["`some`, network", "192 (1.00x)", "64 (3.00x)"] in lines
    assert ["`some`, showers/s", "500", "500"] in lines
    assert ["paper", "8.08 (1.00x)", "3.57 (2.26x)"] in lines
    assert ["`some`", "8.00 (1.00x)", "2.00 (4.00x)"] in lines


def test_operations_are_shares_of_their_network(published: ModuleType) -> None:
    lines = [cells(line) for line in published.table_2({"some": measured(published, {})})]
    assert ["Conv2D", "3.000 (75%)", "0.000 (0%)"] in lines
    assert ["Pad", "1.000 (25%)", "1.000 (50%)"] in lines
    assert ["all", "4.000", "2.000"] in lines


def test_geant4_is_the_candidate_without_its_shift(published: ModuleType) -> None:
    moments = {f"{axis}_{name}": (12.0, 0.3) for axis in "yz" for name in ("mean", "std")}
    shifts = {f"{name}_shift": (0.5, 0.5) for name in moments}
    reports = dict.fromkeys(published.PRINTED, report(**moments, **shifts))
    lines = [cells(line) for line in published.table_3({"some": measured(published, reports)})]
    assert ["y, paper", "12.00 / 1.45", "12.02 / 1.46", "12.03 / 1.45", "12.05 / 1.13", "12.10 / 1.19"] in lines
    own = " / ".join(["12.00 ± 0.30"] * 2)
    assert ["y, `some`", " / ".join(["11.5 ± 0.4"] * 2), own, own, own, own] in lines


@pytest.mark.parametrize(
    ("tflite", "word", "sigma"),
    [((0.5, 0.04), "confirmed", "+8.0"), ((0.2, 0.04), "undecided", "+2.0"), ((-0.5, 0.04), "confirmed", "+8.0")],
)
def test_the_claim_is_judged_by_the_difference_of_the_distances(
    published: ModuleType, tflite: tuple[float, float], word: str, sigma: str
) -> None:
    near = report(composite_mse=(0.1, 0.03), pixelwise_relative=(0.02, 0.01))
    far = report(composite_mse=tflite, pixelwise_relative=(0.02, 0.01))
    reports = {"float32": near, "int8": near, "tflite-int8": far, "tflite-float16": near}
    text = "\n".join(published.claim({"some": measured(published, reports)}))
    assert f"the claim is **{word}** ({sigma} " in text
    assert f"{'INC' if word == 'confirmed' else 'neither'} ({sigma}) |" in text
    swapped = reports | {"int8": far, "tflite-int8": near}
    text = "\n".join(published.claim({"some": measured(published, swapped)}))
    assert ("the claim is **refuted**" in text) is (word == "confirmed")
    assert "| gates passed | 2 | 2 | 2 | 2 |  |" in text
    assert "TFLite float16 of `some`: 0.100 ± 0.030, float32 0.100 ± 0.030; they differ by 2.0 ± 1.0 % of ECAL" in text


def test_three_dimensions_are_compared_at_equal_arithmetic_too(published: ModuleType) -> None:
    macs = {"a": 250_000_000, "b": 1_000_000_000, "c": 250_000_000}
    times = {"batch 1": {"a": 3.0, "b": 6.0, "c": 1.5}}
    lines = [cells(line) for line in published.conv3d(macs, times, "a", "b", "c")]
    assert ["10^9 multiply-adds", "0.25", "1.00", "0.25", "", ""] in lines
    assert ["batch 1", "3", "6", "1.5", "0.50", "2.00"] in lines
    text = "\n".join(published.conv3d(macs, times, "a", "b", "c"))
    assert "has 4.0 times the arithmetic" in text
    assert "compute 8.4 times as many multiply-adds a second" in text
    assert "\n2.0 (batch 1)." in text


def test_the_factor_over_geant4_is_of_one_core(published: ModuleType) -> None:
    lines = published.over_geant4({"some": measured(published, {})}, 2.5, 40)
    assert ["`some`", "1,250", "1,250"] in [cells(line) for line in lines]
