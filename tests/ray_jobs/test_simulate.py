"""The distributed simulation, stopped in every way: the result equals that of an undisturbed run."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calogan import provenance
from calogan.events import open_events, productions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ARGUMENTS = ["--engine", "parametric", "--energy", "100:500", "--n", "6000", "--shard-size", "500", "--seed", "3"]
SHARDS = 12


def count_shards(folder: Path) -> int:
    return len(list(folder.glob("showers-*.h5")))


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: provenance.sha256(path) for path in sorted(folder.iterdir())}


def test_killed_workers_and_a_killed_driver_lose_nothing_and_change_nothing(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    whole = start("simulate", *ARGUMENTS, "--out", undisturbed)
    output = whole.end()
    assert whole.process.returncode == 0, output
    assert "6000 of 6000 showers, 100%" in output

    # The driver with all that belongs to it is killed while shards are being written.
    first = start("simulate", *ARGUMENTS, "--out", disturbed)
    first.wait_until(lambda: count_shards(disturbed) >= 2)
    first.kill()
    times = {path: path.stat().st_mtime_ns for path in disturbed.glob("showers-*.h5")}
    assert 2 <= len(times) < SHARDS

    # Then a worker, once it works on a shard.
    second = start("simulate", *ARGUMENTS, "--out", disturbed)
    second.wait_until(lambda: count_shards(disturbed) >= len(times) + 2)
    workers = second.workers("make_shard")
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    output = second.end()
    assert second.process.returncode == 0, output

    assert all(path.stat().st_mtime_ns == written for path, written in times.items())
    assert checksums(disturbed) == checksums(undisturbed)
    assert productions.check_manifest(disturbed) == []
    assert len(open_events(disturbed)) == 6000


def test_another_production_in_the_folder_is_one_readable_line(tmp_path: Path, start: Callable[..., Any]) -> None:
    (tmp_path / "showers.h5").write_bytes(b"")
    driver = start("simulate", *ARGUMENTS, "--out", tmp_path)
    output = driver.end()
    assert driver.process.returncode == 2
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith(f"error: {tmp_path} holds files, but no production.json")
