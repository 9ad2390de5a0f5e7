"""Hook of mkdocs: fills pages with content from the package, so that it cannot become outdated."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import click
import list_rooms

from calogan.cli.main import cli
from calogan.reporting import glossary
from calogan.validation.gates import load_gates

WIDE = {"metrics.md", "results.md", "training-log.md"}
COLUMNS = 96  # of the help of a command


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace each comment by its content, and keep a value and its error on one line."""
    for comment, part in PARTS.items():
        if comment in markdown:
            markdown = markdown.replace(comment, part())
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    return markdown.replace(" ± ", "\u00a0±\u00a0")


def commands() -> str:
    """The help of every command, in the order of the data."""
    return "\n\n".join(_commands())


def _commands() -> Iterator[str]:
    with click.Context(cli, info_name="calogan", **{**cli.context_settings, "terminal_width": COLUMNS}) as context:
        yield f"```text\n{cli.get_help(context)}\n```"
        for name, command in cli.commands.items():
            with click.Context(command, info_name=name, parent=context) as below:
                yield f"## {name}\n\n```text\n{command.get_help(below)}\n```"
                for part, inner in command.commands.items() if isinstance(command, click.Group) else ():
                    with click.Context(inner, info_name=part, parent=below) as deeper:
                        yield f"### {name} {part}\n\n```text\n{inner.get_help(deeper)}\n```"


def gates() -> str:
    """The packaged limits."""
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


PARTS: dict[str, Callable[[], str]] = {
    "<!-- commands -->": commands,
    "<!-- gates -->": gates,
    "<!-- metrics -->": metrics,
    "<!-- rooms -->": list_rooms.table,
}
