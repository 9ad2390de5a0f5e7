import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from calogan import plots, validation
from calogan.errors import ConfigError
from calogan.events import Events, packaged_sample, read_events
from calogan.metrics import match_energies
from calogan.observables import observe
from calogan.validation import ValidationReport


def report_of(reference: Events, candidate: Events) -> ValidationReport:
    curves = validation.curves(*match_energies(observe(reference), observe(candidate)))
    return ValidationReport(showers={}, metrics={}, floor={}, gates={}, curves=curves, provenance={})


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())[:200]


@pytest.fixture(scope="module")
def reports(events: Events) -> dict[str, ValidationReport]:
    lossy = events.showers.copy()
    lossy[..., 0] = 0  # a ratio of 0 and an empty bin on a logarithmic axis
    return {"float32": report_of(events, events), "int8": report_of(events, Events(lossy, events.energy))}


def test_figures_are_written_under_fixed_names(reports: dict[str, ValidationReport], tmp_path: Path) -> None:
    paths = plots.save_figures(reports, tmp_path)
    assert [path.name for path in paths] == ["shower_shapes.png", "sampling_fraction.png", "cell_energy.png"]
    for path in paths:
        assert imread(path).std() > 0.05  # not a blank page


def test_shapes_show_each_report_and_the_reference_once(reports: dict[str, ValidationReport]) -> None:
    figure = plots.shower_shapes(reports)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["reference", "float32", "int8"]
    assert [panel.get_yscale() for panel in figure.axes] == ["linear"] * 3 + ["log"] * 3 + ["linear"] * 3
    assert all(panel.get_xlabel() for panel in figure.axes[6:])


def test_a_single_energy_can_be_drawn(events: Events, tmp_path: Path) -> None:
    narrow = Events(events.showers, np.full_like(events.energy, 200))
    assert len(plots.save_figures({"int8": report_of(narrow, narrow)}, tmp_path)) == 3


def test_both_showers_share_one_colour_scale(events: Events) -> None:
    figure = plots.shower_picture(events.showers[0], events.showers[1], generated_title="int8")
    images = [image for panel in figure.axes for image in panel.get_images()]
    assert len(images) == 6
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    figure.canvas.draw()


def test_an_empty_shower_can_be_drawn(events: Events) -> None:
    plots.shower_picture(events.showers[0], np.zeros_like(events.showers[0])).canvas.draw()
    plots.shower_picture(np.zeros_like(events.showers[0]), np.zeros_like(events.showers[0])).canvas.draw()


def test_the_front_view_has_x_to_the_right() -> None:
    shower = np.zeros((25, 25, 25), np.float32)
    shower[20, 3, 10] = 1.0
    side, above, front = plots.shower_picture(shower, shower).axes[:3]
    assert side.get_images()[0].get_array()[3, 10] == pytest.approx(1e3)
    assert above.get_images()[0].get_array()[20, 10] == pytest.approx(1e3)
    assert front.get_images()[0].get_array()[3, 20] == pytest.approx(1e3)


def test_a_missing_folder_is_an_error(reports: dict[str, ValidationReport], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        plots.save_figures(reports, tmp_path / "none")


def test_pyplot_is_never_loaded() -> None:
    code = "import sys, calogan.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
