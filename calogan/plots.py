"""Figures of validation reports and of single showers; each function returns a matplotlib Figure.

Nothing here touches `pyplot`, so figures can be made in a server and in threads. Colours are those of Okabe and Ito and
the map is viridis: both can be told apart by colour-blind readers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calogan.errors import ConfigError
from calogan.geometry import CLIC
from calogan.observables import Floats, ecal, projection
from calogan.validation import Curve, ValidationReport

Reports = Mapping[str, ValidationReport]

_REFERENCE_COLOUR = "black"
_CANDIDATE_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_CELL_LABELS = {
    "x": f"x (cells of {CLIC.cell_mm} mm)",
    "y": f"y (cells of {CLIC.cell_mm} mm)",
    "z": "depth z (layer)",
}
_DPI = 130


def shower_shapes(reports: Reports) -> Figure:
    """Draw the mean profiles along x, y and z: linear, logarithmic, and as ratios to the reference.

    Args:
        reports: by the name to put in the legend, such as the precision; all with the same reference.
    """
    figure = _figure(13.5, 8.6)
    rows = figure.subplots(3, 3, sharex="col", height_ratios=(3, 3, 1.6))
    for column, axis in enumerate("xyz"):
        curves = {name: report.curves[axis] for name, report in reports.items()}
        linear, logarithmic, ratio = rows[:, column]
        for panel in (linear, logarithmic):
            _draw(panel, curves, scale=100)
        linear.set_ylim(bottom=0)
        logarithmic.set_yscale("log")
        _draw_ratio(ratio, curves)
        ratio.set_xlabel(_CELL_LABELS[axis])
    for panel in rows[:2, 0]:
        panel.set_ylabel("mean energy (% of Ep)")
    rows[2, 0].set_ylabel("ratio to reference")
    rows[0, 0].legend(frameon=False, loc="upper left")
    return figure


def sampling_fraction(reports: Reports) -> Figure:
    """Draw the sampling fraction ECAL/Ep and its resolution against Ep, with ratios to the reference."""
    figure = _figure(11, 5.6)
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1.4))
    titles = {"sampling_fraction": "mean ECAL / Ep (%)", "resolution": "resolution: std / mean of ECAL / Ep (%)"}
    for column, (quantity, label) in enumerate(titles.items()):
        curves = {name: report.curves[quantity] for name, report in reports.items()}
        main, ratio = panels[:, column]
        _draw(main, curves, scale=100)
        main.set_ylabel(label)
        _draw_ratio(ratio, curves)
        ratio.set_xlabel("Ep (GeV)")
        ratio.set_ylabel("ratio to reference")
    panels[0, 1].legend(frameon=False)
    return figure


def cell_energy(reports: Reports) -> Figure:
    """Draw the spectrum of the energies of single cells, with the ratio to the reference."""
    figure = _figure(7, 6)
    main, ratio = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
    curves = {name: report.curves["cell_energy"] for name, report in reports.items()}
    _draw(main, curves)
    main.set_xscale("log")
    main.set_yscale("log")
    main.set_ylabel("mean number of cells in a shower, per bin")
    main.legend(frameon=False, loc="lower left")
    _draw_ratio(ratio, curves)
    ratio.set_xlabel("energy of a cell (GeV)")
    ratio.set_ylabel("ratio to reference")
    return figure


def shower_picture(
    reference: NDArray[np.float32],
    generated: NDArray[np.float32],
    *,
    reference_title: str = "Geant4",
    generated_title: str = "generated",
) -> Figure:
    """Draw a generated shower beside a reference one: from the side, from above and from the front.

    Args:
        reference: energy in each cell of one shower, shape (25, 25, 25), axes (x, y, z), GeV.
        generated: the same of a generated one.
        reference_title: what to write above the first, such as 'Geant4, 200 GeV electron'.
        generated_title: what to write above the second.
    """
    views = (
        ("side view", "yz", "depth z (layer)", "y (cell)"),
        ("from above", "xz", "depth z (layer)", "x (cell)"),
        ("front view", "xy", "x (cell)", "y (cell)"),
    )
    hottest = max(
        float(projection(shower[None], plane).max()) for shower in (reference, generated) for _, plane, *_ in views
    )
    # Four decades below the hottest column is where single low-energy tracks end; colder columns stay white.
    top = 1e3 * max(hottest, CLIC.threshold_gev)
    norm = LogNorm(top * 1e-4, top)
    figure = _figure(12.5, 8.8)
    for part, title, shower in zip(
        figure.subfigures(2, 1, squeeze=False)[:, 0],
        (reference_title, generated_title),
        (reference, generated),
        strict=True,
    ):
        part.suptitle(f"{title}: ECAL = {1e3 * ecal(shower[None])[0]:.0f} MeV", fontweight="bold")
        panels = part.subplots(1, 3)
        for panel, (view, plane, horizontal, vertical) in zip(panels, views, strict=True):
            image = 1e3 * projection(shower[None], plane)[0]
            # imshow draws rows upwards, so z comes out horizontal by itself; in the front view x has to be made so.
            drawn = image.T if plane == "xy" else image
            seen = panel.imshow(np.ma.masked_less(drawn, top * 1e-4), norm=norm, origin="lower", cmap="viridis")
            panel.set(xlabel=horizontal, ylabel=vertical)
            panel.set_title(view, fontsize="medium", pad=3)
        part.colorbar(seen, ax=panels, label="energy along the\nline of sight (MeV)", shrink=0.9)
    return figure


def save_figures(reports: Reports, folder: Path) -> list[Path]:
    """Write the figures of reports as PNG: shower_shapes.png, sampling_fraction.png, cell_energy.png.

    Raises:
        ConfigError: the folder is missing or cannot be written to.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; make it first")
    makers: tuple[Callable[[Reports], Figure], ...] = (shower_shapes, sampling_fraction, cell_energy)
    paths = [folder / f"{make.__name__}.png" for make in makers]
    for make, path in zip(makers, paths, strict=True):
        try:
            make(reports).savefig(path, dpi=_DPI)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error})") from error
    return paths


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(panel: Axes, curves: Mapping[str, Curve], *, scale: float = 1.0) -> None:
    """Draw the reference once and each candidate over it, steps with bands of one standard deviation."""
    first = next(iter(curves.values()))
    _steps(panel, first.edges, scale * first.reference, scale * first.reference_error, _REFERENCE_COLOUR, "reference")
    for (name, curve), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        _steps(panel, curve.edges, scale * curve.candidate, scale * curve.candidate_error, colour, name)
    panel.margins(x=0)


