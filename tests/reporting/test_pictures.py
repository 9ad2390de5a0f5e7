import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from calogan.reporting import pictures


def random_shower(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).gamma(0.1, 1e-3, (25, 25, 25)).astype(np.float32)


def test_both_showers_share_one_colour_scale() -> None:
    figure = pictures.shower_picture(random_shower(0), 3 * random_shower(1), generated_title="int8")
    images = [image for panel in figure.axes for image in panel.get_images()]
    assert len(images) == 6
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    figure.canvas.draw()


def test_many_showers_share_one_colour_scale() -> None:
    figures = pictures.shower_pictures({f"shower {i}": (1 + i) * random_shower(i) for i in range(3)})
    assert list(figures) == ["shower 0", "shower 1", "shower 2"]
    images = [image for figure in figures.values() for panel in figure.axes for image in panel.get_images()]
    assert len(images) == 9
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    assert pictures.shower_pictures({}) == {}


def test_an_empty_shower_can_be_drawn() -> None:
    empty = np.zeros((25, 25, 25), np.float32)
    pictures.shower_picture(random_shower(0), empty).canvas.draw()
    pictures.shower_picture(empty, empty).canvas.draw()


def test_a_title_is_not_read_as_a_formula() -> None:
    pictures.shower_pictures({r"$\nonsense": random_shower(0)})[r"$\nonsense"].canvas.draw()


def test_the_front_view_has_x_to_the_right() -> None:
    shower = np.zeros((25, 25, 25), np.float32)
    shower[20, 3, 10] = 1.0
    side, above, front = pictures.shower_picture(shower, shower).axes[:3]
    for panel, row, column in ((side, 3, 10), (above, 20, 10), (front, 3, 20)):
        (image,) = panel.get_images()
        pixels = image.get_array()
        assert pixels is not None
        assert pixels[row, column] == pytest.approx(1e3)


def test_pyplot_is_never_loaded() -> None:
    code = "import sys, calogan.reporting.pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_search_is_drawn_with_every_candidate_and_names_on_its_front() -> None:
    points = {"width 8": (0.1, 0.7, 0.01), "width 16": (0.2, 0.8, 0.01), "width 32": (0.3, 0.6, 0.02)}
    panel = pictures.pareto(points, ["width 8", "width 32"]).axes[0]
    lines = [np.asarray(line.get_xydata()) for line in panel.get_lines()]
    assert sorted(len(line) for line in lines) == [1, 1, 1, 2]  # the other, the two of the front, and the line along it
    assert [text.get_text() for text in panel.texts] == ["1", "2"]
    legend = panel.get_legend()
    assert legend
    assert {"1: width 8", "2: width 32"} < {text.get_text() for text in legend.get_texts()}
    pictures.pareto({"width 8": (0.1, 0.5, 0.01)}, ["width 8"]).canvas.draw()
