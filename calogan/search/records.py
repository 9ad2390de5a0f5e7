"""Records of attempts, one file each, from which an interrupted search resumes."""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from calogan import provenance
from calogan.atomic_files import write_text
from calogan.errors import CaloganError, ModelError, OutputError

Record = TypeVar("Record")
What = TypeVar("What")
_LOCK = "search.lock"


@contextlib.contextmanager
def sole_search(folder: Path) -> Iterator[None]:
    """Keep other searches out of a folder; the system unlocks it when this process ends, however it does.

    Args:
        folder: what the search writes to, seen by all nodes; made if it is not there.

    Raises:
        ModelError: another process searches there.
        OutputError: the folder cannot be written to, or its file system has no locks.
    """
    path = folder / _LOCK
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    except Timeout as error:
        owner = path.read_text(encoding="utf-8")
        raise ModelError(f"{folder}: {owner} searches here already; wait for its end or stop it") from error
    except OSError as error:
        lock.release()
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Failure(Generic[What]):
    """A failed attempt and the reason."""

    what: What
    reason: str


@dataclass(frozen=True)
class Records(Generic[Record]):
    """A folder of records.

    Attributes:
        folder: folder of the records; created with the first one.
        kind: type of a record.
    """

    folder: Path
    kind: TypeAdapter[Record]

    def path(self, what: str) -> Path:
        """File of the record with a key."""
        return self.folder / f"{provenance.digest(what)[:16]}.json"

    def write(self, what: str, record: Record) -> Path:
        """Write a record, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path(what), self.kind.dump_json(record, indent=1).decode())
        return self.path(what)

    def read(self, what: str) -> Record | None:
        """The record with a key, if there is one.

        Raises:
            ModelError: the record is damaged.
        """
        path = self.path(what)
        return self._read(path) if path.is_file() else None

    def read_all(self) -> list[Record]:
        """All records.

        Raises:
            ModelError: a record is damaged.
        """
        return [self._read(path) for path in sorted(self.folder.glob("*.json"))]

    def _read(self, path: Path) -> Record:
        try:
            return self.kind.validate_json(path.read_bytes())
        except (OSError, ValidationError, CaloganError) as error:
            raise ModelError(
                f"{path}: is not a record of a trial ({str(error).splitlines()[0]}); delete it to try that configuration again"
            ) from error
