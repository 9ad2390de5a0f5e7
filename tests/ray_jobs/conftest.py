"""Drivers as processes, each with a Ray cluster of its own that ends with it, and their configuration."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from calogan import provenance

ROOT = Path(__file__).parents[2]
# Hardly trained and hardly judged.
SMALL: dict[str, dict[str, object]] = {
    "data": {"train": 0.3, "validation": 0.1, "calibration": 0.1, "test": 0.5},
    "network": {"width": 8},
    "training": {"flow_epochs": 1, "shape_epochs": 1, "adversarial_epochs": 0},
    "quantization": {"calibration_showers": 32},
    "tuning": {"draws": 1, "repeats": 2, "tolerance": 0.9},
    "validation": {"candidates": ["float32", "int8"], "draws": 1, "cell_trainings": 0},
    "benchmark": {"batch_size": 16, "repetitions": 2},
}


@pytest.fixture(scope="session")
def write_config() -> Callable[..., Path]:
    """Write a configuration whose gates everything passes: the file, and sections in which it differs from `SMALL`."""

    def write(path: Path, **changed: dict[str, object]) -> Path:
        gates = path.with_name("gates.toml")
        gates.write_text('"physics/sampling_fraction_shift" = { limit = 1e6 }\n')
        lines = [f'name = "{path.stem}"']
        for name, usual in SMALL.items():
            values = usual | changed.get(name, {}) | ({"gates": str(gates)} if name == "validation" else {})
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@dataclass(frozen=True)
class Driver:
    """A driver that is running."""

    process: "subprocess.Popen[str]"

    def wait_until(self, happened: Callable[[], bool], *, every: float = 0.02) -> None:
        """Look, every so many seconds, until it has happened."""
        end = time.monotonic() + 600
        while not happened():
            assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
            assert time.monotonic() < end
            time.sleep(every)

    def workers(self, name: str) -> list[psutil.Process]:
        """Processes of its cluster with this name in their command line."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in family if name in " ".join(process.cmdline())]

    def kill(self) -> None:
        """Kill it and all that belongs to it, with signal 9."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.communicate(timeout=30)

    def end(self) -> str:
        """Wait for its end and return its output."""
        output, _ = self.process.communicate(timeout=900)
        return output


@pytest.fixture
def start() -> Iterator[Callable[..., Driver]]:
    """Start a driver: name of its module, arguments, variables of its environment."""
    # A folder of its own, for there Ray looks up which cluster a driver belongs to; a short name, for its sockets.
    scratch = tempfile.mkdtemp(prefix="ray-")
    environment = os.environ | {
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        provenance.COMMIT_VARIABLE: "0123456789ab",
    }
    started: list[Driver] = []

    def start(module: str, *arguments: object, **variables: str) -> Driver:
        command = [sys.executable, "-m", f"ray_jobs.{module}", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(Driver(process))
        return started[-1]

    yield start
    for driver in started:
        if driver.process.poll() is None:
            driver.kill()
    shutil.rmtree(scratch, ignore_errors=True)
