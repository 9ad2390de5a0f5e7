"""Common parts of the generated pages: tables of physics metrics, and provenance."""

from collections.abc import Mapping

from calogan.reporting.tables import number
from calogan.validation.report import ValidationReport


def physics_rows(
    reports: Mapping[str, ValidationReport], shown: Mapping[str, str], *, floor: str = "float32"
) -> list[str]:
    """Rows of metrics and gates, with a column for the floor and for each report.

    Args:
        reports: reports by candidate.
        shown: titles by name of the metric.
        floor: the report with the floor, Geant4 against Geant4.
    """
    columns = [reports[floor].floor, *(report.metrics for report in reports.values())]
    rows = [
        _row(title, [number(metrics.get(f"physics/{name}")) for metrics in columns]) for name, title in shown.items()
    ]
    verdict_lists = [[result.verdict for result in report.gates.values()] for report in reports.values()]
    return rows + [
        _row(
            f"gates {verdict} (gates/default.toml)", ["", *(str(verdicts.count(verdict)) for verdicts in verdict_lists)]
        )
        for verdict in ("passed", "undecided", "failed")
    ]


def header_row(names: Mapping[str, object]) -> list[str]:
    """Head of a table with a column for the floor and for each name."""
    return [_row("", ["Geant4 (floor)", *names]), "|---|---|" + "---|" * len(names)]


def provenance_section(header: Mapping[str, str]) -> list[str]:
    """The last section of a page."""
    return ["## Provenance", "", *(f"- {name}: `{value}`" for name, value in header.items()), ""]


def _row(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"
