"""The fit of the parametrisation, tested on its own showers, and the file of its result."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import ConfigError, EventsError, OutputError
from calogan.simulation.parametric import simulate
from calogan.simulation.profiles import PUBLISHED, TUNED
from calogan.simulation.tuning import read_tuning, tune, write_tuning

ENERGY = np.random.default_rng(0).uniform(10, 30, 60).astype(np.float32)


def test_the_fit_recovers_the_constants_of_its_reference() -> None:
    changes = {"depth": 1.1, "depth_offset": 0.0, "response_thin": 0.9, "response_thick": 0.9, "onset": 0.1}
    truth = TUNED.model_copy(update=changes)
    lines: list[str] = []
    fit = tune(simulate(ENERGY, seed=5, tuning=truth), seed=5, progress=lines.append)
    assert fit.response_thin == pytest.approx(truth.response_thin, rel=0.03)
    assert fit.onset < 0.7 * TUNED.onset
    distance = [float(re.findall(r"distance (\d+)", line)[0]) for line in lines]
    assert min(distance) < 0.2 * distance[0]


def test_fit_is_the_same_for_the_same_seed() -> None:
    reference = simulate(ENERGY[:20], seed=6)
    assert tune(reference, seed=1) == tune(reference, seed=1)


def test_too_few_showers_are_refused() -> None:
    with pytest.raises(EventsError, match="too few to fit"):
        tune(simulate(ENERGY[:5], seed=1), seed=1)


def test_file_gives_back_the_constants(tmp_path: Path) -> None:
    path = write_tuning(tmp_path / "t.toml", TUNED, {"git_commit": 'a "b" \\ ü', "inputs_sha256": '{"x.h5": "00"}'})
    assert read_tuning(path) == TUNED
    assert [file.name for file in tmp_path.iterdir()] == ["t.toml"]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 2), st.text())
def test_file_keeps_every_bit_and_any_header(tmp_path_factory: pytest.TempPathFactory, depth: float, text: str) -> None:
    tuning = PUBLISHED.model_copy(update={"depth": depth})
    path = write_tuning(tmp_path_factory.getbasetemp() / "bits.toml", tuning, {text: text})
    assert read_tuning(path) == tuning


def test_constants_left_out_are_the_published_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("[tuning]\ndepth = 1.1\n")
    assert read_tuning(path) == PUBLISHED.model_copy(update={"depth": 1.1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tuning]\ndeptj = 1.1", "tuning.deptj: Extra inputs"),
        ("[tuning]\ndepth = -1", "tuning.depth: Input should be greater"),
        ("[tuning]\ndepth = nan", "tuning.depth: Input should be a finite number"),
        ("[tuning]\ndepth = 'deep'", "tuning.depth: Input should be a valid number"),
        ("[constants]\ndepth = 1", "tuning: Field required"),
        ("[tuning]\n[more]", "more: Extra inputs"),
        ("[tuning", "is not TOML"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tuning(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tuning(tmp_path / "no.toml")
    with pytest.raises(OutputError, match="no: no such folder; create it first"):
        write_tuning(tmp_path / "no" / "t.toml", TUNED, {})
