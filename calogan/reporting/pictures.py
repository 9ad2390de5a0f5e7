"""Pictures of showers, profiles and searches; each function returns a matplotlib Figure and avoids `pyplot`."""

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
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
_MOST_KINDS = 8  # types of operations with their own colour
_MOST_POINTS = 20_000  # more points only darken the cloud


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
    """Draw a generated shower next to a reference shower: from the side, from above and from the front.

    Args:
        reference: energy in each cell of one shower, shape (25, 25, 25), axes (x, y, z), GeV.
        generated: energy in each cell of a generated shower, in the same form.
        reference_title: title of the first shower, such as 'Geant4, 200 GeV electron'.
        generated_title: title of the second shower.
    """
    figure = blank(12.5, 8.8)
    scale = _common_scale([reference, generated])
    parts = figure.subfigures(2, 1, squeeze=False)[:, 0]
    _draw_shower(parts[0], reference_title, reference, scale)
    _draw_shower(parts[1], generated_title, generated, scale)
    return figure


def shower_pictures(showers: Mapping[str, NDArray[np.float32]]) -> dict[str, Figure]:
    """Draw showers in a common colour scale, one figure each.

    Args:
        showers: energy in each cell of one shower, shape (25, 25, 25), axes (x, y, z), GeV, by title.

    Returns:
        The figures by title.
    """
    scale = _common_scale(list(showers.values()))
    figures = {}
    for title, shower in showers.items():
        figures[title] = blank(10.5, 3.7)
        _draw_shower(figures[title], title, shower, scale)
    return figures


