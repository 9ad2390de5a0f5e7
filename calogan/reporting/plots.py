"""Figures of validation reports; each function returns a matplotlib Figure.

Nothing here uses `pyplot`, so figures can be made in servers and threads. Candidates differ by colour (Okabe and Ito,
two of Tol), marker and line, so that colour-blind readers and prints in black and white can distinguish them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from calogan.reporting import glossary
from calogan.reporting.glossary import CurveDefinition
from calogan.reporting.pictures import blank, save, shower_picture
from calogan.validation.observables import Floats
from calogan.validation.report import ValidationReport
from calogan.validation.standard import Curve

__all__ = [
    "FEW",
    "cell_energy",
    "colours",
    "curve",
    "curve_names",
    "published_profiles",
    "sampling_fraction",
    "save_figures",
    "shower_picture",
    "shower_shapes",
]

Reports = Mapping[str, ValidationReport]
_Line = Literal["-", "--", "-.", ":"] | tuple[int, tuple[int, ...]]

_BLACK = "black"
# Colour, marker and line; the most distinct ones first.
_STYLES: tuple[tuple[str, str, _Line], ...] = (
    ("#D55E00", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1))),
    ("#56B4E9", "P", (0, (3, 1, 1, 1, 1, 1))),
    ("#332288", "X", (0, (1, 1))),
    ("#882255", "*", (0, (8, 3))),
)
FEW = 3  # with more candidates than this, bands hide each other and are left out in favour of error bars
_MOST_MARKERS = 100  # in a panel above the comparison; with more, lines alone are clearer
_DECADES = 6  # limit of a logarithmic axis: below is noise


@dataclass(frozen=True)
class _Style:
    """Style of a candidate; `place` is the position of its markers within a bin, as a share of the width."""

    colour: str
    marker: str
    line: _Line
    place: float
    band: bool


def shower_shapes(reports: Reports, *, reference_name: str = "reference") -> Figure:
    """Draw the mean profiles along x, y and z: linear, logarithmic, and as ratios to the reference.

    Args:
        reports: reports with the same reference, by their name in the legend, such as the precision.
        reference_name: name of the reference in the legend.
    """
    return _figure_of(("x", "y", "z"), reports, (13.5, 9.0), reference_name)


def published_profiles(reports: Reports, *, reference_name: str = "reference") -> Figure:
    """Draw figures 5 and 6 of arXiv 2103.10142: the mean profiles along y and z, linear, logarithmic, and as ratios."""
    return _figure_of(("y", "z"), reports, (13.5, 10.0), reference_name)


def sampling_fraction(reports: Reports, *, reference_name: str = "reference") -> Figure:
    """Draw the sampling fraction ECAL/Ep and its resolution against Ep, with ratios to the reference."""
    return _figure_of(("sampling_fraction", "resolution"), reports, (11, 5.8), reference_name)


def cell_energy(reports: Reports, *, reference_name: str = "reference") -> Figure:
    """Draw the spectrum of the energies of single cells, with the ratio to the reference."""
    return _figure_of(("cell_energy",), reports, (7, 6), reference_name)


def curve(name: str, reports: Reports, *, reference_name: str = "reference") -> Figure:
    """Draw one curve, with the ratio to the reference, or the difference if the reference has negative values.

    Args:
        name: name of the curve; reports without it are left out.
        reports: as for `shower_shapes`.
        reference_name: name of the reference in the legend.
    """
    subset = {label: report for label, report in reports.items() if name in report.curves}
    tall = len(glossary.curve(name).views) > 1
    return _figure_of((name,), subset, (5.4, 6.8 if tall else 4.8), reference_name)


def save_figures(reports: Reports, folder: Path, *, reference_name: str = "reference") -> list[Path]:
    """Write figures as PNG: shower_shapes, sampling_fraction, cell_energy, and one for each other curve.

    Raises:
        OutputError: the folder is missing or cannot be written to.
    """
    together: tuple[Callable[..., Figure], ...] = (shower_shapes, sampling_fraction, cell_energy)
    makers = {make.__name__: make for make in together}
    combined = {"x", "y", "z", "sampling_fraction", "resolution", "cell_energy"}
    others = [name for name in curve_names(reports) if name not in combined]
    paths = [folder / f"{name}.png" for name in (*makers, *others)]
    for path in paths:
        make = makers.get(path.stem)
        figure = (
            make(reports, reference_name=reference_name)
            if make
            else curve(path.stem, reports, reference_name=reference_name)
        )
        save(figure, path)
    return paths


def curve_names(reports: Reports) -> list[str]:
    """Names of the curves in any of the reports, in the order of the reports."""
    return list(dict.fromkeys(name for report in reports.values() for name in report.curves))


def colours(n: int) -> list[str]:
    """Colours of n candidates in every figure, as `#D55E00`."""
    return [style.colour for style in _styles(n)]


def _figure_of(names: Sequence[str], reports: Reports, size: tuple[float, float], reference_name: str) -> Figure:
    """Draw curves side by side: each in its own column, with its views on top and the comparison below."""
    columns = [{label: report.curves[name] for label, report in reports.items()} for name in names]
    definitions = [_definition(name, list(column.values())) for name, column in zip(names, columns, strict=True)]
    views = len(definitions[0].views)
    figure = blank(*size)
    heights = (*[3.0] * views, 2.2 if views > 1 else 1.6)
    panels = figure.subplots(views + 1, len(names), sharex="col", squeeze=False, height_ratios=heights)
    for definition, column, stack in zip(definitions, columns, panels.T, strict=True):
        curves = list(column.values())
        for panel, view in zip(stack[:-1], definition.views, strict=True):
            _draw(panel, curves, definition, logarithmic=view == "log")
            panel.set_ylabel(definition.y)
        _draw_comparison(stack[-1], curves, definition, reference_name)
        stack[-1].set_xlabel(definition.x)
        if len(names) > 1:
            stack[0].set_title(definition.title)
    figure.align_ylabels()
    _add_legend(figure, [reference_name, *reports])
    return figure


def _add_legend(figure: Figure, names: Sequence[str]) -> None:
    handles = [Line2D([], [], color=_BLACK, linewidth=1.6)]
    handles += [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.line, markersize=5)
        for style in _styles(len(names) - 1)
    ]
    # About thirteen letters to an inch; the figure grows by the height of the legend.
    columns = max(1, min(len(names), int(13 * figure.get_figwidth() / (6 + max(map(len, names))))))
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(names) / columns))
    legend = figure.legend(handles, ["-"] * len(names), loc="outside upper center", ncols=columns, frameon=False)
    # Set afterwards: matplotlib leaves out labels that start with an underscore.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)


def _definition(name: str, curves: Sequence[Curve]) -> CurveDefinition:
    """Look up the style of a curve, and choose by its values what the table leaves open."""
    definition, edges, reference = glossary.curve(name), curves[0].edges, curves[0].reference
    if definition.log_x is None:
        definition = replace(definition, log_x=bool(edges[0] > 0 and edges[-1] > 100 * edges[0]))
    if not definition.views:
        values = reference[np.isfinite(reference) & (reference != 0)]
        steep = len(values) > 0 and values.min() > 0 and values.max() > 300 * values.min()
        definition = replace(definition, views=("log" if steep else "linear",))
    return definition


def _draw(panel: Axes, curves: Sequence[Curve], definition: CurveDefinition, *, logarithmic: bool) -> None:
    """Draw the reference once and each candidate over it, with bands or bars of one standard deviation."""
    first, scale = curves[0], definition.scale
    _set_horizontal(panel, first.edges, definition)
    _steps(panel, first.edges, scale * first.reference, _BLACK, "-")
    _band(panel, first.edges, scale * first.reference, scale * first.reference_error, _BLACK)
    crowded = len(curves) * len(first.reference) > _MOST_MARKERS
    for curve, style in zip(curves, _styles(len(curves)), strict=True):
        values, errors = scale * curve.candidate, scale * curve.candidate_error
        _candidate(panel, curve.edges, values, errors, style, markers=not crowded)
    everything = scale * np.concatenate([first.reference, *(curve.candidate for curve in curves)])
    everything = everything[np.isfinite(everything)]
    positive = everything[everything > 0]
    if logarithmic and len(positive):
        panel.set_yscale("log")
        panel.set_ylim(max(0.5 * positive.min(), positive.max() * 10.0**-_DECADES), 2 * positive.max())
    elif len(positive) and 0 <= everything.min() < 0.5 * positive.max():
        panel.set_ylim(bottom=0, top=1.12 * positive.max())


def _draw_comparison(panel: Axes, curves: Sequence[Curve], definition: CurveDefinition, reference_name: str) -> None:
    """Draw candidate / reference, or candidate - reference if it has negative values; grey is the reference's error."""
    first = curves[0]
    relative = not (first.reference < 0).any()
    equal = 1.0 if relative else 0.0
    comparisons = [_compare(curve, definition, relative=relative) for curve in curves]
    _set_horizontal(panel, first.edges, definition)
    level = np.full_like(first.reference, equal)
    _steps(panel, first.edges, level, _BLACK, "-")
    _band(panel, first.edges, level, comparisons[0][2], _BLACK)
    # A few bins may lie outside the panel, so that one empty bin does not flatten all others.
    distances = [np.abs(values - equal) for values, *_ in comparisons if np.isfinite(values).any()]
    furthest = max((1.2 * float(np.nanquantile(distance, 0.96)) for distance in distances), default=0.0)
    reach = min(1.0, max(0.1, furthest)) if relative else furthest or 1.0
    panel.set_ylim(equal - reach, equal + reach)
    for (values, error, _), curve, style in zip(comparisons, curves, _styles(len(curves)), strict=True):
        _candidate(panel, curve.edges, values, error, style, markers=True)
        for end, beyond, angle in ((-reach, values < equal - reach, 180), (reach, values > equal + reach, 0)):
            places = _places(panel, curve.edges, style)[beyond]
            # An arrow at the edge of the panel.
            level = np.full(len(places), equal + end)
            panel.scatter(places, level, s=20, color=style.colour, marker=(3, 0, angle), clip_on=False)
    panel.set_ylabel(f"{'ratio to' if relative else 'minus'}\n{reference_name}", parse_math=False)
    panel.grid(axis="y", linewidth=0.4, alpha=0.6)


