"""How programs end, each run as a process."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, time
import click
from calogan.cli.program import run
from calogan.errors import GateError, ServiceError

class Copy(ServiceError):
    cause = ServiceError("no [server] here")

def stopped():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(1)
        print("cleaned", flush=True)

def deaf():
    try:
        stopped()
    except KeyboardInterrupt:
        stopped()

def fail(error):
    raise error

WAYS = {
    "good": lambda: None,
    "code": lambda: click.get_current_context().exit(5),
    "exit": lambda: sys.exit(3),
    "gate": lambda: fail(GateError("two gates failed")),
    "copy": lambda: fail(Copy("Traceback (most recent call last)")),
    "memory": lambda: fail(MemoryError("57 TiB")),
    "file": lambda: fail(click.FileError("x.h5", "is not there")),
    "bug": lambda: fail(ZeroDivisionError()),
    "stopped": stopped,
    "deaf": deaf,
}

@click.command(no_args_is_help=True)
@click.argument("way", type=click.Choice(WAYS))
def command(way):
    WAYS[way]()

run(command, "tried")
"""
# A shell starts background processes with SIGINT ignored, and children inherit that.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the program above, or another, with these arguments."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, program: str = PROGRAM) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HEARING + program, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.mark.parametrize(
    ("way", "code", "message"),
    [
        ("good", 0, ""),
        ("code", 5, ""),
        ("exit", 3, ""),
        ("gate", 3, "error: two gates failed\n"),
        ("copy", 4, "error: no [server] here\n"),
        ("memory", 1, "error: not enough memory (57 TiB); ask for fewer showers at once\n"),
        ("file", 1, "error: Could not open file 'x.h5': is not there\n"),
        ("--bogus", 2, "error: No such option '--bogus'. (see tried --help)\n"),
    ],
)
def test_every_error_is_one_line_and_its_exit_code(start: Start, way: str, code: int, message: str) -> None:
    process = start(way)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", message)


def test_a_bug_keeps_its_traceback(start: Start) -> None:
    process = start("bug")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "ZeroDivisionError"


def test_help_is_shown_where_arguments_are_missing(start: Start) -> None:
    process = start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("Usage: tried ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_later_signals_do_not_interrupt_the_clean_up(start: Start, number: signal.Signals) -> None:
    process = start("stopped")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    for again in (signal.SIGTERM, signal.SIGINT):
        time.sleep(0.2)
        process.send_signal(again)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "cleaned\n")
    assert err.strip() == "stopped; nothing half-written is left"


def test_a_stop_that_a_library_has_swallowed_can_be_repeated(start: Start) -> None:
    process = start(
        "deaf",
        program=PROGRAM.replace("run(command", "program._ONE_STOP_S = 1.5\nrun(command").replace(
            "import click", "import click\nfrom calogan.cli import program"
        ),
    )
    assert process.stdout
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaned\n"
        time.sleep(1)
    assert process.wait(timeout=60) == 143


def test_what_nohup_ignores_stays_ignored(start: Start) -> None:
    process = start("stopped", program=f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{PROGRAM}")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


CALOGAN = "from calogan.cli.main import main; main()"


def wait_for(path: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 200
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--model", "lean", "--energy", "500", "--n", "1000000", "--out", "{out}/x.h5"],
        ["simulate", "--energy", "500", "--n", "1000000", "--out", "{out}/x.h5"],
        ["simulate", "--engine", "geant4", "--energy", "500", "--n", "1000", "--out", "{out}/x.h5"],
    ],
    ids=["generate", "simulate", "geant4"],
)
def test_a_command_that_is_stopped_leaves_nothing(
    command: list[str], number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if "geant4" in command and importlib.util.find_spec("geant4_pybind") is None:
        pytest.skip("geant4-pybind is not installed")
    process = start(*(word.format(out=out) for word in command), program=CALOGAN)
    wait_for(out, ".*.part/x.h5", process)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "stopped; nothing half-written is left"
    assert "Traceback" not in err
    assert not list(out.iterdir())


def test_a_production_that_is_stopped_keeps_its_shards_whole(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["simulate", "--energy", "100", "--n", "1000", "--shard-size", "100", "--out", out]
    process = start(*command, program=CALOGAN)
    wait_for(out, "showers-00001.h5", process)
    wait_for(out, ".*.part/*.h5", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    files = sorted(path.name for path in out.iterdir())
    shards = [name for name in files if name.endswith(".h5")]
    assert len(shards) < 10
    assert shards == [f"showers-{number:05d}.h5" for number in range(len(shards))]
    assert files == [*(f".{name}.json" for name in shards), "production.json", *shards]  # a record of each shard
    again = start(*command, program=CALOGAN)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert f"{100 * len(shards)} of 1000 showers already exist" in err