def _draw_ratio(panel: Axes, curves: Mapping[str, Curve]) -> None:
    """Draw candidate over reference; the reference's own error is the grey band around 1."""
    first = next(iter(curves.values()))
    _steps(
        panel, first.edges, np.ones_like(first.reference), _over(first.reference_error, first), _REFERENCE_COLOUR, None
    )
    distances = [np.array([0.1])]
    for curve, colour in zip(curves.values(), _colours(len(curves)), strict=True):
        ratio, error = _over(curve.candidate, curve), _over(curve.candidate_error, curve)
        _steps(panel, curve.edges, ratio, error, colour, None)
        distances.append(np.abs(ratio - 1))
    # A few bins may lie outside, so that one empty bin does not flatten all others.
    furthest = min(1.0, 1.15 * max(float(np.nanquantile(d, 0.92)) for d in distances if np.isfinite(d).any()))
    panel.set_ylim(1 - furthest, 1 + furthest)
    panel.margins(x=0)


def _steps(panel: Axes, edges: Floats, values: Floats, errors: Floats, colour: str, label: str | None) -> None:
    panel.stairs(values, edges, baseline=None, color=colour, label=label, linewidth=1.4)
    panel.stairs(values + errors, edges, baseline=values - errors, fill=True, color=colour, alpha=0.25, linewidth=0)


def _over(values: Floats, curve: Curve) -> Floats:
    """Values over the reference, NaN where the reference has nothing."""
    return np.divide(values, curve.reference, out=np.full_like(values, np.nan), where=curve.reference > 0)


def _colours(n: int) -> list[str]:
    return [_CANDIDATE_COLOURS[i % len(_CANDIDATE_COLOURS)] for i in range(n)]
