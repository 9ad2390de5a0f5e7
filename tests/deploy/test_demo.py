import importlib.util
import io
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from rich.console import Console

from calogan.errors import ServiceError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """deploy/demo.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "deploy" / "demo.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def demo(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demonstration in a folder of its own, so that one that runs on this machine is not touched."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FOLDER", tmp_path / ".demo")
    module.FOLDER.mkdir()
    return module


@pytest.fixture
def screen(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(demo, "_screen", Console(file=text, highlight=False, soft_wrap=True, width=100))
    return text


def test_a_free_port_is_used(demo: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert demo.free_port(port) == port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_taken_port_is_replaced_by_a_free_one(demo: ModuleType, host: str) -> None:
    with socket.create_server((host, 0)) as listener:
        port = demo.free_port(listener.getsockname()[1])
        assert port != listener.getsockname()[1]
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.fixture
def sleepers(demo: ModuleType) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes of this demo, one of which does not listen to SIGTERM, of another demo, and of none."""
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    commands = {"ours": ["sleep", "60"], "deaf": [sys.executable, "-c", deaf], "other": ["sleep", "60"]}
    marks = {"ours": str(demo.FOLDER), "deaf": str(demo.FOLDER), "other": str(demo.FOLDER.parent / "other")}
    started = {
        name: subprocess.Popen(command, env=os.environ | {demo.MARK: marks[name]}, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    started["none"] = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, text=True)
    deaf_output = started["deaf"].stdout
    assert deaf_output
    assert deaf_output.readline() == "deaf\n"
    yield started
    for process in started.values():
        with process:
            process.kill()


def test_what_the_demo_started_is_found_and_stopped_and_nothing_else(
    demo: ModuleType, sleepers: dict[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "GRACE_S", 1.0)
    assert {process.pid for process in demo.marked()} == {sleepers["ours"].pid, sleepers["deaf"].pid}
    assert demo.stop() == 2
    assert not demo.marked()
    assert demo.stop() == 0
    assert sleepers["other"].poll() is None
    assert sleepers["none"].poll() is None
    assert sleepers["deaf"].wait(timeout=5) is not None


def test_a_process_that_has_lost_its_mark_is_stopped_with_the_one_that_started_it(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "GRACE_S", 1.0)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}], env={{}}).wait()"
    marked = os.environ | {demo.MARK: str(demo.FOLDER)}
    with subprocess.Popen([sys.executable, "-c", code], env=marked, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "deaf\n"
        assert demo.stop() == 2
        assert process.stdout.read() == ""  # nobody holds its other end any more


# The servers are stand-ins that end as badly as real ones: at once, never, or not without having started another.
STAND_IN = """
import importlib.util, os, signal, subprocess, sys, time
from pathlib import Path

signal.signal(signal.SIGINT, signal.default_int_handler)
spec = importlib.util.spec_from_file_location("demo", {script!r})
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
demo.FOLDER, demo.GRACE_S = Path({folder!r}), 3.0
WAYS = {{
    "good": "time.sleep(600)",
    "deaf": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    "fertile": "signal.signal(signal.SIGTERM, again); time.sleep(600)",
}}
AGAIN = "import signal, subprocess, time\\ndef again(*_): subprocess.Popen(['sleep', '600'], start_new_session=True)\\n"

def demonstrate(_):
    environment = os.environ | {{demo.MARK: str(demo.FOLDER)}}
    for way, code in WAYS.items():
        demo.start(way, [sys.executable, "-c", AGAIN + code], environment)
        demo.say("start", way)
    time.sleep(1)
    demo.follow(["sh", "-c", "echo working; sleep 600"], environment)

demo.demonstrate = demonstrate
sys.argv = ["demo.py"]
demo.run_program(demo.main)
"""


@pytest.fixture
def stand_in(demo: ModuleType) -> Iterator["subprocess.Popen[str]"]:
    """The demonstration as a process, with stand-ins for what takes long."""
    code = STAND_IN.format(script=str(ROOT / "deploy" / "demo.py"), folder=str(demo.FOLDER))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()
    demo.stop()


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGTERM, "start     good"), (signal.SIGTERM, "working"), (signal.SIGINT, "working")]
)
def test_a_stopped_demo_leaves_no_process_after_any_number_of_signals(
    number: signal.Signals, line: str, demo: ModuleType, stand_in: "subprocess.Popen[str]"
) -> None:
    assert stand_in.stdout
    while line not in (output := stand_in.stdout.readline()):
        assert output, "the demo has ended"
    os.killpg(stand_in.pid, number)
    # What make passes on, and somebody in a hurry.
    for again in (number, signal.SIGTERM, signal.SIGINT):
        time.sleep(0.3)
        stand_in.send_signal(again)
    output = stand_in.stdout.read()
    assert stand_in.wait(timeout=60) == 128 + number
    assert output.splitlines()[-1] == "stopped; nothing half-written is left"
    assert "Traceback" not in output
    assert not demo.marked()


