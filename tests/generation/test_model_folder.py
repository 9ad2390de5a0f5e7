import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calogan.errors import ModelError
from calogan.generation import model_folder
from calogan.packaged import data_file


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    model_folder.copy(tiny_model, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_is_written_is_read_back(copied: Path) -> None:
    description = model_folder.read(copied)
    assert model_folder.write(copied, description) == description == model_folder.read(copied)
    assert (description.name, description.family, description.width, description.cell_noise) == (
        "tiny",
        "lean",
        16,
        True,
    )
    assert description.sha256.keys() == {path.name for path in copied.iterdir()} - {model_folder.DESCRIPTION}
    assert not list(copied.glob(".*"))
    assert json.loads((copied / model_folder.DESCRIPTION).read_text()) == description.model_dump(mode="json")


def test_a_copy_is_the_same_model(tiny_model: Path, copied: Path) -> None:
    assert model_folder.read(copied) == model_folder.read(tiny_model)


def test_a_copy_may_hold_fewer_precisions(tiny_model: Path, tmp_path: Path) -> None:
    int8 = model_folder.copy(tiny_model, tmp_path / "int8", precisions=("int8",))
    assert list(int8.network_files) == ["int8"]
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


@pytest.mark.parametrize("name", ["prepare.pb", "network.float16.pb", "generator.weights.h5"])
def test_an_altered_file_is_not_copied(name: str, copied: Path, tmp_path: Path) -> None:
    alter(copied / name)
    with pytest.raises(ModelError, match="is not the file that was written"):
        model_folder.copy(copied, tmp_path / "again")


def test_a_model_may_go_without_its_weights(copied: Path, tmp_path: Path) -> None:
    (copied / model_folder.WEIGHTS).unlink()
    description = model_folder.read(copied)
    hashes = {name: hash_ for name, hash_ in description.sha256.items() if name != model_folder.WEIGHTS}
    model_folder.write(copied, description.model_copy(update={"sha256": hashes}))
    model_folder.copy(copied, tmp_path / "again")
    assert not (tmp_path / "again" / model_folder.WEIGHTS).exists()


def test_versions_differ_by_precision_and_by_file(copied: Path) -> None:
    description = model_folder.read(copied)
    versions = {name: description.version(name) for name in description.network_files}
    assert len(set(versions.values())) == 4
    again = model_folder.replace_network(copied, description, b"another", {})
    assert again.version("int8") != versions["int8"]
    assert again.version("float32") == versions["float32"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8"])
def test_good_files_pass(tiny_model: Path, precision: str) -> None:
    model_folder.check_files(tiny_model, model_folder.read(tiny_model), precision)


@pytest.mark.parametrize("name", ["prepare.pb", "network.float32.pb", "cells.npz"])
def test_a_missing_or_altered_file_is_found(name: str, copied: Path) -> None:
    description = model_folder.read(copied)
    alter(copied / name)
    with pytest.raises(ModelError, match=rf"{name}: is not the file that was written"):
        model_folder.check_files(copied, description, "float32")
    (copied / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}: is missing"):
        model_folder.check_files(copied, description, "float32")


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


def test_a_model_that_came_with_the_package_cannot_be_written_to(copied: Path) -> None:
    for name in ("lean", data_file("models", "lean")):
        with pytest.raises(ModelError, match=r"lean is a packaged model, which cannot be modified; .* --out FOLDER"):
            model_folder.find_writable(name)
    assert model_folder.find_writable(copied) == copied


def change(folder: Path, **fields: Any) -> None:
    path = folder / model_folder.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"energy_range": [500.0, 2.0]}, "expected the lower energy first"),
        ({"energy_range": [2.0, float("inf")]}, "energy_range.1: Input should be a finite number"),
        ({"energy_range": 3}, "energy_range: Input should be a valid array"),
        ({"latent_size": "41"}, "latent_size: Input should be a valid integer"),
        ({"latent_size": 10**9}, "latent_size: Input should be less than"),
        ({"network_files": {"int4": "network.int4.pb"}}, r"network_files.int4.\[key\]: String should match pattern"),
        ({"network_files": {}}, "network_files: Dictionary should have at least 1 item"),
        ({"sha256": {}}, "sha256: has no hash of .*prepare.pb"),
        ({"sha256": {"prepare.pb": "0"}}, "sha256.prepare.pb: String should match"),
        ({"quantization": {"granularity": "none"}}, "granularity: Input should be 'per_channel'"),
        ({"name": None, "header": [], "a\nb": 1}, "name: .*; header: .*; a b: Extra inputs"),
    ],
)
def test_what_a_description_cannot_say(fields: dict[str, Any], reason: str, copied: Path) -> None:
    change(copied, **fields)
    with pytest.raises(ModelError, match=rf"model\.json: is damaged \(.*{reason}") as error:
        model_folder.read(copied)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["../evil.pb", "/evil.pb", "..", ".hidden", "a/b.pb", "", "evil.pb\n"])
