import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from calogan.cli.main import cli
from calogan.config import Config, Network, Quantization
from calogan.errors import ModelError, RequestError
from calogan.events import Events
from calogan.exporting import export
from calogan.exporting.base import compute_showers
from calogan.generation import freezing
from calogan.networks.families import build_generator
from calogan.quantization.quantize import quantize

FORMATS = [
    "savedmodel",
    pytest.param("onnx", marks=pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="no peers")),
]


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_command_writes_and_says_how_well(tiny_model: Path, tmp_path: Path, file_format: str) -> None:
    target = tmp_path / "export"
    result = CliRunner().invoke(
        cli, ["export", "--model", str(tiny_model), "--precision", "int8", "--format", file_format, "-o", str(target)]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(target)
    assert "of the energy of a shower lies in other cells" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_command_offers_all_formats() -> None:
    (option,) = (each for each in cli.commands["export"].params if each.name == "file_format")
    assert tuple(option.type.choices) == export.FORMATS  # type: ignore[attr-defined]


def test_the_export_has_a_description(tiny_model: Path, tmp_path: Path) -> None:
    output = export.export(tiny_model, "float32", "savedmodel", tmp_path / "f32")
    assert output.path == tmp_path / "f32"
    assert output.difference.mean() < output.limit
    description = json.loads((output.path / "assets.extra" / "calogan.json").read_text())
    assert (description["precision"], description["cells"], description["energy_unit"]) == (
        "float32",
        [25, 25, 25],
        "GeV",
    )


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_that_computes_something_else_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    monkeypatch.setattr(export, "compute_showers", lambda *arguments: np.roll(compute_showers(*arguments), 1, axis=1))
    with pytest.raises(ModelError, match="computes other showers than the model"):
        export.export(tiny_model, "int8", file_format, tmp_path / "wrong")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_become_saved_models(tiny_model: Path, tmp_path: Path, precision: str) -> None:
    assert export.export(tiny_model, precision, "savedmodel", tmp_path / precision).path.is_dir()


def test_an_impossible_export_is_reported(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="unknown format 'torch'"):
        export.export(tiny_model, "int8", "torch", tmp_path / "x")
    with pytest.raises(ModelError, match="no model"):
        export.export(tmp_path / "nothing", "int8", "savedmodel", tmp_path / "x")
    with pytest.raises(RequestError, match="already exists"):
        export.export(tiny_model, "int8", "savedmodel", tmp_path)
    with pytest.raises(RequestError, match="cannot be written"):
        export.export(tiny_model, "int8", "savedmodel", tmp_path / "nowhere" / "x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"onnx, onnxruntime, not installed here; pip install 'calogan\[peers\]'"):
        export.export(tiny_model, "int8", "onnx", tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def published(geant4: Events, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published networks, with weights that are almost random."""
    folder = tmp_path_factory.mktemp("published")
    for family in ("rehm2021", "conv3d"):
        network = Network(family=family)
        build_generator(network).save_weights(folder / "w.weights.h5")
        freezing.freeze(folder / "w.weights.h5", Config(network=network), folder / family)
    quantize(folder / "rehm2021", geant4[:16], Quantization(calibration_showers=16), folder / "rehm2021")
    return folder


@pytest.mark.slow
def test_bands_of_energy_are_refused_as_onnx(published: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(
        ModelError, match="int8 has ranges of activations for each of 6 bands of energy, which cannot be"
    ):
        export.export(published / "rehm2021", "int8", "onnx", tmp_path / "export")
    assert not list(tmp_path.iterdir())


# No conv3d as a SavedModel: TensorFlow with oneDNN fuses its padding into a convolution wrongly, which is refused.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision", "file_format"),
    [
        ("rehm2021", "float32", "savedmodel"),
        ("rehm2021", "int8", "savedmodel"),
        ("rehm2021", "float32", "onnx"),
        ("conv3d", "float32", "onnx"),
    ],
)
def test_the_published_networks_are_exported_too(
    published: Path, tmp_path: Path, family: str, precision: str, file_format: str
) -> None:
    if file_format == "onnx":
        pytest.importorskip("onnxruntime")
    export.export(published / family, precision, file_format, tmp_path / "export")
