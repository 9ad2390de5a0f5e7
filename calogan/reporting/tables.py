"""Contents of the tables of a comparison, without markup: verdicts, metrics in their units, definitions, provenance."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calogan.reporting import glossary
from calogan.reporting.glossary import MetricDefinition
from calogan.validation import spreads
from calogan.validation.gates import Gate, GateResult, Verdict
from calogan.validation.metrics import Estimate
from calogan.validation.report import ValidationReport, physics_score

Reports = Mapping[str, ValidationReport]
Speed = Mapping[str, Mapping[str, float]]

_PROVENANCE = {
    "calogan_version": "calogan",
    "git_commit": "commit",
    "python": "Python",
    "versions": "packages",
    "cpu_model": "CPU",
    "cpu_isa": "instruction sets",
    "seed": "seed",
    "inputs_sha256": "SHA-256 of the inputs",
}
_MOST_TITLES = 4  # gates named in a headline


@dataclass(frozen=True)
class Cell:
    """One cell of a table; the explanation appears on demand, such as in a tooltip."""

    text: str = ""
    verdict: Verdict | None = None
    explanation: str = ""


@dataclass(frozen=True)
class Row:
    """A metric or another value of every candidate; a single cell applies to all of them."""

    title: str
    cells: Sequence[Cell]
    limit: str = ""
    floor: str = ""
    name: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Headline:
    """The verdict on a candidate in words, and the gates that it did not pass."""

    name: str
    verdict: Verdict
    text: str
    gates: Sequence[tuple[str, Cell]]


def headlines(reports: Reports) -> list[Headline]:
    """The verdict on each candidate."""
    return [_headline(name, report) for name, report in reports.items()]


def summary(reports: Reports, speed: Speed) -> list[Row]:
    """The most informative rows: gates, score, some metrics, and the timing results if there are any."""
    rows = [
        Row("gates passed, of those measured", [Cell(_passed(report)) for report in reports.values()]),
        Row("physics score (1 is best)", [Cell(_score(report)) for report in reports.values()]),
    ]
    metrics = set(_names(report.metrics for report in reports.values()))
    names = [f"physics/{name}" for name in glossary.summary()]
    rows += [_metric_row(reports, name) for name in names if name in metrics]
    for quantity in _names(speed.get(name, {}) for name in reports):
        values = [speed.get(name, {}).get(quantity) for name in reports]
        rows.append(Row(quantity, [Cell("" if value is None else f"{value:.3g}") for value in values]))
    return rows


def gate_rows(reports: Reports) -> list[Row]:
    """The result of every gate for every candidate."""
    rows = []
    for name in _names(report.gates for report in reports.values()):
        results = [report.gates.get(name) for report in reports.values()]
        row = _metric_row(reports, name)
        cells = [Cell() if result is None else _gate_cell(name, result) for result in results]
        rows.append(Row(row.title, cells, row.limit, row.floor, row.name, row.unit))
    return rows


def metric_rows(reports: Reports) -> list[Row]:
    """All metrics that occur in any of the reports, except those of single bins in `spread_tables`."""
    names = _names(report.metrics for report in reports.values())
    return [_metric_row(reports, name) for name in names if not spreads.is_binned(name)]


def _headline(name: str, report: ValidationReport) -> Headline:
    verdicts = [result.verdict for result in report.gates.values()]
    failed, undecided, passed = (verdicts.count(word) for word in ("failed", "undecided", "passed"))
    total = failed + undecided + passed
    of = f"of {total} gates" if total != 1 else "of 1 gate"
    gates_by = {word: [g for g, r in report.gates.items() if r.verdict == word] for word in ("failed", "undecided")}
    verdict: Verdict = "not measured"
    text = "no gate was measured"
    if failed:
        verdict, text = "failed", f"{failed} {of} failed: {_titles(gates_by['failed'])}"
        text += f"; {undecided} undecided" if undecided else ""
    elif undecided:
        verdict, text = "undecided", f"no gate failed, {undecided} {of} undecided: {_titles(gates_by['undecided'])}"
    elif passed:
        verdict, text = "passed", f"{passed} {of} passed"
    gates = [
        (glossary.metric(gate).title, _gate_cell(gate, report.gates[gate]))
        for gate in (*gates_by["failed"], *gates_by["undecided"])
    ]
    return Headline(name, verdict, text, gates)


def _titles(gates: Sequence[str]) -> str:
    """Name the first gates and count the others."""
    more = len(gates) - _MOST_TITLES
    titles = "; ".join(glossary.metric(gate).title for gate in gates[:_MOST_TITLES])
    return f"{titles}; and {more} more" if more > 0 else titles


def _metric_row(reports: Reports, name: str) -> Row:
    """A metric with its errors, the floor and the gate's limit, if there are any."""
    definition = glossary.metric(name)
    cells = []
    for report in reports.values():
        result = report.gates.get(name)
        cells.append(Cell(number(report.metrics.get(name), scale=definition.scale), result.verdict if result else None))
    floors = [report.floor[name] for report in reports.values() if name in report.floor]
    limits = dict.fromkeys(limit(r.gates[name].gate, definition) for r in reports.values() if name in r.gates)
    floor = number(floors[0], scale=definition.scale) if floors else ""
    return Row(definition.title, cells, " or ".join(limits), floor, definition.name, definition.unit)


