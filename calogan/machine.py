"""The best arrangement of streams, threads and batches on this machine: written by the benchmark, read by the endpoint."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calogan.atomic_files import write_json
from calogan.errors import ConfigError, OutputError
from calogan.provenance import cpu

VARIABLE = "CALOGAN_MACHINE"  # another file
_LARGEST = 2**16
_MOST = 4096  # streams and threads
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What a benchmark found on one kind of machine.

    Attributes:
        cpu: model of its processor.
        cores: number of cores that a process may use.
        streams: generators at once in the fastest arrangement, such as replicas of the endpoint.
        threads: threads of each.
        batch: showers of a call.
        threads_alone: threads of a single generator that is alone, as that of `calogan serve`.
    """

    cpu: str
    cores: int
    streams: int
    threads: int
    batch: int
    threads_alone: int


def path() -> Path:
    """File of the setting: that of CALOGAN_MACHINE, or `calogan/machine.json` in the user's configuration folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "calogan", "machine.json")  # noqa: PTH111 - Path.home() may raise


def write(setting: Setting) -> Path:
    """Store a setting for this user on this machine; returns the file.

    Raises:
        OutputError: the file cannot be written.
    """
    target = path()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{target.parent}: cannot be created ({error}); set {VARIABLE} to a file that may be written"
        ) from error
    write_json(target, asdict(setting))
    return target


def read() -> Setting | None:
    """The stored setting; None if there is none, or if it is of another kind of machine.

    Raises:
        ConfigError: the file is damaged.
    """
    source = path()
    try:
        with source.open("rb") as file:
            setting = _parse(json.loads(file.read(_LARGEST)))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{source}: is damaged ({error}); delete it, or run calogan benchmark again") from error
    if (setting.cpu, setting.cores) != (cpu()["model"], cores()):
        _log.info("%s: is of another machine (%s, %d cores)", source, setting.cpu, setting.cores)
        return None
    return setting


def best_threads(*, alone: bool = False) -> int:
    """Threads of a generator of the endpoint on this machine; 1 if it was not measured.

    Args:
        alone: whether it is the only one on the machine, as that of `calogan serve`.

    Raises:
        ConfigError: the stored setting is damaged.
    """
    setting = read()
    if setting is None:
        return 1
    return setting.threads_alone if alone else setting.threads


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _parse(content: Any) -> Setting:
    setting = Setting(**content)
    numbers = (setting.cores, setting.streams, setting.threads, setting.batch, setting.threads_alone)
    if any(type(number) is not int for number in numbers):
        raise TypeError("expected a name and whole numbers")
    if not all(0 < number <= _MOST for number in numbers):
        raise ValueError(f"expected numbers from 1 to {_MOST}")
    return setting
