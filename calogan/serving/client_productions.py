"""A production at an endpoint, as its client sees it: followed, fetched into a folder, cancelled."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calogan import provenance
from calogan.atomic_files import atomic_write, write_json, write_text
from calogan.errors import OutputError, ServiceError
from calogan.events.productions import MANIFEST, PLAN
from calogan.serving.client_connection import Connection

_LOOK_S = 1.0
_PAGE = 1000


class RemoteProduction:
    """A production at an endpoint; make one with `Client.production`.

    Attributes:
        id: its ID at the endpoint.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.id, self._connection = name, connection

    @property
    def _path(self) -> str:
        return f"/v1/productions/{self.id}"

    def status(self) -> dict[str, Any]:
        """Ask how far it is: `state`, `showers_finished`, `showers_per_s`, `seconds_left` and more.

        Raises:
            RequestError: there is no such production any more.
            ServiceError: see `Client.hits`.
        """
        return self._connection.ask("GET", self._path)

    def shards(self, *, first: int = 0) -> Iterator[dict[str, Any]]:
        """Finished shards from a number on: `number`, `file`, `first`, `showers`, `bytes`, `sha256`.

        Raises:
            RequestError, ServiceError: see `status`.
        """
        while True:
            page = self._connection.ask("GET", f"{self._path}/shards?first={first}&limit={_PAGE}")["shards"]
            yield from page
            if len(page) < _PAGE:
                return
            first = page[-1]["number"] + 1

    def wait(self, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Wait until it is finished, and return its manifest.

        Args:
            progress: called with the number of showers that were finished since the last call.

        Raises:
            RequestError: see `status`.
            ServiceError: see `Client.hits`; or it waits for something for too long, such as room on the server's disk.
        """
        finished = 0
        for status in self._states():
            if progress:
                progress(status["showers_finished"] - finished)
            finished = status["showers_finished"]
        return self._connection.ask("GET", f"{self._path}/manifest")

    def download(self, folder: str | os.PathLike[str], progress: Callable[[int], None] | None = None) -> Path:
        """Fetch the shards into a folder as they are finished, with their manifest; what is there already is kept.

        Args:
            folder: the folder; it is made if it does not exist.
            progress: called with the number of showers of each shard that is there.

        Returns:
            Path of the manifest.

        Raises:
            OutputError: the folder cannot be written to.
            RequestError, ServiceError: see `wait`; or a shard that arrived differs from its checksum.
        """
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{target}: cannot be created ({error.strerror})") from error
        done = set[int]()
        for _ in self._states():
            self._fetch_finished(target, done, progress)
        self._fetch_finished(target, done, progress)
        manifest = self._connection.ask("GET", f"{self._path}/manifest")
        write_text(target / PLAN, json.dumps(manifest["production"], indent=1, sort_keys=True))
        write_json(target / MANIFEST, manifest)
        return target / MANIFEST

    def cancel(self) -> None:
        """Cancel it if it is not finished, and remove its shards from the server.

        Raises:
            RequestError, ServiceError: see `status`.
        """
        self._connection.ask("DELETE", self._path)

    def _states(self) -> Iterator[dict[str, Any]]:
        """Its states until it is finished, that one included."""
        waiting_since: float | None = None
        while True:
            status = self.status()
            yield status
            if status["state"] == "finished":
                return
            waiting_since = (waiting_since or time.monotonic()) if status["state"] == "waiting" else None
            if waiting_since and time.monotonic() - waiting_since > self._connection.patience_s:
                raise ServiceError(f"{self._connection.url}: production {self.id} waits: {status['message']}")
            time.sleep(_LOOK_S)

    def _fetch_finished(self, folder: Path, done: set[int], progress: Callable[[int], None] | None) -> None:
        missing = next(number for number in range(len(done) + 1) if number not in done)
        for shard in self.shards(first=missing):
            if shard["number"] not in done:
                self._fetch(shard, folder / Path(shard["file"]).name)
                done.add(shard["number"])
                if progress:
                    progress(shard["showers"])

    def _fetch(self, shard: dict[str, Any], path: Path) -> None:
        if path.exists() and path.stat().st_size == shard["bytes"] and provenance.sha256(path) == shard["sha256"]:
            return
        with atomic_write(path) as temporary:
            self._connection.fetch(f"{self._path}/shards/{shard['number']}", temporary, size=shard["bytes"])
            if provenance.sha256(temporary) != shard["sha256"]:
                raise ServiceError(
                    f"{self._connection.url}: {path.name} arrived damaged: its checksum differs; try again"
                )
