"""Hook of mkdocs: fills in the tables that pages take from the package, so that they cannot go stale."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import list_rooms

from calogan.reporting import glossary
from calogan.validation.gates import load_gates


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put each table where its comment stands."""
    for comment, table in TABLES.items():
        if comment in markdown:
            markdown = markdown.replace(comment, table())
    return markdown


def gates() -> str:
    """The limits of the package."""
    rows = []
    for name, gate in load_gates("default").items():
        metric = glossary.metric(name)
        rows.append(
            f"| {metric.title} | {metric.scale * gate.limit:g} {metric.unit} | {metric.scale * gate.best:g} | "
            f"`{name.removeprefix('physics/')}` |"
        )
    return "\n".join(["| metric | limit | best | name |", "|---|---|---|---|", *rows])


def metrics() -> str:
    """Title, definition and source of every metric."""
    return "\n".join(_metrics())


def _metrics() -> Iterator[str]:
    for metric in glossary.metrics():
        unit = f", in {metric.unit}" if metric.unit else ""
        yield f"`{metric.name}`\n:   **{metric.title}{unit}.** {metric.formula}. *Source: {metric.source}.*\n"


TABLES: dict[str, Callable[[], str]] = {
    "<!-- gates -->": gates,
    "<!-- metrics -->": metrics,
    "<!-- rooms -->": list_rooms.table,
}
