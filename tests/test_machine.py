from pathlib import Path

import pytest

from calogan import machine
from calogan.errors import ConfigError, OutputError
from calogan.machine import Setting
from calogan.provenance import cpu
from calogan.serving.app import AppArguments


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "folder" / "machine.json"
    monkeypatch.setenv(machine.VARIABLE, str(path))
    return path


def setting(model: str = "", cores: int = 0) -> Setting:
    return Setting(model or cpu()["model"], cores or machine.cores(), streams=7, threads=8, batch=256, threads_alone=2)


def test_the_endpoint_reads_what_the_benchmark_wrote(file: Path) -> None:
    assert (machine.read(), machine.best_threads(), AppArguments().threads) == (None, 1, 1)
    assert machine.write(setting()) == file
    assert machine.read() == setting()
    assert (machine.best_threads(), machine.best_threads(alone=True)) == (8, 2)
    assert AppArguments().threads == 8
    assert AppArguments(threads=3).threads == 3


@pytest.mark.parametrize("other", [setting(model="another"), setting(cores=1000)])
def test_a_setting_of_another_machine_does_not_count(other: Setting, file: Path) -> None:
    machine.write(other)
    assert file.is_file()
    assert machine.read() is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cpu": 1}', "\xff"])
def test_a_damaged_file_is_an_error(text: str, file: Path) -> None:
    machine.write(setting())
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="is damaged"):
        machine.read()


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("batch", 1.5), ("streams", 10**9)])
def test_impossible_numbers_are_an_error(name: str, value: float, file: Path) -> None:
    machine.write(setting())
    text = file.read_text()
    old = {"threads": '"threads": 8', "batch": '"batch": 256', "streams": '"streams": 7'}[name]
    file.write_text(text.replace(old, f'"{name}": {value}'))
    with pytest.raises(ConfigError, match="is damaged"):
        machine.read()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "file" / "machine.json"))
    with pytest.raises(OutputError, match=machine.VARIABLE):
        machine.write(setting())


def test_the_file_is_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(machine.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert machine.path() == tmp_path / "calogan" / "machine.json"
