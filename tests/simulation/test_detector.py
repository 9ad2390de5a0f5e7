"""Descriptions of detectors: the packaged one, others, and invalid ones."""

from pathlib import Path

import pytest

from calogan.errors import ConfigError
from calogan.geometry import CLIC
from calogan.simulation.detector import CLIC_DETECTOR, Detector, load_detector, packaged_detectors

PACKAGED = Path("calogan/data/detectors/clic.toml")


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (Path(__file__).parents[2] / PACKAGED).read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "edited.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_packaged_detector_has_the_grid_of_the_reference_showers() -> None:
    assert "clic" in packaged_detectors()
    assert load_detector("clic") == CLIC_DETECTOR
    assert CLIC_DETECTOR.grid == CLIC


def test_detector_survives_json() -> None:
    assert Detector.model_validate_json(CLIC_DETECTOR.model_dump_json()) == CLIC_DETECTOR


def test_other_numbers_of_layers_and_cells(tmp_path: Path) -> None:
    path = edited(tmp_path, "cells = [25, 25]", "cells = [10, 7]")
    path.write_text(path.read_text(encoding="utf-8").replace("count = 17", "count = 1"), encoding="utf-8")
    grid = load_detector(path).grid
    assert grid.shape == (10, 7, 9)
    assert grid.absorber_mm == (2.4, *[4.8] * 8)
    assert grid.entry_cell == (5, 3)
    assert grid.gap_mm == 2.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cell_mm = 5.1", "cell_cm = 5.1", "cell_cm: Extra inputs"),
        ("cell_mm = 5.1", "cell_mm = -5.1", "cell_mm: Input should be greater"),
        ("cell_mm = 5.1", "cell_mm = nan", "cell_mm: Input should be"),
        ("cell_mm = 5.1", "cell_mm = 15.1", "wider than plates"),
        ("cells = [25, 25]", "cells = [25, 0]", "cells.1: Input should be greater"),
        ("count = 17", "count = 0", "plates.0.count"),
        ("count = 17", "count = 199", "207 layers of 25 x 25 cells are too many"),
        ("absorber_mm = 2.4", "absorber_mm = 0.0", "plates.0.absorber_mm"),
        ("W = 0.93", "Pb = 0.93", "no interaction tables for Pb; expected H, C"),
        ("W = 0.93", "W = 0.5", r"the fractions add up to 0\.57; expected 1"),
        ("density = 17.8", "density = 0.0", "materials.tungsten_alloy.density"),
        ('absorber = "tungsten_alloy"', 'absorber = "lead"', "no material lead under materials"),
        ('absorber = "tungsten_alloy"', 'absorber = "silicon"', "silicon is the built-in read-out material"),
        ('material = "silicon"', 'material = "air"', "exactly one slice of silicon"),
        ('name = "clic"', "name = clic", "is not TOML"),
    ],
)
def test_impossible_detectors_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detector(edited(tmp_path, old, new))


def test_missing_detector_names_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match=r"no detector 'cms': give a TOML file or one of .*clic"):
        load_detector("cms")