def _compare(curve: Curve, definition: CurveDefinition, *, relative: bool) -> tuple[Floats, Floats, Floats]:
    """Ratio or difference of candidate and reference, its error, and the reference's error; NaN for a ratio to 0."""
    if not relative:
        scale = definition.scale
        difference = scale * (curve.candidate - curve.reference)
        return difference, scale * curve.candidate_error, scale * curve.reference_error
    with np.errstate(invalid="ignore"):
        reference = np.where(curve.reference > 0, curve.reference, np.nan)
    return curve.candidate / reference, curve.candidate_error / reference, curve.reference_error / reference


def _candidate(panel: Axes, edges: Floats, values: Floats, errors: Floats, style: _Style, *, markers: bool) -> None:
    """Draw steps, and in each bin a marker with an error bar next to those of the other candidates."""
    _steps(panel, edges, values, style.colour, style.line)
    if style.band:
        _band(panel, edges, values, errors, style.colour)
    if not markers:
        return
    places = _places(panel, edges, style)
    panel.plot(places, values, marker=style.marker, color=style.colour, markersize=2.8, linestyle="none")
    # One interrupted line for all bars: separate bars would take up half of an SVG file.
    bars = np.stack([values - errors, values + errors, np.full_like(values, np.nan)], axis=1).ravel()
    panel.plot(np.repeat(places, 3), bars, color=style.colour, linewidth=0.8)


