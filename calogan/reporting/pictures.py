"""Pictures of showers themselves; each function returns a matplotlib Figure and touches no `pyplot`."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from calogan.atomic_files import atomic_write
from calogan.errors import ConfigError
from calogan.events.inspection import Inspection
from calogan.geometry import CLIC
from calogan.validation.observables import ecal, projection

_VIEWS = (
    ("side view", "yz", "depth z (layer)", "y (cell)"),
    ("from above", "xz", "depth z (layer)", "x (cell)"),
    ("front view", "xy", "x (cell)", "y (cell)"),
)
_DPI = 130
_MOST_KINDS = 8  # of operations have a colour of their own
_MOST_POINTS = 20_000  # more only darken the cloud


def blank(width: float, height: float) -> Figure:
    """Make an empty figure; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
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
    figure = blank(12.5, 8.8)
    scale = _common_scale([reference, generated])
    parts = figure.subfigures(2, 1, squeeze=False)[:, 0]
    _draw_shower(parts[0], reference_title, reference, scale)
    _draw_shower(parts[1], generated_title, generated, scale)
    return figure


def shower_pictures(showers: Mapping[str, NDArray[np.float32]]) -> dict[str, Figure]:
    """Draw showers in one colour scale, a figure each.

    Args:
        showers: by title; energy in each cell of one shower, shape (25, 25, 25), axes (x, y, z), GeV.
    """
    scale = _common_scale(list(showers.values()))
    figures = {}
    for title, shower in showers.items():
        figures[title] = blank(10.5, 3.7)
        _draw_shower(figures[title], title, shower, scale)
    return figures


