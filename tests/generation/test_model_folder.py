import json
from pathlib import Path

import pytest

from calogan.errors import ModelError
from calogan.generation import model_folder


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    model_folder.copy(tiny_model, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_is_written_is_read_back(copied: Path) -> None:
    described = model_folder.read(copied)
    assert model_folder.write(copied, described) == described == model_folder.read(copied)
    assert (described.name, described.family, described.width, described.cell_noise) == ("tiny", "lean", 16, True)
    assert described.sha256.keys() == {path.name for path in copied.iterdir()} - {model_folder.DESCRIPTION}
    assert not list(copied.glob(".*"))


def test_a_copy_is_the_same_model(tiny_model: Path, copied: Path) -> None:
    assert model_folder.read(copied) == model_folder.read(tiny_model)


def test_a_copy_may_hold_fewer_precisions(tiny_model: Path, tmp_path: Path) -> None:
    int8 = model_folder.copy(tiny_model, tmp_path / "int8", precisions=("int8",))
    assert int8.network_files == {"int8": "network.int8.pb"}
    assert not (tmp_path / "int8" / "network.float32.pb").exists()
    assert int8.version("int8") == model_folder.read(tiny_model).version("int8")
    assert int8.quantization
    float32 = model_folder.copy(tiny_model, tmp_path / "float32", precisions=("float32",))
    assert float32.network_files == {"float32": "network.float32.pb"}
    assert float32.quantization == {}


def test_a_precision_that_is_not_there_cannot_be_copied(tiny_model: Path, tmp_path: Path) -> None:
    model_folder.copy(tiny_model, tmp_path / "float32", precisions=("float32",))
    with pytest.raises(ModelError, match="model tiny has no int8, only float32"):
        model_folder.copy(tmp_path / "float32", tmp_path / "int8", precisions=("int8",))
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize("name", ["prepare.pb", "network.int8.pb", "generator.weights.h5"])
def test_an_altered_file_is_not_copied(name: str, copied: Path, tmp_path: Path) -> None:
    alter(copied / name)
    with pytest.raises(ModelError, match="is not the file that was written"):
        model_folder.copy(copied, tmp_path / "again")


def test_a_model_may_go_without_its_weights(copied: Path, tmp_path: Path) -> None:
    (copied / model_folder.WEIGHTS).unlink()
    model_folder.write(copied, model_folder.read(copied))
    model_folder.copy(copied, tmp_path / "again")
    assert not (tmp_path / "again" / model_folder.WEIGHTS).exists()


def test_versions_differ_by_precision_and_by_file(copied: Path) -> None:
    described = model_folder.read(copied)
    versions = {name: described.version(name) for name in described.network_files}
    assert len(set(versions.values())) == 4
    alter(copied / "network.int8.pb")
    again = model_folder.write(copied, described)
    assert again.version("int8") != versions["int8"]
    assert again.version("float32") == versions["float32"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8"])
def test_good_files_pass(tiny_model: Path, precision: str) -> None:
    model_folder.check_files(tiny_model, model_folder.read(tiny_model), precision)


@pytest.mark.parametrize("name", ["prepare.pb", "network.float32.pb", "cells.npz"])
def test_a_missing_or_altered_file_is_found(name: str, copied: Path) -> None:
    described = model_folder.read(copied)
    alter(copied / name)
    with pytest.raises(ModelError, match=rf"{name}: is not the file that was written"):
        model_folder.check_files(copied, described, "float32")
    (copied / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}: is missing"):
        model_folder.check_files(copied, described, "float32")


def test_an_unknown_precision_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="no precision 'int4'; there are float32, bfloat16, float16, int8"):
        model_folder.check_files(tiny_model, model_folder.read(tiny_model), "int4")


@pytest.mark.parametrize("change", ["not JSON", "[]", "{}", None])
def test_a_damaged_description_is_refused(change: str | None, copied: Path) -> None:
    path = copied / model_folder.DESCRIPTION
    if change is None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    else:
        path.write_text(change)
    with pytest.raises(ModelError, match=r"model\.json: is damaged .*; make the model again"):
        model_folder.read(copied)


def test_a_model_is_found_by_its_folder_or_not_at_all(tiny_model: Path, tmp_path: Path) -> None:
    assert model_folder.find(str(tiny_model)) == tiny_model
    with pytest.raises(ModelError, match=r"no model 'nothing': give a packaged name"):
        model_folder.find("nothing")
    with pytest.raises(ModelError, match="no model"):
        model_folder.find(tmp_path)


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