def _gate_cell(name: str, result: GateResult) -> Cell:
    definition = glossary.metric(name)
    text = number(result.estimate, scale=definition.scale)
    if not text:
        return Cell("", result.verdict, result.explanation)
    unit = f" {definition.unit}" if definition.unit else ""
    advice = result.explanation.partition(": ")[2]
    explanation = f"{text}{unit}, limit {limit(result.gate, definition)}{unit}"
    return Cell(text, result.verdict, f"{explanation}: {advice}" if advice else explanation)


def limit(gate: Gate, definition: MetricDefinition) -> str:
    """Limit of a gate in the unit of its metric, with the best value if that is not 0."""
    text = f"{definition.scale * gate.limit:.4g}"
    return f"{text} (best {definition.scale * gate.best:.4g})" if gate.best else text


def number(estimate: Estimate | None, *, scale: float = 1.0) -> str:
    """Format a value with its error, times `scale`, with as many digits as the error justifies; "" for None."""
    if estimate is None:
        return ""
    value, error = scale * estimate.value, scale * estimate.error
    if not math.isfinite(value):
        return "not defined" if math.isnan(value) else "infinite"
    if error < 1e-12 * abs(value):  # rounding, not statistics
        error = 0.0
    if not (math.isfinite(error) and error > 0):
        text = f"{value:.3g}" + ("" if error == 0 else " ± ?")
    elif error >= 1e-5:
        decimals = _decimals(error)
        text = f"{value:.{decimals}f} ± {error:.{decimals}f}"
    else:
        text = f"{value:.2e} ± {error:.1e}"
    if not any(digit in text.partition("±")[0] for digit in "123456789"):
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def _decimals(error: float) -> int:
    """Decimals for two digits of an error that starts with up to 35, else one: Review of Particle Physics, 5.3."""
    place = math.floor(math.log10(error))
    return max(0, (1 if error < 3.55 * 10.0**place else 0) - place)


def _passed(report: ValidationReport) -> str:
    verdicts = [result.verdict for result in report.gates.values() if result.verdict != "not measured"]
    return f"{verdicts.count('passed')} of {len(verdicts)}"


def _score(report: ValidationReport) -> str:
    return f"{physics_score(report):.2f}" if any(result.estimate for result in report.gates.values()) else ""


def used_definitions(reports: Reports) -> list[MetricDefinition]:
    """Definitions of the metrics in the reports: those of the glossary, then those without an entry."""
    names = _names(report.metrics for report in reports.values())
    templates = {glossary.metric(name).template for name in names}
    entries = [replace(m, title=glossary.general_title(m)) for m in glossary.metrics() if m.name in templates]
    return entries + [metric for metric in map(glossary.metric, names) if not metric.formula]


def counts(reports: Reports) -> list[Row]:
    """Numbers of showers."""
    names = _names(report.showers for report in reports.values())
    return [
        Row(f"showers: {name.replace('_', ', ')}", [Cell(f"{r.showers.get(name, '')}") for r in reports.values()])
        for name in names
    ]


def provenance(reports: Reports) -> list[Row]:
    """Origin of the reports."""
    rows = []
    for name in _names(report.provenance for report in reports.values()):
        values = [_readable(report.provenance.get(name, "")) for report in reports.values()]
        same = len(set(values)) == 1
        cells = [Cell(value) for value in (values[:1] if same else values)]
        rows.append(Row(_PROVENANCE.get(name, name.replace("_", " ")), cells))
    return rows


def _readable(value: str) -> str:
    """Format a table that the header stores as JSON."""
    try:
        table: Any = json.loads(value)
    except ValueError:
        return value
    return ", ".join(f"{name} {entry}" for name, entry in table.items()) if isinstance(table, dict) else value


def _names(tables: Iterable[Mapping[str, object]]) -> list[str]:
    """Keys of several tables, each once, in their order."""
    return list(dict.fromkeys(name for table in tables for name in table))
