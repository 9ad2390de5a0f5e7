import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from calogan.errors import OutputError
from calogan.reporting import plots
from calogan.validation.observables import SPECTRUM_EDGES_GEV, Floats
from calogan.validation.report import ValidationReport
from calogan.validation.standard import Curve

CELLS: Floats = np.arange(26, dtype=np.float64) - 0.5
EP_GEV: Floats = np.array([2, 10, 50, 200, 500.0])


def curve_of(edges: Floats, reference: Floats, factor: float) -> Curve:
    candidate = factor * reference
    candidate[0] = 0  # a ratio of 0 and an empty bin on a logarithmic axis
    return Curve(edges, reference, 0.02 * np.abs(reference), candidate, 0.02 * np.abs(candidate))


def report_of(factor: float, **extra: Curve) -> ValidationReport:
    bump = np.exp(-(((CELLS[:-1] - 12) / 4) ** 2))
    curves = {axis: curve_of(CELLS, bump, factor) for axis in "xyz"}
    curves["cell_energy"] = curve_of(SPECTRUM_EDGES_GEV, np.geomspace(100, 0.01, 48), factor)
    for name in ("sampling_fraction", "resolution"):
        curves[name] = curve_of(EP_GEV, np.array([0.022, 0.021, 0.019, 0.018]), factor)
    return ValidationReport(showers={}, metrics={}, floor={}, gates={}, curves={**curves, **extra}, provenance={})


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_figures_are_written_under_fixed_names(tmp_path: Path) -> None:
    reports = {"float32": report_of(1.0), "int8": report_of(1.1, hits=curve_of(CELLS, np.ones(25), 0.9))}
    paths = plots.save_figures(reports, tmp_path)
    names = ["shower_shapes.png", "sampling_fraction.png", "cell_energy.png", "hits.png"]
    assert [path.name for path in paths] == names
    for path in paths:
        assert imread(path).std() > 0.05  # not a blank page


def test_shapes_show_each_report_and_the_reference_once() -> None:
    figure = plots.shower_shapes({"float32": report_of(1.0), "int8": report_of(1.1)}, reference_name="Geant4")
    assert legend_of(figure) == ["Geant4", "float32", "int8"]
    assert [panel.get_yscale() for panel in figure.axes] == ["linear"] * 3 + ["log"] * 3 + ["linear"] * 3
    assert all(panel.get_xlabel() for panel in figure.axes[6:])


def test_eight_candidates_differ_in_colour_marker_and_line() -> None:
    figure = plots.curve("resolution", {f"candidate {i}": report_of(1 + i / 50) for i in range(8)})
    handles = figure.legends[0].get_lines()[1:]
    looks = [(to_hex(str(h.get_color())), h.get_marker(), str(h.get_linestyle())) for h in handles]
    assert len({colour for colour, *_ in looks}) == len({marker for _, marker, _ in looks}) == 8
    assert plots.colours(8) == [colour.upper() for colour, *_ in looks]
    places = {
        tuple(np.round(np.asarray(line.get_xdata(), np.float64), 6))
        for line in figure.axes[0].get_lines()
        if line.get_marker() != "None"
    }
    assert len(places) == 8  # beside each other, not on top of each other


def test_the_ratio_is_that_of_candidate_to_reference() -> None:
    figure = plots.curve("z", {"int8": report_of(1.05)})
    markers = next(line for line in figure.axes[-1].get_lines() if line.get_marker() != "None")
    np.testing.assert_allclose(np.asarray(markers.get_ydata())[1:], 1.05)
    assert "ratio" in figure.axes[-1].get_ylabel()
    offsets = [np.asarray(points.get_offsets()) for points in figure.axes[-1].collections]
    outside = next(places for places in offsets if len(places))
    assert outside[0, 1] == pytest.approx(figure.axes[-1].get_ylim()[0])  # the empty bin: an arrow


def test_a_reference_with_negative_values_is_subtracted() -> None:
    edges: Floats = np.linspace(-1, 1, 21)
    wave = np.sin(3 * edges[1:])
    shifted = Curve(edges, wave, 0.1 * np.ones(20), wave + 0.2, 0.1 * np.ones(20))
    figure = plots.curve("correlation", {"int8": report_of(1.0, correlation=shifted)})
    markers = next(line for line in figure.axes[-1].get_lines() if line.get_marker() != "None")
    np.testing.assert_allclose(np.asarray(markers.get_ydata()), 0.2)
    assert "minus" in figure.axes[-1].get_ylabel()


@pytest.mark.parametrize(
    ("edges", "values", "scales"),
    [
        (np.geomspace(1, 1000, 11), np.geomspace(1e4, 1, 10), ("log", "log")),
        (np.linspace(0, 10, 11), np.linspace(1, 2, 10), ("linear", "linear")),
        (np.linspace(0, 10, 11), np.full(10, np.nan), ("linear", "linear")),
        (np.linspace(0, 10, 11), np.zeros(10), ("linear", "linear")),
    ],
)
def test_an_unknown_curve_is_drawn_as_its_values_suggest(
    edges: Floats, values: Floats, scales: tuple[str, str]
) -> None:
    unknown = Curve(edges, values, 0.1 * values, 1.1 * values, 0.1 * values)
    figure = plots.curve("unknown", {"int8": report_of(1.0, unknown=unknown), "without": report_of(1.0)})
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == scales
    assert legend_of(figure) == ["reference", "int8"]
    figure.canvas.draw()


def test_names_are_not_read_as_formulas_nor_hidden() -> None:
    figure = plots.curve("z", {"_hidden": report_of(1.0), r"$\nonsense": report_of(1.0)}, reference_name="$_")
    figure.canvas.draw()
    assert legend_of(figure) == ["$_", "_hidden", r"$\nonsense"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        plots.save_figures({"int8": report_of(1.0)}, tmp_path / "none")


def test_pyplot_is_never_loaded() -> None:
    code = "import sys, calogan.reporting.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
