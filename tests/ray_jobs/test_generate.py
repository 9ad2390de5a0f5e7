"""The distributed generation, stopped in every way: the result equals that of an undisturbed run on one machine."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calogan import provenance
from calogan.events import open_events, productions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ARGUMENTS = ["--energy", "log:2:500", "--n", "24000", "--shard-size", "1500", "--seed", "3"]


def shards_in(folder: Path) -> dict[str, str]:
    return {path.name: provenance.sha256(path) for path in sorted(folder.glob("showers-*"))}


def test_killed_workers_and_a_killed_driver_lose_nothing_and_change_nothing(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    program = str(Path(sys.executable).with_name("calogan"))
    subprocess.run([program, "generate", *ARGUMENTS, "--out", str(undisturbed)], check=True, timeout=600)

    # The driver with all that belongs to it is killed while shards are being written.
    first = start("generate", *ARGUMENTS, "--out", disturbed)
    first.wait_until(lambda: len(shards_in(disturbed)) >= 2)
    first.kill()
    times = {path: path.stat().st_mtime_ns for path in disturbed.glob("showers-*") if _recorded(path)}

    # Then a worker, once it works on a shard.
    second = start("generate", *ARGUMENTS, "--out", disturbed)
    second.wait_until(lambda: len(shards_in(disturbed)) >= len(times) + 2)
    workers = second.workers("make_shard")
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    output = second.end()
    assert second.process.returncode == 0, output
    assert "24000 of 24000 showers, 100%" in output

    assert all(path.stat().st_mtime_ns == written for path, written in times.items())
    assert shards_in(disturbed) == shards_in(undisturbed)
    assert len(shards_in(disturbed)) == 16
    assert productions.check_manifest(disturbed) == []
    assert len(open_events(disturbed)) == 24_000


def _recorded(path: Path) -> bool:
    return path.with_name(f".{path.name}.json").exists()


def test_sigterm_leaves_nothing_half_written(tmp_path: Path, start: Callable[..., Any]) -> None:
    driver = start("generate", *ARGUMENTS, "--out", tmp_path / "p")
    driver.wait_until(lambda: len(shards_in(tmp_path / "p")) >= 2)
    driver.process.send_signal(signal.SIGTERM)
    output = driver.end()
    assert driver.process.returncode == 128 + signal.SIGTERM, output
    assert output.splitlines()[-1] == "stopped; nothing half-written is left"
    assert not list((tmp_path / "p").glob("*.part"))
    assert not list((tmp_path / "p").glob(".*.part"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "nothing"], "error: no model 'nothing'"),
        (["--energy", "1:500"], "error: energy 1:500 GeV is outside the range of this model; ask for 2 to 500 GeV"),
        (["--out", "{folder}/a.h5"], "error: {folder}/a.h5 is the name of a file; name a folder for the shards"),
        (["--out", "nowhere://bucket/folder"], "error: nowhere://bucket/folder: cannot be accessed"),
    ],
)
def test_a_wrong_description_is_one_line(
    tmp_path: Path, start: Callable[..., Any], arguments: list[str], line: str
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    driver = start("generate", "--n", 10, "--out", tmp_path / "p", *given)
    output = driver.end()
    assert driver.process.returncode == 2
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith(line.format(folder=tmp_path))
    assert not list(tmp_path.iterdir())
