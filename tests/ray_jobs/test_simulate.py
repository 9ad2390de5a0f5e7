"""The distributed simulation, stopped in every way: what comes out is what an undisturbed run makes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from calogan import production, provenance
from calogan.events import open_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--engine", "parametric", "--energy", "100:500", "--n", "6000", "--shard-size", "500", "--seed", "3"]
SHARDS = 12


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # A folder of its own, for there Ray looks up which cluster a driver belongs to; a short name, for its sockets.
    scratch = tempfile.mkdtemp(prefix="ray-")
    yield os.environ | {
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        provenance.COMMIT_VARIABLE: "0123456789ab",
    }
    shutil.rmtree(scratch, ignore_errors=True)


def start(folder: Path, environment: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "ray_jobs.simulate", *ARGUMENTS, "--out", str(folder), *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def done(folder: Path) -> int:
    return len(list(folder.glob("showers-*.h5")))


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: provenance.sha256(path) for path in sorted(folder.iterdir())}


def test_killed_workers_and_a_killed_driver_lose_nothing_and_change_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    whole = start(undisturbed, environment)
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert "6000 of 6000 showers, 100%" in said

    # The driver with all that belongs to it is killed while shards are being written.
    first = start(disturbed, environment)
    wait_until(lambda: done(disturbed) >= 2, first)
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in family:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    first.wait(timeout=30)
    assert first.stdout
    first.stdout.close()
    kept = {path: path.stat().st_mtime_ns for path in disturbed.glob("showers-*.h5")}
    assert 2 <= len(kept) < SHARDS

    # Then a worker, once it works on a shard.
    second = start(disturbed, environment)
    wait_until(lambda: done(disturbed) >= len(kept) + 2, second)
    workers = [p for p in psutil.Process(second.pid).children(recursive=True) if "make_shard" in " ".join(p.cmdline())]
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said

    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert checksums(disturbed) == checksums(undisturbed)
    assert production.check_manifest(disturbed) == []
    assert len(open_events(disturbed)) == 6000


def test_another_production_in_the_folder_is_one_readable_line(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "showers.h5").write_bytes(b"")
    process = start(tmp_path, environment)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"error: {tmp_path} holds files, but no production.json")