def test_the_name_of_a_file_cannot_lead_out_of_the_folder(name: str, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.pb").write_bytes(b"evil")
    description = model_folder.read(copied).model_dump(mode="json")
    description["network_files"]["int8"] = name
    change(copied, **description | {"sha256": description["sha256"] | {name: hashlib.sha256(b"evil").hexdigest()}})
    (tmp_path / "inside").mkdir()
    with pytest.raises(ModelError, match=r"network_files.int8: String should match"):
        model_folder.copy(copied, tmp_path / "inside" / "target")
    assert not list((tmp_path / "inside").iterdir())


def test_a_link_out_of_the_folder_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "prepare.pb").rename(tmp_path / "elsewhere.pb")
    (copied / "prepare.pb").symlink_to(tmp_path / "elsewhere.pb")
    with pytest.raises(ModelError, match=r"prepare\.pb: is a link to a file outside the model"):
        model_folder.check_files(copied, model_folder.read(copied), "int8")
    (tmp_path / "link").symlink_to(copied)  # a folder may be reached by a link
    (copied / "prepare.pb").unlink()
    (tmp_path / "elsewhere.pb").rename(copied / "prepare.pb")
    model_folder.check_files(tmp_path / "link", model_folder.read(tmp_path / "link"), "int8")


def test_models_of_version_0_1_0_are_read() -> None:
    path = data_file("models", "lean")
    description = model_folder.read(path)
    assert description.header["calogan_version"] == "0.1.0"
    assert json.loads((path / model_folder.DESCRIPTION).read_text()) == description.model_dump(mode="json")
    for precision in description.network_files:
        model_folder.check_files(path, description, precision)


@pytest.mark.parametrize("name", ["prepare.pb", "network.bfloat16.pb", "generator.weights.h5", "cells.npz"])
def test_a_network_is_not_replaced_beside_an_altered_file(name: str, copied: Path) -> None:
    description = model_folder.read(copied)
    alter(copied / name)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(ModelError, match=rf"{name}: is not the file that was written"):
        model_folder.replace_network(copied, description, b"another", {})
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_replaced_network_stays_for_its_readers_until_the_next_is_there(copied: Path) -> None:
    descriptions = [model_folder.read(copied)]
    for content in (b"one", b"two", b"two"):
        descriptions.append(model_folder.replace_network(copied, descriptions[-1], content, {}))
        for description in descriptions[-2:]:
            model_folder.check_files(copied, description, "int8")
    assert len(set(copied.glob("network.int8*.pb"))) == 1
    assert descriptions[-1] == descriptions[-2] == model_folder.read(copied)
    assert {path.name for path in copied.iterdir()} == {*descriptions[-1].sha256, model_folder.DESCRIPTION}


# Replaces the network in a process that dies at its n-th file operation in the folder, for every n.
KILLED = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from calogan.generation import model_folder
source, folder = map(Path, sys.argv[1:])
for n in itertools.count():
    shutil.rmtree(folder, ignore_errors=True)
    old = model_folder.copy(source, folder)
    if not (child := os.fork()):
        calls = itertools.count(n, -1)
        def hook(event, arguments):
            if event in ("open", "os.rename", "os.remove") and str(folder) in str(arguments[0]) and next(calls) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        model_folder.replace_network(folder, old, b"another", {})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    description = model_folder.read(folder)
    model_folder.check_files(folder, description, "int8")
    print(n, "old" if description == old else "new", flush=True)
    if os.WIFEXITED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_whenever_it_is_killed_the_model_is_whole(tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tiny_model), str(tmp_path / "copy")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    states = [line.split()[1] for line in result.stdout.splitlines()]
    assert states == sorted(states, reverse=True)
    assert states.count("old") > 5
    assert states.count("new") >= 2


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