def _steps(panel: Axes, edges: Floats, values: Floats, colour: str, line: _Line) -> None:
    panel.stairs(values, edges, baseline=None, color=colour, linestyle=line, linewidth=1.1)


def _band(panel: Axes, edges: Floats, values: Floats, errors: Floats, colour: str) -> None:
    panel.stairs(values + errors, edges, baseline=values - errors, fill=True, color=colour, alpha=0.2, linewidth=0)


def _places(panel: Axes, edges: Floats, style: _Style) -> Floats:
    """Positions of a candidate's marker in each bin, shape (k,)."""
    low, high = edges[:-1], edges[1:]
    if panel.get_xscale() == "log":
        return low * (high / low) ** style.place
    return low + (high - low) * style.place


def _set_horizontal(panel: Axes, edges: Floats, definition: CurveDefinition) -> None:
    if definition.log_x:
        panel.set_xscale("log")
        if edges[0] >= 1 and edges[-1] <= 1e4:
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlim(edges[0], edges[-1])


def _styles(n: int) -> list[_Style]:
    """Styles of n candidates; their markers are spread over the middle two thirds of a bin."""
    return [
        _Style(*_STYLES[i % len(_STYLES)], place=0.5 + (2 / 3) * ((i + 0.5) / n - 0.5), band=n <= FEW) for i in range(n)
    ]
