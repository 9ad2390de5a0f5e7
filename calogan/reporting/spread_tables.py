"""Spreads and means in bins of Ep as one compact table for each candidate, without markup."""

from dataclasses import dataclass

from calogan.reporting import glossary
from calogan.reporting.tables import Cell, Reports, limit, number
from calogan.validation import spreads
from calogan.validation.report import ValidationReport


@dataclass(frozen=True)
class SpreadRow:
    """A quantity in all bins of Ep.

    Attributes:
        title: for readers.
        name: name of the metric of the worst bin, without `physics/`.
        cells: deviation in each bin, in %; empty where it is not measured.
        gate: verdict and limit of the gate on the worst bin; empty if it has none.
    """

    title: str
    name: str
    cells: tuple[str, ...]
    gate: Cell


@dataclass(frozen=True)
class SpreadTable:
    """The table of a candidate.

    Attributes:
        bins: limits of each bin in GeV, for the heading.
        rows: spreads first, then means.
    """

    bins: tuple[str, ...]
    rows: tuple[SpreadRow, ...]


def spread_table(report: ValidationReport) -> SpreadTable:
    """Arrange the spreads and means of a report; without rows if it has none."""
    table = spreads.rows(report.metrics)
    bins = spreads.columns(table)
    rows = []
    for row in table:
        definition = glossary.metric(row.metric)
        cells = tuple(number(row.cells.get(limits), scale=definition.scale) for limits in bins)
        result = report.gates.get(row.metric)
        gate = Cell() if result is None else Cell(limit(result.gate, definition), result.verdict, result.explanation)
        rows.append(SpreadRow(definition.title.partition(",")[0], definition.name, cells, gate))
    return SpreadTable(tuple(f"{low}-{high}" for low, high in bins), tuple(rows))


def spread_tables(reports: Reports) -> dict[str, SpreadTable]:
    """The table of each candidate that has spreads."""
    tables = {name: spread_table(report) for name, report in reports.items()}
    return {name: table for name, table in tables.items() if table.rows}