def test_a_demo_whose_screen_is_gone_leaves_no_process(demo: ModuleType, stand_in: "subprocess.Popen[str]") -> None:
    assert stand_in.stdout
    while "working" not in (output := stand_in.stdout.readline()):
        assert output, "the demo has ended"
    stand_in.stdout.close()
    stand_in.send_signal(signal.SIGHUP)
    assert stand_in.wait(timeout=60)
    assert not demo.marked()


def test_a_second_demo_does_not_start(demo: ModuleType, sleepers: dict[str, subprocess.Popen[str]]) -> None:
    with pytest.raises(ServiceError, match="still running in this folder; stop it with: make stop"):
        demo.main.main([], standalone_mode=False)
    assert sleepers["ours"].poll() is None


def test_the_printed_command_survives_a_shell(demo: ModuleType) -> None:
    key = 'it\'s $HOME `id`; "quoted"'
    line = demo.curl_line("http://127.0.0.1:8000", key, 201.23456)
    printed = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    words = printed.stdout.splitlines()
    assert words == shlex.split(line)
    assert f"Authorization: Bearer {key}" in words
    assert '{"energy": 201.235, "n": 100, "seed": 7, "precision": "int8"}' in words
    assert words[-2:] == ["-o", ".demo/showers.h5"]


def test_the_error_of_a_failed_command_contains_its_output(demo: ModuleType) -> None:
    command = ["sh", "-c", "echo told; echo wrong >&2; exit 7"]
    with pytest.raises(ServiceError, match=r"(?s)failed with exit code 7:\ntold\nwrong"):
        demo.run(command, dict(os.environ), quiet=True)


def test_a_command_that_is_not_installed_is_an_error(demo: ModuleType) -> None:
    with pytest.raises(ServiceError, match="no-such-command is not installed"):
        demo.run(["no-such-command"], dict(os.environ))


def test_a_job_is_shown_without_the_messages_of_the_ray_client(demo: ModuleType, screen: io.StringIO) -> None:
    lines = [
        "2025-01-31 10:11:12,123\tINFO dashboard_sdk.py:338 -- Uploading package",
        "\x1b[36m(train pid=123)\x1b[0m 10:11:13  train      1/2 [flow]",
        "10:11:14  done",
    ]
    demo.follow(["printf", "%s\n", *lines], dict(os.environ))
    assert screen.getvalue() == "10:11:13  train      1/2 [flow]\n10:11:14  done\n"
    assert (demo.FOLDER / "job.log").read_text().splitlines() == lines


def test_a_job_that_fails_is_an_error_that_names_its_log(demo: ModuleType, screen: io.StringIO) -> None:
    with pytest.raises(ServiceError, match=r"exit code 5; its whole output is in \.demo/job\.log"):
        demo.follow(["sh", "-c", "exit 5"], dict(os.environ))


def test_text_that_looks_like_markup_is_shown_as_it_is(demo: ModuleType, screen: io.StringIO) -> None:
    demo.say("deploy", "at [/tmp] [bold]")
    assert screen.getvalue() == "deploy    at [/tmp] [bold]\n"


def test_a_server_that_never_answers_is_an_error(demo: ModuleType) -> None:
    def refused() -> bool:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServiceError, match=r"MLflow does not answer after 0 s; its log is in \.demo/"):
        demo.wait_for("MLflow", refused, seconds=0.1)


def test_an_unknown_option_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--bogus"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "deploy" / "demo.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert "'--bogus'" in capsys.readouterr().err
