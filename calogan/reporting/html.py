"""A comparison as one HTML file that needs nothing else: verdicts, tables, figures, definitions, provenance."""

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
from calogan.reporting import glossary, pictures, plots, tables
from calogan.reporting.tables import Reports, Speed
from calogan.validation.gates import Verdict
from calogan.validation.report import report_to_dict

MOST_CANDIDATES = 8
TITLE = "Validation of calorimeter showers"
SYMBOLS: Mapping[Verdict, str] = {"passed": "✓", "failed": "✗", "undecided": "?", "not measured": "\N{EN DASH}"}

Showers = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Picture:
    """A figure with what is written below it."""

    title: str
    source: str
    alt: str
    seen: str = ""
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
        reports: by the name of the candidate, one to eight, all against the same reference.
        reference_name: what to call the reference.
        title: heading of the page.
        pictures: single showers to draw beside each other, by title; each of shape (25, 25, 25), axes (x, y, z), GeV.
        speed: by the name of the candidate: figures by what to call them, such as `ms per shower`.

    Returns:
        HTML with everything it shows inside.

    Raises:
        ConfigError: no report, too many, or reports of different references.
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
    """Write the page of `render`; whoever reads the file sees the old or the new one, never a part.

    Raises:
        ConfigError: as for `render`.
        OutputError: the file cannot be written.
    """
    page = render(reports, reference_name=reference_name, title=title, pictures=pictures, speed=speed)
    write_text(path, page)
    return path


def typical_showers(sources: Mapping[str, EventSource]) -> dict[str, NDArray[np.float32]]:
    """Pick a shower of each sample, all of nearly one energy, for the pictures of `render`.

    Args:
        sources: samples by name, the reference first; its median energy is the one looked for.
    """
    wanted = float(np.median(next(iter(sources.values())).energy))
    found = {}
    for name, source in sources.items():
        which = int(np.argmin(np.abs(source.energy - wanted)))
        found[f"{name}, {source.energy[which]:.0f} GeV electron"] = source[which : which + 1].showers[0]
    return found


def to_json(reports: Reports, *, reference_name: str = "Geant4") -> str:
    """All reports of a comparison as one JSON text, by the name of the candidate.

    Raises:
        ConfigError: as for `render`.
    """
    _check(reports)
    candidates = {name: report_to_dict(report) for name, report in reports.items()}
    return json.dumps({"reference": reference_name, "candidates": candidates}, indent=1, allow_nan=False) + "\n"


def _check(reports: Reports) -> None:
    if not 1 <= len(reports) <= MOST_CANDIDATES:
        raise ConfigError(f"{len(reports)} reports; a comparison shows 1 to {MOST_CANDIDATES} candidates")
    sizes = {name: report.showers.get("reference") for name, report in reports.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(f"the reports have references of different size ({found}); validate all against the same one")


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
    """Figures by the heading they stand under, in the order of the table of definitions."""
    listed = [template.name for template in glossary.curves()]
    described = [glossary.curve(name) for name in plots.curve_names(reports)]
    groups: dict[str, list[_Picture]] = {}
    for found in sorted(described, key=lambda found: _place(listed, found.template)):
        figure = plots.curve(found.name, reports, reference_name=reference_name)
        alt = f"{found.title}: {found.y} against {found.x}. {_deviations(reports, found.name, reference_name)}"
        groups.setdefault(found.group, []).append(_Picture(found.title, _svg(figure), alt, found.seen, found.good))
    return groups


def _place(listed: Sequence[str], name: str) -> int:
    return listed.index(name) if name in listed else len(listed)


def _deviations(reports: Reports, name: str, reference_name: str) -> str:
    """Say in words what the panel of ratios shows."""
    found = []
    for label, report in reports.items():
        curve = report.curves.get(name)
        where = curve.reference > 0 if curve else np.zeros(0, bool)
        if curve and where.any():
            ratio = curve.candidate[where] / curve.reference[where]
            found.append(f"{label} {np.nanmin(ratio):.2f} to {np.nanmax(ratio):.2f}")
    return f"Ratio to {reference_name} over all bins: {'; '.join(found)}." if found else "No bin could be compared."


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
