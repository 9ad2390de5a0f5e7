import hashlib
import json
import shutil
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


@pytest.fixture
def another_model(copied: Path, tmp_path: Path) -> Path:
    """A consistent model with other files; it cannot be run."""
    another = tmp_path / "another"
    shutil.copytree(copied, another)
    description = json.loads((another / model_folder.DESCRIPTION).read_text())
    for name in description["sha256"]:
        alter(another / name)
        description["sha256"][name] = hashlib.sha256((another / name).read_bytes()).hexdigest()
    (another / model_folder.DESCRIPTION).write_text(json.dumps(description))
    return another


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
    assert not list((tmp_path / "int8").glob("network.float32.*"))
    assert int8.version("int8") == model_folder.read(tiny_model).version("int8")
    assert int8.quantization
    assert int8.weight_bits == model_folder.read(tiny_model).weight_bits is not None
    float32 = model_folder.copy(tiny_model, tmp_path / "float32", precisions=("float32",))
    assert list(float32.network_files) == ["float32"]
    assert float32.quantization == {}
    assert float32.weight_bits is None


def test_a_precision_that_is_not_there_cannot_be_copied(tiny_model: Path, tmp_path: Path) -> None:
    model_folder.copy(tiny_model, tmp_path / "float32", precisions=("float32",))
    with pytest.raises(ModelError, match="model tiny has no int8, only float32"):
        model_folder.copy(tmp_path / "float32", tmp_path / "int8", precisions=("int8",))
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize("role", ["prepare", "float16", "weights"])
def test_an_altered_file_is_not_copied(role: str, copied: Path, tmp_path: Path) -> None:
    alter(file(copied, role))
    with pytest.raises(ModelError, match="is not the file that was written"):
        model_folder.copy(copied, tmp_path / "again")


def test_a_model_may_go_without_its_weights(copied: Path, tmp_path: Path) -> None:
    description = model_folder.read(copied)
    (copied / description.weights).unlink()
    others = {name: hash_ for name, hash_ in description.sha256.items() if name != description.weights}
    model_folder.write(copied, description.model_copy(update={"sha256": others}))
    again = model_folder.copy(copied, tmp_path / "again")
    assert again.sha256 == others
    assert {path.name for path in (tmp_path / "again").iterdir()} == {*others, model_folder.DESCRIPTION}


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


@pytest.mark.parametrize("role", ["prepare", "float32", "cells"])
def test_a_missing_or_altered_file_is_found(role: str, copied: Path) -> None:
    description, path = model_folder.read(copied), file(copied, role)
    alter(path)
    with pytest.raises(ModelError, match=rf"{path.name}: is not the file that was written"):
        model_folder.check_files(copied, description, "float32")
    path.unlink()
    with pytest.raises(ModelError, match=rf"{path.name}: is missing"):
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
        ({"energy_bands": [5.0, 5.0]}, "energy_bands: expected increasing energies"),
        ({"energy_bands": [-1.0]}, "energy_bands.0: Input should be greater than 0"),
        ({"latent_size": "41"}, "latent_size: Input should be a valid integer"),
        ({"latent_size": 10**9}, "latent_size: Input should be less than"),
        ({"network_files": {"int4": "network.int4.pb"}}, r"network_files.int4.\[key\]: String should match pattern"),
        ({"weights": "../evil.weights.h5"}, "weights: String should match pattern"),
        ({"prepare": "another.pb"}, "sha256: has no hash of another.pb"),
        ({"weight_bits": 6}, "weight_bits: Input should be 7 or 8"),
        ({"network_files": {}}, "network_files: Dictionary should have at least 1 item"),
        ({"sha256": {}}, "sha256: has no hash of .*prepare"),
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
    path = file(copied, "prepare")
    path.rename(tmp_path / "elsewhere.pb")
    path.symlink_to(tmp_path / "elsewhere.pb")
    with pytest.raises(ModelError, match=rf"{path.name}: is a link to a file outside the model"):
        model_folder.check_files(copied, model_folder.read(copied), "int8")
    (tmp_path / "link").symlink_to(copied)  # a folder may be reached by a link
    path.unlink()
    (tmp_path / "elsewhere.pb").rename(path)
    model_folder.check_files(tmp_path / "link", model_folder.read(tmp_path / "link"), "int8")


def test_folders_written_by_version_0_1_0_are_read(copied: Path) -> None:
    entries = make_old(copied)
    description = model_folder.read(copied)
    assert description.weight_bits is None
    assert entries == description.model_dump(mode="json", exclude_unset=True)
    for precision in description.network_files:
        model_folder.check_files(copied, description, precision)