def inspection(contents: Inspection) -> Figure:
    """Draw the contents of shower files: energies, response, and the mean shower from the side and along the depth."""
    figure = blank(11, 7.5)
    (energies, response), (side, depth) = figure.subplots(2, 2)
    energies.stairs(contents.histogram, contents.histogram_edges, fill=True, color="#56B4E9")
    energies.set(xlabel="Ep (GeV)", ylabel="showers", title=f"{len(contents.energy)} showers")
    points = np.flatnonzero(np.isfinite(contents.sampling_fraction))[:: max(1, len(contents.energy) // _MOST_POINTS)]
    response.plot(contents.energy[points], 100 * contents.sampling_fraction[points], ".", color="#999999", markersize=2)
    rows = contents.by_energy()
    middle = [0.5 * (row["low_gev"] + row["high_gev"]) for row in rows]
    mean, error = ([100 * row[name] for row in rows] for name in ("sampling_fraction", "error"))
    response.errorbar(middle, mean, yerr=error, fmt="o", color="#D55E00", label="mean")
    response.set(xlabel="Ep (GeV)", ylabel="ECAL / Ep (%)", title="sampling fraction")
    response.legend(frameon=False)
    image = 1e3 * contents.mean_shower.sum(axis=0)
    top = max(float(image.max()), 1e-9)
    mesh = side.imshow(
        np.ma.masked_less(image, 1e-5 * top), norm=LogNorm(1e-5 * top, top), origin="lower", cmap="viridis"
    )
    side.set(xlabel="depth z (layer)", ylabel="y (cell)", title="mean shower from the side")
    figure.colorbar(mesh, ax=side, label="energy along the line of sight (MeV)")
    profile = 1e3 * contents.mean_shower.sum(axis=(0, 1))
    depth.stairs(profile, np.arange(len(profile) + 1) - 0.5, fill=True, color="#009E73")
    depth.set(xlabel="depth z (layer)", ylabel="mean energy (MeV)", title="longitudinal profile")
    return figure


def operation_times(profiles: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the time of each type of operation, one bar per network, as in table 2 of arXiv 2103.10142.

    Args:
        profiles: ms per shower, by network and type of operation, see `profiling.operation_times`.
    """
    total: collections.Counter[str] = collections.Counter()
    for times in profiles.values():
        total.update(times)
    kinds = [kind for kind, _ in total.most_common(_MOST_KINDS)]
    figure = blank(10.5, 1.6 + 0.7 * len(profiles))
    panel = figure.subplots()
    starts = np.zeros(len(profiles))
    for kind in [*kinds, "others"]:
        widths = [
            times.get(kind, 0.0) if kind in kinds else sum(ms for name, ms in times.items() if name not in kinds)
            for times in profiles.values()
        ]
        panel.barh(list(profiles), widths, left=starts, label=kind.removeprefix("_Mkl"))
        starts += widths
    panel.invert_yaxis()
    panel.set_xlabel("time of one core for one shower (ms)")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def stream_rates(rates: Mapping[str, Mapping[tuple[int, int], float]]) -> Figure:
    """Draw figure 4 of arXiv 2103.10142: throughput against the number of streams and of threads of each.

    Args:
        rates: showers per second, by precision and by (streams, threads); all have the same arrangements.
    """
    arrangements = list(next(iter(rates.values())))
    figure = blank(max(5.0, 2.5 + 0.6 * len(arrangements)), 4.0)
    panel = figure.subplots()
    width = 0.8 / len(rates)
    for number, (name, values) in enumerate(rates.items()):
        places = np.arange(len(arrangements)) + (number - (len(rates) - 1) / 2) * width
        bars = panel.bar(places, [values[each] for each in arrangements], width, label=name, color=_COLOURS[number])
        panel.bar_label(bars, fmt="%.3g", fontsize="small")
    panel.set_xticks(np.arange(len(arrangements)), [f"{streams} x {threads}" for streams, threads in arrangements])
    panel.set(xlabel="streams x threads of each", ylabel="showers per second, all streams")
    panel.margins(y=0.1)
    figure.legend(loc="outside upper center", ncols=len(rates), frameon=False)
    return figure


def pareto(points: Mapping[str, tuple[float, float, float]], front: Sequence[str]) -> Figure:
    """Draw the result of a search: AUC of a classifier against Geant4 showers, over the time of one shower.

    Args:
        points: time on one core in ms per shower, AUC and its error, by title.
        front: titles of the points on the Pareto front, the fastest first; they are numbered.
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
    """Check that the suffix of a file name is a supported image format.

    Raises:
        ConfigError: it is not.
    """
    formats = sorted(blank(1, 1).canvas.get_supported_filetypes())
    if path.suffix[1:] not in formats:
        raise ConfigError(
            f"{path}: {path.suffix or 'a name without suffix'} is not an image format; expected one of "
            f"{', '.join(formats)}"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the suffix.

    Raises:
        ConfigError: the suffix is unknown.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _common_scale(showers: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Lowest and highest energy of a common colour scale, MeV."""
    columns = (float(projection(shower[None], plane).max()) for shower in showers for _, plane, *_ in _VIEWS)
    # Single low-energy tracks lie within four decades of the hottest column; colder columns stay white.
    top = 1e3 * max([CLIC.threshold_gev, *columns])
    return top * 1e-4, top


def _draw_shower(part: Figure | SubFigure, title: str, shower: NDArray[np.float32], scale: tuple[float, float]) -> None:
    text = part.suptitle(f"{title}: ECAL = {1e3 * ecal(shower[None])[0]:.0f} MeV", fontweight="bold")
    text.set_parse_math(False)
    panels = part.subplots(1, 3)
    for panel, (view, plane, horizontal, vertical) in zip(panels, _VIEWS, strict=True):
        image = 1e3 * projection(shower[None], plane)[0]
        # imshow puts the second axis on the horizontal: right for z; the front view is transposed for x.
        pixels = image.T if plane == "xy" else image
        mesh = panel.imshow(np.ma.masked_less(pixels, scale[0]), norm=LogNorm(*scale), origin="lower", cmap="viridis")
        panel.set(xlabel=horizontal, ylabel=vertical)
        panel.set_title(view, fontsize="medium", pad=3)
    part.colorbar(mesh, ax=panels, label="energy along the\nline of sight (MeV)", shrink=0.9)
