"""A comparison as one self-contained HTML file: verdicts, tables, figures, definitions, provenance."""

import base64
import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calogan.atomic_files import write_text
from calogan.errors import ConfigError
from calogan.events import EventSource
from calogan.reporting import glossary, pictures, plots, spread_tables, tables
from calogan.reporting.tables import Reports, Speed
from calogan.validation.gates import Verdict
from calogan.validation.report import report_to_dict

MOST_CANDIDATES = 8
TITLE = "Validation of calorimeter showers"
SYMBOLS: Mapping[Verdict, str] = {"passed": "✓", "failed": "✗", "undecided": "?", "not measured": "\N{EN DASH}"}

Showers = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Picture:
    """A figure with its caption."""

    title: str
    source: str
    alt: str
    shows: str = ""
    good: str = ""


def render(
    reports: Reports,
    *,
    reference_name: str = "Geant4",
    title: str = TITLE,
    pictures: Showers | None = None,
    speed: Speed | None = None,
) -> str:
    """Make the page of a comparison; the same input gives the same bytes.

    Args:
        reports: one to eight reports by the name of the candidate, all against the same reference.
        reference_name: display name of the reference.
        title: heading of the page.
        pictures: single showers to draw, by title; each of shape (25, 25, 25), axes (x, y, z), GeV.
        speed: timing results of each candidate, by its name and by the name of the quantity, such as `ms per shower`.

    Returns:
        HTML with all images and styles embedded.

    Raises:
        ConfigError: there are no reports, too many, or reports against different references.
    """
    _check(reports)
    return _template().render(
        title=title,
        reference=reference_name,
        names=list(reports),
        colours=plots.colours(len(reports)),
        symbols=SYMBOLS,
        floor=any(report.floor for report in reports.values()),
        showers=next(iter(reports.values())).showers.get("reference"),
        headlines=tables.headlines(reports),
        summary=tables.summary(reports, speed or {}),
        gates=tables.gate_rows(reports),
        metrics=tables.metric_rows(reports),
        spreads=spread_tables.spread_tables(reports),
        groups=_figures(reports, reference_name),
        pictures=_pictures(pictures or {}),
        definitions=tables.used_definitions(reports),
        counts=tables.counts(reports),
        provenance=tables.provenance(reports),
        few=len(reports) <= plots.FEW,
    )


def write_html(
    path: Path,
    reports: Reports,
    *,
    reference_name: str = "Geant4",
    title: str = TITLE,
    pictures: Showers | None = None,
    speed: Speed | None = None,
) -> Path:
    """Write the page of `render` atomically.

    Raises:
        ConfigError: as for `render`.
        OutputError: the file cannot be written.
    """
    page = render(reports, reference_name=reference_name, title=title, pictures=pictures, speed=speed)
    write_text(path, page)
    return path


def typical_showers(sources: Mapping[str, EventSource]) -> dict[str, NDArray[np.float32]]:
    """Pick one shower of each sample, all of similar energy, for the pictures of `render`.

    Args:
        sources: samples by name, the reference first; the showers closest to its median energy are picked.

    Returns:
        The showers by title, each of shape (25, 25, 25), GeV.
    """
    median = float(np.median(next(iter(sources.values())).energy))
    showers = {}
    for name, source in sources.items():
        nearest = int(np.argmin(np.abs(source.energy - median)))
        showers[f"{name}, {source.energy[nearest]:.0f} GeV electron"] = source[nearest : nearest + 1].showers[0]
    return showers


def to_json(reports: Reports, *, reference_name: str = "Geant4") -> str:
    """All reports of a comparison as one JSON text, by the name of the candidate.

    Raises:
        ConfigError: see `render`.
    """
    _check(reports)
    candidates = {name: report_to_dict(report) for name, report in reports.items()}
    return json.dumps({"reference": reference_name, "candidates": candidates}, indent=1, allow_nan=False) + "\n"


def _check(reports: Reports) -> None:
    if not 1 <= len(reports) <= MOST_CANDIDATES:
        raise ConfigError(f"{len(reports)} reports; expected 1 to {MOST_CANDIDATES} candidates in a comparison")
    sizes = {name: report.showers.get("reference") for name, report in reports.items()}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(f"the reports have references of different size ({text}); validate all against the same one")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("calogan", "data/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _figures(reports: Reports, reference_name: str) -> dict[str, list[_Picture]]:
    """Figures by section heading, in the order of the table of definitions."""
    order = [template.name for template in glossary.curves()]
    definitions = [glossary.curve(name) for name in plots.curve_names(reports)]
    groups: dict[str, list[_Picture]] = {}
    for curve in sorted(definitions, key=lambda curve: _place(order, curve.template)):
        figure = plots.curve(curve.name, reports, reference_name=reference_name)
        alt = f"{curve.title}: {curve.y} against {curve.x}. {_deviations(reports, curve.name, reference_name)}"
        groups.setdefault(curve.group, []).append(_Picture(curve.title, _svg(figure), alt, curve.shows, curve.good))
    return groups


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _deviations(reports: Reports, name: str, reference_name: str) -> str:
    """Describe the panel of ratios in words."""
    ranges = []
    for label, report in reports.items():
        curve = report.curves.get(name)
        where = curve.reference > 0 if curve else np.zeros(0, bool)
        if curve and where.any():
            ratio = curve.candidate[where] / curve.reference[where]
            ranges.append(f"{label} {np.nanmin(ratio):.2f} to {np.nanmax(ratio):.2f}")
    return f"Ratio to {reference_name} over all bins: {'; '.join(ranges)}." if ranges else "No bin could be compared."


def _pictures(showers: Showers) -> list[_Picture]:
    return [
        _Picture(name, _png(figure), f"{name}: one shower from the side, from above and from the front.")
        for name, figure in pictures.shower_pictures(showers).items()
    ]


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "calogan", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _data_uri("svg+xml", buffer)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return _data_uri("png", buffer)


def _data_uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