def inspection(found: Inspection) -> Figure:
    """Draw what files of showers hold: energies, response, and the mean shower from the side and along the depth."""
    figure = blank(11, 7.5)
    (energies, response), (side, depth) = figure.subplots(2, 2)
    energies.stairs(found.histogram, found.histogram_edges, fill=True, color="#56B4E9")
    energies.set(xlabel="Ep (GeV)", ylabel="showers", title=f"{len(found.energy)} showers")
    shown = np.flatnonzero(np.isfinite(found.sampling_fraction))[:: max(1, len(found.energy) // _MOST_POINTS)]
    response.plot(found.energy[shown], 100 * found.sampling_fraction[shown], ".", color="#999999", markersize=2)
    rows = found.by_energy()
    middle = [0.5 * (row["low_gev"] + row["high_gev"]) for row in rows]
    mean, error = ([100 * row[name] for row in rows] for name in ("sampling_fraction", "error"))
    response.errorbar(middle, mean, yerr=error, fmt="o", color="#D55E00", label="mean")
    response.set(xlabel="Ep (GeV)", ylabel="ECAL / Ep (%)", title="sampling fraction")
    response.legend(frameon=False)
    image = 1e3 * found.mean_shower.sum(axis=0)
    top = max(float(image.max()), 1e-9)
    seen = side.imshow(
        np.ma.masked_less(image, 1e-5 * top), norm=LogNorm(1e-5 * top, top), origin="lower", cmap="viridis"
    )
    side.set(xlabel="depth z (layer)", ylabel="y (cell)", title="mean shower from the side")
    figure.colorbar(seen, ax=side, label="energy along the line of sight (MeV)")
    profile = 1e3 * found.mean_shower.sum(axis=(0, 1))
    depth.stairs(profile, np.arange(len(profile) + 1) - 0.5, fill=True, color="#009E73")
    depth.set(xlabel="depth z (layer)", ylabel="mean energy (MeV)", title="longitudinal profile")
    return figure


def operation_times(profiles: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw where the time of networks goes, a bar each, as in table 2 of arXiv 2103.10142.

    Args:
        profiles: by network; ms for one shower by type of operation, see `profiling.operation_times`.
    """
    total: collections.Counter[str] = collections.Counter()
    for times in profiles.values():
        total.update(times)
    shown = [kind for kind, _ in total.most_common(_MOST_KINDS)]
    figure = blank(10.5, 1.6 + 0.7 * len(profiles))
    panel = figure.subplots()
    left = np.zeros(len(profiles))
    for kind in [*shown, "others"]:
        widths = [
            times.get(kind, 0.0) if kind in shown else sum(ms for name, ms in times.items() if name not in shown)
            for times in profiles.values()
        ]
        panel.barh(list(profiles), widths, left=left, label=kind.removeprefix("_Mkl"))
        left += widths
    panel.invert_yaxis()
    panel.set_xlabel("time of one core for one shower (ms)")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def pareto(points: Mapping[str, tuple[float, float, float]], front: Sequence[str]) -> Figure:
    """Draw what a search has found: how well showers can be told from Geant4's, against time.

    Args:
        points: by title; core-ms of a shower, area under the ROC curve and its error.
        front: titles of those that nothing beats in both, the fastest first; they are numbered.
    """
    figure = blank(9.5, 6)
    panel = figure.subplots()
    others = [points[title] for title in points if title not in front]
    cost, auc, error = np.array(others).reshape(-1, 3).T
    panel.errorbar(cost, auc, yerr=error, fmt="o", color="#999999", label="another is better and as fast")
    panel.step(*zip(*(points[title][:2] for title in front), strict=True), where="post", color="#D55E00", alpha=0.5)
    for number, title in enumerate(front, start=1):
        x, y, spread = points[title]
        panel.errorbar(x, y, yerr=spread, fmt="o", color="#D55E00", label=f"{number}: {title}")
        panel.annotate(str(number), (x, y), (6, -6), textcoords="offset points", va="top")
    panel.set(
        xlabel="time of one core for one int8 shower (ms)",
        ylabel="AUC of boosted trees, validation split (0.5: like Geant4)",
    )
    panel.margins(0.1)
    panel.legend(frameon=False, fontsize="small")
    return figure


def check_suffix(path: Path) -> None:
    """Refuse a file name whose suffix is no format of pictures.

    Raises:
        ConfigError: it is not.
    """
    known = sorted(blank(1, 1).canvas.get_supported_filetypes())
    if path.suffix[1:] not in known:
        raise ConfigError(
            f"{path}: pictures are not written as {path.suffix or 'that'}; give one of {', '.join(known)}"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the suffix says in which format.

    Raises:
        ConfigError: the suffix is unknown.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _common_scale(showers: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Lowest and highest energy of a colour scale that showers share, MeV."""
    columns = (float(projection(shower[None], plane).max()) for shower in showers for _, plane, *_ in _VIEWS)
    # Four decades below the hottest column is where single low-energy tracks end; colder columns stay white.
    top = 1e3 * max([CLIC.threshold_gev, *columns])
    return top * 1e-4, top


def _draw_shower(part: Figure | SubFigure, title: str, shower: NDArray[np.float32], scale: tuple[float, float]) -> None:
    text = part.suptitle(f"{title}: ECAL = {1e3 * ecal(shower[None])[0]:.0f} MeV", fontweight="bold")
    text.set_parse_math(False)
    panels = part.subplots(1, 3)
    for panel, (view, plane, horizontal, vertical) in zip(panels, _VIEWS, strict=True):
        image = 1e3 * projection(shower[None], plane)[0]
        # imshow draws rows upwards, so z comes out horizontal by itself; in the front view x has to be made so.
        drawn = image.T if plane == "xy" else image
        seen = panel.imshow(np.ma.masked_less(drawn, scale[0]), norm=LogNorm(*scale), origin="lower", cmap="viridis")
        panel.set(xlabel=horizontal, ylabel=vertical)
        panel.set_title(view, fontsize="medium", pad=3)
    part.colorbar(seen, ax=panels, label="energy along the\nline of sight (MeV)", shrink=0.9)