@pytest.mark.parametrize("role", ["prepare", "bfloat16", "weights", "cells"])
def test_a_network_is_not_replaced_beside_an_altered_file(role: str, copied: Path) -> None:
    description, path = model_folder.read(copied), file(copied, role)
    alter(path)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(ModelError, match=rf"{path.name}: is not the file that was written"):
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


# Changes the model in a process that dies at its n-th file operation in the folder, for every n.
KILLED = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from calogan.generation import model_folder
action, source, another, folder = sys.argv[1], *map(Path, sys.argv[2:])
substitute = model_folder.read(another)
change = {
    "copy": lambda: model_folder.copy(another, folder),
    "copy a part": lambda: model_folder.copy(another, folder, precisions=("float32",)),
    "replace": lambda: model_folder.replace_network(folder, old, b"another", {}),
    "replace in a copy": lambda: model_folder.replace_network(another, substitute, b"another", {}, target=folder),
}[action]
for n in itertools.count():
    shutil.rmtree(folder, ignore_errors=True)
    old = model_folder.copy(source, folder)
    if not (child := os.fork()):
        calls = itertools.count(n, -1)
        def hook(event, arguments):
            if event in ("open", "os.rename", "os.remove") and str(folder) in str(arguments[0]) and next(calls) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        change()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    description = model_folder.read(folder)
    for precision in description.network_files:
        model_folder.check_files(folder, description, precision)
    model_folder.check_file(folder, description, description.weights)
    print(n, "old" if description == old else "new", flush=True)
    if os.WIFEXITED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("action", ["copy", "copy a part", "replace", "replace in a copy"])
def test_whenever_it_is_killed_the_model_is_whole(
    action: str, tiny_model: Path, another_model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, action, str(tiny_model), str(another_model), str(tmp_path / "copy")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    states = [line.split()[1] for line in result.stdout.splitlines()]
    assert states == sorted(states, reverse=True)
    assert states.count("old") > 5
    assert states.count("new") >= 2


def test_a_replaced_model_stays_for_its_readers_until_the_next_one(
    copied: Path, tiny_model: Path, another_model: Path
) -> None:
    first = model_folder.read(copied)
    second = model_folder.copy(another_model, copied)
    for description in (first, second):
        for precision in description.network_files:
            model_folder.check_files(copied, description, precision)
    third = model_folder.copy(tiny_model, copied, precisions=("float32",))
    assert {path.name for path in copied.iterdir()} == {*second.sha256, *third.sha256, model_folder.DESCRIPTION}


def test_other_files_in_the_folder_stay(copied: Path, another_model: Path) -> None:
    own = [copied / name for name in ("README.md", "prepare.txt", "network.pb", "my.weights.h5", "training/prepare.pb")]
    (copied / "training").mkdir()
    for path in own:
        path.write_text("own")
    for _ in range(3):
        model_folder.copy(another_model, copied)
    assert [path.read_text() for path in own] == ["own"] * len(own)


def test_a_copy_of_a_0_1_0_model_gets_hashed_file_names(copied: Path, tmp_path: Path) -> None:
    make_old(copied)
    old = model_folder.read(copied)
    new = model_folder.copy(copied, tmp_path / "again")
    assert not set(new.sha256) & set(old.sha256)
    assert set(new.sha256.values()) == set(old.sha256.values())
    assert all(name.split(".")[-2 - name.endswith(".h5")] == hash_[:12] for name, hash_ in new.sha256.items())
    assert [new.version(name) for name in new.network_files] == [old.version(name) for name in old.network_files]


def make_old(folder: Path) -> dict[str, Any]:
    """Turn a folder into one of version 0.1.0: no hashes in the names, and `model.json` does not name all files.

    Returns:
        What is then in `model.json`.
    """
    entries = json.loads((folder / model_folder.DESCRIPTION).read_text())

    def old(name: str) -> str:
        parts = name.split(".")
        del parts[-3 if name.endswith(".weights.h5") else -2]
        return ".".join(parts)

    for name in entries["sha256"]:
        (folder / name).rename(folder / old(name))
    entries["sha256"] = {old(name): hash_ for name, hash_ in entries["sha256"].items()}
    entries["network_files"] = {precision: old(name) for precision, name in entries["network_files"].items()}
    for key in ("prepare", "weights", "cells", "weight_bits", "energy_bands"):
        entries.pop(key, None)
    (folder / model_folder.DESCRIPTION).write_text(json.dumps(entries))
    return dict(entries)


def file(folder: Path, role: str) -> Path:
    """File of a model by the name of its field or by its precision."""
    description = model_folder.read(folder)
    return folder / (description.network_files.get(role) or getattr(description, role))


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
