"""All of calogan on this machine: start Ray and MLflow, run the pipeline, serve int8 showers, request some.

Every process that this script starts has a mark in its environment, by which it is found and stopped: at the end, after
Ctrl-C, after a failure, or by `--stop` after `--keep`.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import httpx
import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.markup import escape

from calogan import provenance, quiet
from calogan.atomic_files import write_text
from calogan.cli.program import ignore_stop_signals
from calogan.cli.program import run as run_program
from calogan.config import load_config
from calogan.errors import ServiceError
from calogan.events import read_events
from calogan.reporting import terminal
from calogan.reporting.pictures import save, shower_picture
from calogan.serving.keys import KEY_VARIABLE
from calogan.tracking.runs import comparison_url

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".demo"
MARK = "CALOGAN_DEMO"
BESIDE = "rehm2021"  # the packaged model that is compared with the one the demo trains
GRACE_S, KILL_S = 8.0, 30.0  # time for processes to end after SIGTERM, and after SIGKILL
PICTURE_GEV = 200.0
# Messages of Ray's client and of TensorFlow's native code, which are shown only in the log.
_NOISE = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]+\s+(INFO|SUCC|WARNING working_dir)|Running entrypoint for job|.*(absl::InitializeLog| I0000 00:00:|[\t ]INFO |color_warning\(|/data_validation\.py:)"
)
_RAY_TASK = re.compile(r"^(\x1b\[\d+m)?\(\w+ pid=\d+\)(\x1b\[0m)? ")
_screen = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option("--keep", is_flag=True, help="Leave Ray, MLflow and the endpoint running.")
@click.option("--stop", "only_stop", is_flag=True, help="Stop what --keep left running.")
@click.option("--config", default="tiny", show_default=True, help="Configuration of the pipeline.")
def main(keep: bool, only_stop: bool, config: str) -> None:
    """Run the demonstration."""
    if only_stop:
        _screen.print(f"stopped {stop()} processes")
        return
    if marked():
        raise ServiceError("a demo is still running in this folder; stop it with: make stop")
    started = time.monotonic()
    try:
        demonstrate(config)
        if not keep:
            ignore_stop_signals()
    except BaseException:
        finish(started)
        raise
    if keep:
        minutes = (time.monotonic() - started) / 60
        _screen.print(f"\n[bold]kept running[/] after {minutes:.1f} minutes; stop everything with: make stop")
    else:
        finish(started)


def finish(started: float) -> None:
    """Stop everything, ignoring further signals, even if the terminal has been closed."""
    ignore_stop_signals()
    try:
        _screen.print(f"\nstopping what was started ({(time.monotonic() - started) / 60:.1f} minutes)")
    finally:
        stop()


def demonstrate(config_name: str) -> None:
    """Everything, in order."""
    config = load_config(config_name)
    if not shutil.which("curl"):
        raise ServiceError("curl is not installed, but the demo needs it; install it (apt-get install curl)")
    FOLDER.mkdir(exist_ok=True)
    storage = FOLDER / "storage"
    shutil.rmtree(storage, ignore_errors=True)
    mlflow_uri, dashboard, environment = start_servers()
    say("pipeline", "ray job submit: train, quantize, validate, benchmark, register")
    job = ["ray", "job", "submit", "--address", dashboard, "--working-dir", str(ROOT), "--"]
    pipeline = ["python", "-m", "ray_jobs.pipeline", "--config", config_name, "--storage", str(storage)]
    follow([*job, *pipeline, "--beside", BESIDE], environment)
    summary = json.loads((storage / config.name / "summary.json").read_text(encoding="utf-8"))
    say("deploy", "serve deploy deploy/serve.yaml")
    endpoint = deploy(dashboard, environment)
    quiet.load_tensorflow()  # before other imports of it, which would print to the screen
    from calogan import steps  # noqa: PLC0415

    reference = steps.read_split(config, "test")
    shown = int(np.argmin(np.abs(reference.energy - PICTURE_GEV)))
    energy = float(reference.energy[shown])
    curl = curl_line(endpoint, environment[KEY_VARIABLE], energy)
    ask(curl, environment)
    generated = read_events(FOLDER / "showers.h5")
    picture = FOLDER / "showers.png"
    figure = shower_picture(
        reference.showers[shown],
        generated.showers[0],
        reference_title=f"Geant4, {energy:.1f} GeV electron",
        generated_title=f"calogan int8, {energy:.1f} GeV electron",
    )
    save(figure, picture)
    terminal.show(terminal.summary_table(summary))
    models = (summary["precisions"], *summary["beside"].values())
    runs = [run["run_id"] for precisions in models for run in precisions.values()]
    _screen.print(f"\n[bold]comparison[/]  {escape(comparison_url(runs, tracking_uri=mlflow_uri))}")
    page = storage / config.name / "report.html"
    _screen.print(f"[bold]report[/]      {page.relative_to(ROOT)}: every figure and gate, on one page")
    _screen.print("[bold]ask for showers[/]")
    _screen.print(f"  {curl}", markup=False)
    _screen.print(f"[bold]picture[/]     {picture.relative_to(ROOT)}: a generated beside a Geant4 shower")


def start_servers() -> tuple[str, str, dict[str, str]]:
    """Start MLflow and a Ray cluster; returns both addresses and the environment of their clients."""
    defaults = {"mlflow": 5000, "dashboard": 8265, "agent": 52365, "gcs": 6379}
    ports = {name: free_port(port) for name, port in defaults.items()}
    mlflow_uri, dashboard = (f"http://127.0.0.1:{ports[name]}" for name in ("mlflow", "dashboard"))
    environment = os.environ | {
        MARK: str(FOLDER),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "MLFLOW_TRACKING_URI": mlflow_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        KEY_VARIABLE: secrets.token_hex(16),
        provenance.COMMIT_VARIABLE: provenance.git_commit(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "LOGLEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }
    os.environ["MLFLOW_TRACKING_URI"] = mlflow_uri
    say("start", f"MLflow at {mlflow_uri} (SQLite in {FOLDER.name}/)")
    store = [
        "--backend-store-uri",
        f"sqlite:///{FOLDER}/mlflow.db",
        "--artifacts-destination",
        str(FOLDER / "artifacts"),
    ]
    start(
        "mlflow",
        ["mlflow", "server", "--host", "127.0.0.1", "--port", str(ports["mlflow"]), "--workers", "1", *store],
        environment,
    )
    say("start", f"Ray at {dashboard} (token in its environment)")
    head = ["ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(ports["gcs"])]
    board = [
        "--include-dashboard",
        "true",
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(ports["dashboard"]),
        "--dashboard-agent-listen-port",
        str(ports["agent"]),
        # Not the default folder, where Ray may find the address of another cluster; short, because of its sockets.
        "--temp-dir",
        str(scratch_folder()),
    ]
    start("ray", [*head, *board, "--disable-usage-stats"], environment)
    token = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    wait_for("MLflow", lambda: httpx.get(f"{mlflow_uri}/health").is_success)
    wait_for("Ray", lambda: httpx.get(f"{dashboard}/api/jobs/", headers=token).is_success)
    # The agent, which starts jobs, is ready later than the dashboard.
    agent = f"http://127.0.0.1:{ports['agent']}/api/local_raylet_healthz"
    wait_for("Ray", lambda: httpx.get(agent, headers=token).is_success)
    return mlflow_uri, dashboard, environment


def scratch_folder() -> Path:
    """Create a folder for Ray's logs and sockets, linked from the demo's folder; replaces that of the last demo."""
    link = FOLDER / "ray"
    if link.is_symlink():
        shutil.rmtree(link.resolve(), ignore_errors=True)
        link.unlink()
    link.symlink_to(tempfile.mkdtemp(prefix="calogan-"))
    return link.resolve()


def deploy(dashboard: str, environment: dict[str, str]) -> str:
    """Deploy deploy/serve.yaml, on another port if its own is taken; returns the endpoint once it answers."""
    path = ROOT / "deploy" / "serve.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    port = free_port(content["http_options"]["port"])
    if port != content["http_options"]["port"]:
        say("deploy", f"port {content['http_options']['port']} is taken; using {port}")
        content["http_options"]["port"] = port
        path = FOLDER / "serve.yaml"
        write_text(path, yaml.safe_dump(content))
    run(["serve", "deploy", str(path), "--address", dashboard], environment, quiet=True)
    endpoint = f"http://127.0.0.1:{port}"
    token = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}

    def running() -> bool:
        status = httpx.get(f"{dashboard}/api/serve/applications/", headers=token).json()
        application = status.get("applications", {}).get("calogan", {})
        if application.get("status") == "DEPLOY_FAILED":
            raise ServiceError(f"Ray Serve could not deploy the application: {application.get('message')}")
        return application.get("status") == "RUNNING" and httpx.get(f"{endpoint}/health").is_success

    wait_for("the endpoint", running, seconds=240)
    say("deploy", f"int8 and float32 at {endpoint}")
    return endpoint


def curl_line(endpoint: str, key: str, energy: float) -> str:
    """The command that requests showers."""
    body = json.dumps({"energy": round(energy, 3), "n": 100, "seed": 7, "precision": "int8"})
    words = [
        "curl",
        "-sS",
        "--fail-with-body",
        "-H",
        f"Authorization: Bearer {key}",
        "-H",
        "Content-Type: application/json",
    ]
    return shlex.join(
        [*words, "-d", body, f"{endpoint}/v1/showers", "-o", str(FOLDER.relative_to(ROOT) / "showers.h5")]
    )


def ask(curl: str, environment: dict[str, str]) -> None:
    """Run the printed command twice: equal seeds must give equal bytes."""
    answers = []
    for _ in range(2):
        started = time.monotonic()
        run(shlex.split(curl), environment, quiet=True)
        answers.append(provenance.sha256(FOLDER / "showers.h5"))
        say("ask", f"100 int8 showers over HTTP in {time.monotonic() - started:.2f} s, sha256 {answers[-1][:16]}")
    if len(set(answers)) != 1:
        raise ServiceError("the same request with the same seed gave different bytes")


def say(step: str, text: str) -> None:
    """Print a line of progress."""
    _screen.print(f"[bold cyan]{step:<9}[/] {escape(text)}")


def start(name: str, command: list[str], environment: dict[str, str]) -> None:
    """Start a server whose output goes to a log file."""
    with (FOLDER / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )


def run(command: list[str], environment: dict[str, str], *, quiet: bool = False) -> None:
    """Run a command to its end; its output is always shown, or only if the command fails.

    Raises:
        ServiceError: the command failed or is not installed.
    """
    try:
        process = subprocess.run(command, env=environment, cwd=ROOT, check=False, text=True, capture_output=quiet)
    except FileNotFoundError as error:
        raise ServiceError(f"{command[0]} is not installed; the demo needs it") from error
    if process.returncode:
        output = f":\n{process.stdout}{process.stderr}" if quiet else "; what went wrong is above"
        raise ServiceError(f"{' '.join(command[:3])} failed with exit code {process.returncode}{output}")


def follow(command: list[str], environment: dict[str, str]) -> None:
    """Run a job and show its output; the messages of Ray's client go to the log only.

    Raises:
        ServiceError: the job failed.
    """
    log_path = FOLDER / "job.log"
    with (
        subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as job,
        log_path.open("w", encoding="utf-8") as log,
    ):
        for line in job.stdout or ():
            log.write(line)
            if not _NOISE.match(line):
                _screen.print(_RAY_TASK.sub("", line.rstrip()), markup=False)
    if job.returncode:
        raise ServiceError(
            f"the job failed with exit code {job.returncode}; its whole output is in {log_path.relative_to(ROOT)}"
        )


def wait_for(name: str, answers: Callable[[], bool], *, seconds: float = 90) -> None:
    """Wait until a server answers.

    Raises:
        ServiceError: it does not answer in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answers():
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.5)
    raise ServiceError(f"{name} does not answer after {seconds:.0f} s; its log is in {FOLDER.name}/")


def free_port(preferred: int) -> int:
    """Return the port if it is free, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError("no free port on this machine")


def marked() -> set[psutil.Process]:
    """The processes that a demo in this folder has started, with their children.

    The children are needed because Ray processes that set a title lose their environment, and so the mark.
    """
    processes: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(FOLDER) and process.pid != os.getpid():
                processes |= {process, *process.children(recursive=True)}
    return processes


def stop() -> int:
    """Stop these processes, and those they start meanwhile, until none is left; returns their number.

    Raises:
        ServiceError: some of them do not end.
    """
    processes: set[psutil.Process] = set()
    alive, started = marked(), time.monotonic()
    while alive:
        waited = time.monotonic() - started
        if waited > GRACE_S + KILL_S:
            raise ServiceError(f"processes {', '.join(str(process.pid) for process in alive)} do not end; kill them")
        for process in alive:
            with contextlib.suppress(psutil.Error):
                if waited > GRACE_S:
                    process.kill()
                elif process not in processes:
                    process.terminate()
        processes |= alive
        _, survivors = psutil.wait_procs(alive, timeout=0.5)
        alive = {*survivors, *marked()}  # children of a process that has ended are no longer found through it
    return len(processes)


if __name__ == "__main__":
    run_program(main)
