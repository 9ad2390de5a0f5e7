"""The wheel in a fresh environment and another folder, as a user installs it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = "{}.{}".format(*sys.version_info)
# Everything that the demo does, as fast as possible; the model need not pass its gates.
CONFIG = """
name = "small"
[network]
width = 16
[training]
flow_epochs = 1
shape_epochs = 2
shape_flow_epochs = 1
score_every = 0
warmup_epochs = 0
adversarial_epochs = 0
[quantization]
calibration_showers = 32
[validation]
gates = "demo"
draws = 1
thorough = false
cell_trainings = 0
[benchmark]
batch_size = 32
repetitions = 1
"""

KEY = "key of the tests"
Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel; uv installs it where there is one, as `make install` does."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = ["uv", "pip", "install", "--python", str(python)] if shutil.which("uv") else [python, "-m", "pip", "install"]
    constraints = ROOT / "constraints" / f"{VERSION}.txt"
    subprocess.run([*pip, "--quiet", "--constraint", constraints, wheel], check=True)
    return python.parent


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Runs a program of the environment in a folder of its own, with nothing of the repository in reach."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "RAY"))
    }
    path = f"{environment}:{os.environ['PATH']}"
    folder = tmp_path / "work"
    folder.mkdir()
    variables |= {"PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "RAY_USAGE_STATS_ENABLED": "0"}

    def run_it(program: str, *arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [environment / program, *arguments],
            cwd=folder,
            env=variables | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code, f"{program} {' '.join(arguments)}\n{result.stdout}\n{result.stderr}"
        return result

    return run_it


def test_it_holds_the_data_of_the_package_and_the_drivers(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = subprocess.run(
        ["git", "ls-files", "calogan", "ray_jobs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(modules) <= names
    assert {"configs", "detectors", "gates", "models", "showers", "templates"} <= {
        name.split("/")[2] for name in names if name.startswith("calogan/data/")
    }
    assert not {name for name in names if not name.startswith(("calogan/", "ray_jobs/", "calogan-"))}


def test_it_generates_and_validates(run: Run, tmp_path: Path) -> None:
    sample = run("python", "-c", "from calogan.events import packaged_sample; print(packaged_sample())").stdout.strip()
    assert not sample.startswith(str(ROOT))
    run("calogan", "generate", "--model", "lean", "--precision", "int8", "--n", "2000", "--seed", "1", "-o", "int8.h5")
    run("calogan", "validate", "--reference", sample, "--candidate", "int8.h5", "--quick", "--json", "report.json")
    report = json.loads((tmp_path / "work" / "report.json").read_text())
    assert {gate["verdict"] for gate in report["gates"].values()} <= {"passed", "undecided"}


def test_the_way_of_the_demo_needs_no_checkout(run: Run, environment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "small.toml").write_text(CONFIG)
    result = run("python", "-m", "ray_jobs.pipeline", "--config", "small.toml", "--storage", "storage")
    assert re.search(r"done +\S+/work/storage/small/summary.json", result.stdout)
    summary = json.loads((folder / "storage" / "small" / "summary.json").read_text())
    assert set(summary["precisions"]) == {"float32", "int8"}
    assert summary["precisions"]["int8"]["uri"] == "models:/small/2"
    with serving(environment / "calogan", folder) as address:
        ask = ["generate", "--url", address, "--energy", "200", "--n", "10", "-o", "served.h5"]
        run("calogan", *ask, CALOGAN_API_KEY=KEY)
    assert "10 showers" in run("calogan", "inspect", "served.h5").stdout


@contextlib.contextmanager
def serving(program: Path, folder: Path) -> Iterator[str]:
    """An endpoint with the model of the pipeline; yields its address."""
    command = [str(program), "serve", "--model", "storage/small", "--port", "0"]
    environment = os.environ | {"CALOGAN_API_KEY": KEY}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        try:
            yield next(match[1] for line in server.stderr if (match := re.search(r"documentation: (\S+)/docs", line)))
        finally:
            server.send_signal(signal.SIGINT)
