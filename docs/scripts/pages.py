"""Common parts of the generated pages: tables of metrics, and provenance."""

import sys
from collections.abc import Iterable, Mapping

from calogan.reporting.tables import number
from calogan.validation.report import ValidationReport


def row(title: str, cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {title} | {' | '.join(cells)} |"


def head(names: Iterable[str]) -> list[str]:
    """Head of a table with a column for each name, after that of the titles."""
    columns = list(names)
    return [row("", columns), "|---|" + "---|" * len(columns)]


def physics_table(reports: Mapping[str, ValidationReport], shown: Mapping[str, str], titles: list[str]) -> list[str]:
    """Metrics and gates, with a column for the floor and for each report.

    Args:
        reports: reports by candidate; the first one has the floor, Geant4 against Geant4.
        shown: titles by name of the metric.
        titles: titles of the candidates.
    """
    columns = [next(iter(reports.values())).floor, *(report.metrics for report in reports.values())]
    verdicts = [[result.verdict for result in report.gates.values()] for report in reports.values()]
    return [
        *head(["Geant4 (floor)", *titles]),
        *(row(title, [number(metrics.get(f"physics/{name}")) for metrics in columns]) for name, title in shown.items()),
        *(
            row(f"gates {verdict}", ["", *(str(each.count(verdict)) for each in verdicts)])
            for verdict in ("passed", "undecided", "failed")
        ),
    ]


def provenance_section(header: Mapping[str, str]) -> list[str]:
    """The last section of a page."""
    return ["## Provenance", "", *(f"- {name}: `{value}`" for name, value in header.items()), ""]


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)
