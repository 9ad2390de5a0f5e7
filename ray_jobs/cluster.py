"""What every driver does first: join the cluster, with the libraries of its workers kept quiet."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from calogan import provenance
from calogan.errors import CaloganError, ServiceError
from calogan.training.loop import Epoch

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "LOGLEVEL": "ERROR", "MLFLOW_DISABLE_TELEMETRY": "true"}


def join() -> None:
    """Connect to the cluster of the job, or start one on this machine.

    Raises:
        ServiceError: the cluster that RAY_ADDRESS names does not answer.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    told = {provenance.COMMIT_VARIABLE: provenance.git_commit()}
    passed = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI",) if name in os.environ}
    try:
        ray.init(runtime_env={"env_vars": _QUIET | told | passed}, log_to_driver=True, logging_level="WARNING")
    except ConnectionError as error:
        raise ServiceError(f"no Ray cluster at {os.environ.get('RAY_ADDRESS', 'auto')} ({error})") from error


def cores() -> int:
    """Cores a single task can have: those of the largest node."""
    return max(1, int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])))


def say(step: str, text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {step:<10} {text}", flush=True)


def say_epoch(epoch: Epoch) -> None:
    """Print an epoch of training."""
    losses = "  ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
    score = "" if epoch.score is None else f"  physics score {epoch.score:.3f}"
    say("train", f"{epoch.number + 1:>3}/{epoch.of}  {epoch.stage:<11} {epoch.seconds:5.1f} s  {losses}{score}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def run(command: Callable[[], None]) -> None:
    """Run a driver; an error of this package becomes one line and its exit code, on whichever node it was raised."""
    try:
        command()
    except CaloganError as error:
        # Ray's copy of an error raised by a task carries the traceback; its cause is the error itself.
        cause = getattr(error, "cause", error)
        print(f"error: {cause}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
