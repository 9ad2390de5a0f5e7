"""Validation in parts on a real Ray cluster."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import ray
from click.testing import CliRunner

from calogan.cli.main import cli
from calogan.errors import GateError
from calogan.events import Events, open_events, packaged_sample, read_events, write_events
from calogan.validation import validate
from calogan.validation.gates import load_gates
from calogan.validation.parts import Part, PartSummary, observe_part
from calogan.validation.report import ValidationReport, report_to_dict
from ray_jobs import validate as job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two cores."""
    # A folder of its own, so that other clusters on this machine are left alone; a short name, for its sockets.
    scratch = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=scratch, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of each sample, in two files."""
    folder = tmp_path_factory.mktemp("showers")
    events = read_events(packaged_sample())
    for name, factor in (("reference", 1.0), ("candidate", 1.02), ("float32", 1.021)):
        (folder / name).mkdir()
        scaled = Events(events.showers * np.float32(factor), events.energy)
        write_events(folder / name / "a.h5", scaled[:700], header={})
        write_events(folder / name / "b.h5", scaled[300:], header={})
    return folder


def plain(report: ValidationReport) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(report_to_dict(report)))
    return content


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What one process measures."""
    sources = [open_events(folder / name) for name in ("reference", "candidate", "float32")]
    inputs = [path for source in sources for path in source.paths]
    return plain(validate.validate(sources[0], sources[1], float32=sources[2], seed=4, inputs=inputs))


def test_parts_on_workers_one_of_which_dies_give_the_report_of_one_process(
    cluster: None, folder: Path, alone: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "died"

    @ray.remote(num_cpus=1, max_retries=3)  # type: ignore[untyped-decorator]
    def mortal(part: Part, source: tuple[str, ...], float32: tuple[str, ...]) -> PartSummary:
        if (part.of, part.start) == (1, 1024) and not marker.exists():
            marker.touch()
            os._exit(1)
        return observe_part(open_events(source), part, open_events(float32) if float32 else None)

    names = [(str(folder / name),) for name in ("reference", "candidate", "float32")]
    report = job.validate(*names, gates=load_gates(), seed=4, blocks=1, task=mortal)

    assert marker.exists()
    assert plain(report) == alone
    output = capsys.readouterr().out
    for text in ("reference: 1,024 of 1,400", "reference: 1,400 of 1,400", "candidate: 1,400 of 1,400"):
        assert f"{text} showers" in output


def test_the_job_and_the_command_do_the_same_with_the_same_options(
    cluster: None, folder: Path, alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "join", lambda: None)  # of the cluster this process is in already
    monkeypatch.chdir(folder)
    gates = tmp_path / "gates.toml"
    gates.write_text('"physics/sampling_fraction_shift" = { limit = 0.001 }')
    samples = ["--reference", "reference", "--candidate", "int8=candidate/*.h5", "--candidate", "float32=float32"]
    arguments = [*samples, "--float32", "int8=float32", "--seed", "4", "--quick", "--gates", str(gates)]
    results = {}
    commands: dict[str, tuple[click.Command, list[str]]] = {
        "command": (cli, ["validate"]),
        "job": (job.main, ["--blocks", "2"]),
    }
    for name, (command, first) in commands.items():
        files = ["--json", str(tmp_path / f"{name}.json"), "--html", str(tmp_path / f"{name}.html")]
        results[name] = CliRunner().invoke(command, [*first, *arguments, *files])

    for result in results.values():
        assert isinstance(result.exception, GateError), result.output
        assert result.exception.exit_code == 3
        message = "1 of 1 gates failed: physics/sampling_fraction_shift"
        assert str(result.exception) == f"int8: {message}; float32: {message}"
    texts = {name: (tmp_path / f"{name}.json").read_text() for name in results}
    assert texts["job"] == texts["command"]
    candidates = json.loads(texts["job"])["candidates"]
    assert list(candidates) == ["int8", "float32"]
    assert candidates["int8"]["metrics"] == alone["metrics"]
    assert "physics/pixelwise_mean" not in candidates["float32"]["metrics"]
    assert (tmp_path / "job.html").read_text() == (tmp_path / "command.html").read_text()


def test_the_job_has_all_options_of_the_command() -> None:
    """And one of its own."""
    own, shared = (
        {option.name: option for option in command.params} for command in (job.main, cli.commands["validate"])
    )
    assert own.keys() - shared.keys() == {"blocks"}
    assert all(own[name].to_info_dict() == option.to_info_dict() for name, option in shared.items())
