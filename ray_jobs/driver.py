"""Common code of the drivers: join the cluster with quiet libraries, wait for tasks, print progress."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from calogan import provenance
from calogan.cli.program import catch_stop_signals
from calogan.config import Config
from calogan.errors import ServiceError
from calogan.training.loop import Epoch

_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "LOGLEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_CLEANING_S = 10.0


def join() -> None:
    """Connect to the cluster of the job, or start one on this machine.

    Raises:
        ServiceError: the cluster that RAY_ADDRESS names does not answer, or none can be started here.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    commit = {provenance.COMMIT_VARIABLE: provenance.git_commit()}
    # Ray Train's helpers look up the cluster again; with several on a machine they could find the wrong one.
    variables = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS") if name in os.environ}
    try:
        ray.init(runtime_env={"env_vars": _QUIET | commit | variables}, log_to_driver=True, logging_level="WARNING")
    except ConnectionError as error:
        raise ServiceError(f"no Ray cluster at {os.environ.get('RAY_ADDRESS', 'auto')} ({error})") from error
    except Exception as error:  # Ray raises it as it is when one of its processes does not start in time
        if type(error) is not Exception:
            raise
        raise ServiceError(f"Ray did not start on this machine: {error}; try again when it is less busy") from error
    catch_stop_signals()  # Ray has replaced them with its own handlers, which abort this process


@contextlib.contextmanager
def cancelled_with_driver(tasks: Sequence[Any]) -> Iterator[None]:
    """Cancel these tasks if the driver is stopped, and let their workers clean up.

    Otherwise Ray would kill the workers as soon as the driver ends, even while they write a file.
    """
    try:
        yield
    except KeyboardInterrupt:
        for task in reversed(tasks):  # waiting tasks first, so that workers do not start them
            ray.cancel(task)
        ray.wait(list(tasks), num_returns=len(tasks), timeout=_CLEANING_S, fetch_local=False)
        raise


def get(task: Any) -> Any:
    """Wait for the result of a task that writes files."""
    with cancelled_with_driver([task]):
        return ray.get(task)


def node_cores() -> list[int]:
    """Cores of every node of the cluster."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def cores_each(nodes: list[int], tasks: int) -> int:
    """Largest number of cores per task with which all tasks fit onto these nodes at once; 1 if they do not fit."""
    fitting = (n for n in range(1, max(nodes, default=0) + 1) if sum(node // n for node in nodes) >= tasks)
    return max(fitting, default=1)


def workers_for(nodes: list[int]) -> int:
    """Number of equal workers, at most one per node, that use the most cores; the smallest such number."""
    counts = [node for node in nodes if node]
    return max(range(1, len(counts) + 1), key=lambda workers: workers * cores_each(counts, workers), default=1)


def threads(number: int) -> dict[str, str]:
    """Environment variables that make TensorFlow use this number of cores."""
    return {"TF_NUM_INTRAOP_THREADS": str(number), "TF_NUM_INTEROP_THREADS": str(number)}


def flat(config: Config) -> dict[str, Any]:
    """Values of a configuration by `section.name`, for MLflow's parameters."""
    sections = {name: value for name, value in config.model_dump().items() if isinstance(value, dict)}
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def say(step: str, text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {step:<10} {text}", flush=True)


def say_epoch(epoch: Epoch) -> None:
    """Print an epoch of training."""
    losses = "  ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
    score = "" if epoch.score is None else f"  physics score {epoch.score:.3f}"
    say("train", f"{epoch.number + 1:>3}/{epoch.of}  {epoch.stage:<11} {epoch.seconds:5.1f} s  {losses}{score}")
