"""What the metrics and curves of a report are called, how they are defined, and how they are drawn: a packaged table."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calogan.packaged import data_file

_FIELDS = {"axis": "[xyz]", "end": "first|last", "low": r"\d+", "high": r"\d+"}


@dataclass(frozen=True)
class MetricDefinition:
    """A metric for a reader.

    Attributes:
        name: its name in the report without `physics/`; in the table a template such as `{axis}_mean`.
        title: what to call it.
        formula: how it is computed, in words; empty when not known.
        source: where the definition comes from.
        unit: `%` for a fraction that is shown times 100.
        template: the name of its entry in the table, empty when there is none.
    """

    name: str
    title: str
    formula: str = ""
    source: str = ""
    unit: str = ""
    template: str = ""

    @property
    def scale(self) -> float:
        """By what a value is multiplied to be shown in `unit`."""
        return 100.0 if self.unit == "%" else 1.0


@dataclass(frozen=True)
class CurveDefinition:
    """How a curve is drawn and what its caption says.

    Attributes:
        name: its name in the report; in the table a template.
        title: what to call it.
        x: label of the horizontal axis, with the unit.
        y: label of the vertical axis, with the unit.
        group: heading under which it stands.
        percent: whether the values are shown times 100.
        log_x: whether the horizontal axis is logarithmic.
        views: the panels above the comparison, `linear` or `log`; empty to choose by the values.
        seen: what the figure shows.
        good: what it looks like for a good candidate.
        template: the name of its entry in the table, empty when there is none.
    """

    name: str
    title: str
    x: str = "bin"
    y: str = "value"
    group: str = "Further figures"
    percent: bool = False
    log_x: bool | None = None
    views: tuple[str, ...] = ("linear",)
    seen: str = ""
    good: str = "The candidate follows the reference within the bands."
    template: str = ""

    @property
    def scale(self) -> float:
        """By what the values are multiplied to be shown."""
        return 100.0 if self.percent else 1.0


def metric(name: str) -> MetricDefinition:
    """Look up a metric, with or without `physics/`; one that is not in the table is called by its name."""
    plain = name.removeprefix("physics/")
    for template in metrics():
        fields = _match(template.name, plain)
        if fields is not None:
            return replace(template, name=plain, title=template.title.format(**fields), template=template.name)
    return MetricDefinition(plain, _words(plain))


def curve(name: str) -> CurveDefinition:
    """Look up a curve; one that is not in the table is called by its name and drawn as its values suggest."""
    for template in curves():
        fields = _match(template.name, name)
        if fields is not None:
            texts = {key: getattr(template, key).format(**fields) for key in ("title", "x", "y", "seen", "good")}
            return replace(template, name=name, template=template.name, **texts)
    return CurveDefinition(name, _words(name).capitalize(), views=())


def general_title(found: MetricDefinition) -> str:
    """Title of an entry of the table, for all that it stands for."""
    return found.title.replace("{low}-{high} GeV", "in a bin of Ep").format(axis="x, y or z", end="first or last")


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


def summary() -> tuple[str, ...]:
    """Names of the metrics that tell most, without `physics/`."""
    return tuple(_table()["summary"])


@functools.cache
def _table() -> dict[str, Any]:
    text = data_file("glossary.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _match(template: str, name: str) -> Mapping[str, str] | None:
    found = _pattern(template).fullmatch(name)
    return found.groupdict() if found else None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", lambda field: f"(?P<{field[1]}>{_FIELDS[field[1]]})", template))


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", ": ")
