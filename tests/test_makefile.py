"""The commands of `make install` for the interpreters on a PATH; nothing is installed."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = re.findall(r"\d+\.\d+", (ROOT / "Makefile").read_text().partition("VERSIONS := ")[2].partition("\n")[0])
THIS = "{}.{}".format(*sys.version_info)
STUB = "#!/bin/sh\necho 'command not found, but exists in these versions' >&2\nexit 127\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with the programs that make needs, and every supported Python as a stub of a version manager."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("make", "sh", "grep", "sed"):
        (folder / name).symlink_to(shutil.which(name) or "")
    for name in [*(f"python{version}" for version in VERSIONS), "python3"]:
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    return folder


def make(programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--directory", str(ROOT), "install", f"VENV={programs.parent / 'venv'}", *arguments]
    return subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)


def plant(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", [f"python{THIS}", "python3"])
def test_the_interpreter_that_runs_is_taken(programs: Path, name: str) -> None:
    plant(programs / name, f'exec {sys.executable} "$@"')
    process = make(programs, "--dry-run")
    assert f"|| {name} -m venv {programs.parent}/venv" in process.stdout


def test_without_a_supported_interpreter_it_says_which_are(programs: Path) -> None:
    process = make(programs)
    assert process.returncode == 2
    assert "no supported Python: install one of " + " ".join(VERSIONS) in process.stderr
    assert not (programs.parent / "venv").exists()


def test_an_interpreter_of_another_version_is_refused(programs: Path) -> None:
    process = make(programs, f"PYTHON={sys.executable}", "VERSIONS=2.7 3.6")
    assert process.returncode == 2
    assert "install one of 2.7 3.6" in process.stderr


def test_pip_is_used_unless_uv_is_there(programs: Path) -> None:
    assert "-m pip install" in make(programs, "--dry-run", f"PYTHON={sys.executable}").stdout
    (programs / "uv").write_text("#!/bin/sh\necho uv 1.0\n")
    (programs / "uv").chmod(0o755)
    assert "uv pip install --python" in make(programs, "--dry-run", f"PYTHON={sys.executable}").stdout


def test_every_supported_python_has_constraints_and_is_named_in_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [name.rpartition(" ")[2] for name in project["classifiers"] if re.search(r"Python :: \d+\.\d+$", name)]
    assert [path.stem for path in sorted((ROOT / "constraints").glob("*.txt"))] == VERSIONS == named
    assert project["requires-python"] == f">={VERSIONS[0]}"
