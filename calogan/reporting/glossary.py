"""Titles, definitions and drawing styles of the metrics and curves of a report, read from a packaged table."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calogan.packaged import data_file
from calogan.validation.spreads import QUANTITIES

_FIELDS = {"axis": "[xyz]", "end": "first|last", "low": r"\d+", "high": r"\d+", "quantity": "|".join(QUANTITIES)}


@dataclass(frozen=True)
class MetricDefinition:
    """Explanation of a metric for readers of a report.

    Attributes:
        name: name in the report without `physics/`; in the table a template such as `{axis}_mean`.
        title: title for readers.
        formula: definition in words; empty if there is none.
        source: reference of the definition.
        unit: unit of the value; `%` for a fraction that is displayed times 100.
        template: name of its entry in the table; empty if there is none.
    """

    name: str
    title: str
    formula: str = ""
    source: str = ""
    unit: str = ""
    template: str = ""

    @property
    def scale(self) -> float:
        """Factor that converts a value to `unit`."""
        return 100.0 if self.unit == "%" else 1.0


@dataclass(frozen=True)
class CurveDefinition:
    """Style and caption of a curve.

    Attributes:
        name: name in the report; in the table a template.
        title: title for readers.
        x: label of the horizontal axis, with the unit.
        y: label of the vertical axis, with the unit.
        group: heading of its section in the report.
        percent: whether the values are displayed times 100.
        log_x: whether the horizontal axis is logarithmic; None to decide by the bins.
        views: the panels above the comparison, `linear` or `log`; empty to decide by the values.
        shows: caption: what the figure shows.
        good: caption: what a good candidate looks like.
        template: name of its entry in the table; empty if there is none.
    """

    name: str
    title: str
    x: str = "bin"
    y: str = "value"
    group: str = "Further figures"
    percent: bool = False
    log_x: bool | None = None
    views: tuple[str, ...] = ("linear",)
    shows: str = ""
    good: str = "The candidate follows the reference within the bands."
    template: str = ""

    @property
    def scale(self) -> float:
        """Factor that the values are multiplied by for display."""
        return 100.0 if self.percent else 1.0


def metric(name: str) -> MetricDefinition:
    """Look up a metric, with or without `physics/`; the title of one without an entry is its name."""
    plain = name.removeprefix("physics/")
    for template in metrics():
        fields = _match(template.name, plain)
        if fields is not None:
            words = {key: quantity(value) if key == "quantity" else value for key, value in fields.items()}
            return replace(template, name=plain, title=template.title.format(**words), template=template.name)
    return MetricDefinition(plain, _words(plain))


def curve(name: str) -> CurveDefinition:
    """Look up a curve; one without an entry is titled by its name and drawn in a style chosen by its values."""
    for template in curves():
        fields = _match(template.name, name)
        if fields is not None:
            texts = {key: getattr(template, key).format(**fields) for key in ("title", "x", "y", "shows", "good")}
            return replace(template, name=name, template=template.name, **texts)
    return CurveDefinition(name, _words(name).capitalize(), views=())


def general_title(definition: MetricDefinition) -> str:
    """Title of an entry of the table that covers all metrics of its template."""
    words = {"axis": "x, y or z", "end": "first or last", "quantity": "a number of the shower"}
    return definition.title.replace("{low}-{high} GeV", "in a bin of Ep").format(**words)


@functools.cache
def metrics() -> tuple[MetricDefinition, ...]:
    """All metrics of the table, in its order; names and titles are templates."""
    return tuple(MetricDefinition(**entry) for entry in _table()["metric"])


@functools.cache
def curves() -> tuple[CurveDefinition, ...]:
    """All curves of the table, in its order; texts are templates."""
    return tuple(
        CurveDefinition(**entry | {"views": tuple(entry.get("views", ["linear"]))}) for entry in _table()["curve"]
    )


def quantity(name: str) -> str:
    """Words for one of `spreads.QUANTITIES`."""
    return str(_table()["quantities"][name])


def summary() -> tuple[str, ...]:
    """Names of the most informative metrics, without `physics/`."""
    return tuple(_table()["summary"])


@functools.cache
def _table() -> dict[str, Any]:
    text = data_file("glossary.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _match(template: str, name: str) -> Mapping[str, str] | None:
    match = _pattern(template).fullmatch(name)
    return match.groupdict() if match else None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", lambda field: f"(?P<{field[1]}>{_FIELDS[field[1]]})", template))


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", ": ")
