"""The productions of an endpoint: a folder for each, which holds all that is known of it.

So a restart forgets nothing, and replicas that share the folder work on the same productions. The name of a folder is
made here; nothing a client sends becomes a part of a path.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from calogan.atomic_files import write_json, write_text
from calogan.errors import CaloganError, EventsError, OutputError, RequestError, ServiceError
from calogan.events import productions
from calogan.events.productions import MANIFEST, PLAN, Production, Shard

_log = logging.getLogger(__name__)
ID = "[0-9a-f]{32}"
_REQUEST, _PROBLEM = ".request.json", ".problem"
_NEW, _GONE = ".new-", ".gone-"  # begin the names of folders that are not yet, or no longer, productions
_STALE_S = 120.0  # a claim that was not renewed for this long belongs to a replica that died
_ATTEMPTS = 5  # to read what others change meanwhile
_RECENT = 16  # shards that tell the rate
_SPARE_BYTES = 1 << 30  # that a new production must leave on the disk
_SHOWER_BYTES = {"arrow": 9_500, "parquet": 5_000}  # of a shower, about; HDF5 is between them


class NoProductionError(RequestError):
    """There is no such production, or it is another client's."""

    http_status = 404


class RoomError(OutputError):
    """The disk has no room for a production."""

    http_status = 507


class ConflictError(RequestError):
    """The production is not in the state that the request needs."""

    http_status = 409


@dataclass(frozen=True)
class Entry:
    """A production of the store.

    Attributes:
        id: its name, 32 hexadecimal digits.
        client: who asked for it.
        created: when, in seconds since 1970.
        plan: its description.
        folder: where its shards are.
    """

    id: str
    client: str
    created: float
    plan: Production
    folder: Path


@dataclass(frozen=True)
class Progress:
    """How far a production is.

    Attributes:
        shards: number of finished shards.
        showers: number of showers in them.
        finished: whether all are there, with their manifest.
        problem: why the last attempt at a shard failed; None if it did not.
        showers_per_s: rate of the last shards; None before there are two.
    """

    shards: int
    showers: int
    finished: bool
    problem: str | None
    showers_per_s: float | None


class Store:
    """All productions below one folder."""

    def __init__(self, root: Path) -> None:
        """Open a store, and make it if there is none.

        Raises:
            OutputError: the folder cannot be made or written to.
        """
        self.root = root.absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{root}: cannot be created ({error.strerror}); name another folder") from error
        probe = self.root / f"{_NEW}{uuid.uuid4().hex}"
        write_text(probe, "")
        probe.unlink()
        self.sweep()

    def create(self, client: str, plan: Production, *, order: str, key: str | None) -> tuple[Entry, bool]:
        """Add a production.

        Args:
            client: name of the client.
            plan: description of the production.
            order: what the client asked for, as a text.
            key: its Idempotency-Key: a second request with the same one finds the first one's production.

        Returns:
            The production, and whether it is new.

        Raises:
            RequestError: that key came with another order.
            RoomError: the disk has no room for it.
            ServiceError: the folder cannot be written to.
        """
        name = self.name(client, key)
        draft = self.root / f"{_NEW}{uuid.uuid4().hex}"
        try:
            self._require_room(plan)
            draft.mkdir()
            request = {"client": client, "created": time.time(), "order": order}
            write_json(draft / _REQUEST, request)
            write_text(draft / PLAN, plan.text)
            try:
                draft.rename(self.root / name)
            except OSError:
                if (existing := self.existing(name, order=order)) is None:
                    raise
                return existing, False
        except RoomError:
            raise
        except (OSError, OutputError) as error:
            _log.error("a production cannot be stored: %s", error)
            raise ServiceError("the production cannot be stored; the log of the server says why") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return self._read(name), True

    def name(self, client: str, key: str | None) -> str:
        """ID of a new production: by the client and its Idempotency-Key, or by chance."""
        if key is None:
            return uuid.uuid4().hex
        return hashlib.sha256(f"{client}\0{key}".encode()).hexdigest()[:32]

    def existing(self, name: str, *, order: str) -> Entry | None:
        """The production of an earlier request with the same Idempotency-Key, if there is one.

        Raises:
            RequestError: the earlier request was another one.
        """
        try:
            entry = self._read(name)
            request = json.loads((entry.folder / _REQUEST).read_text(encoding="utf-8"))
        except (NoProductionError, OSError):
            return None
        if request["order"] != order:
            raise RequestError("this Idempotency-Key came with another request before; use a new one")
        return entry

    def find(self, client: str, name: str) -> Entry:
        """Return a production of a client.

        Raises:
            NoProductionError: it has none of this name.
        """
        entry = self._read(name)
        if entry.client != client:
            raise NoProductionError("no such production")
        return entry

    def entries(self, *, client: str | None = None, unfinished: bool = False) -> list[Entry]:
        """All productions, those of a client, or those that are not finished, in the order of their creation."""
        found: list[Entry] = []
        with os.scandir(self.root) as folders:
            names = [folder.name for folder in folders if re.fullmatch(ID, folder.name)]
        for name in names:
            if unfinished and (self.root / name / MANIFEST).exists():
                continue
            with contextlib.suppress(CaloganError):  # it is just being removed, or somebody damaged it
                found.append(self._read(name))
        return sorted((entry for entry in found if client in (None, entry.client)), key=lambda entry: entry.created)

    def progress(self, entry: Entry) -> Progress:
        """How far a production is.

        Raises:
            NoProductionError: it has just been removed.
        """
        try:
            with os.scandir(entry.folder) as files:
                found = {file.name: file for file in files}
            times = sorted(
                (found[shard.file].stat().st_mtime, shard.showers) for shard in entry.plan.shards if shard.file in found
            )
        except FileNotFoundError:  # only the whole folder goes away, records of shards excepted
            raise NoProductionError("no such production") from None
        recent = [(entry.created, 0), *times] if len(times) < _RECENT else times[-_RECENT:]
        seconds = recent[-1][0] - recent[0][0]
        rate = sum(showers for _, showers in recent[1:]) / seconds if len(times) > 1 and seconds > 0 else None
        problem = None
        if _PROBLEM in found:
            with contextlib.suppress(OSError):
                problem = (entry.folder / _PROBLEM).read_text(encoding="utf-8")
        showers = sum(showers for _, showers in times)
        return Progress(len(times), showers, MANIFEST in found, problem, rate)

    def shards(self, entry: Entry, *, first: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and records of finished shards, from one number on."""
        numbers = {shard.file: number for number, shard in enumerate(entry.plan.shards)}
        for _ in range(_ATTEMPTS):
            # The manifest may just be replacing the records.
            with contextlib.suppress(OutputError):
                records = productions.read_records(entry.folder, entry.plan.shards[first:])
                return [(numbers[record["file"]], record) for record in islice(records, limit)]
        raise NoProductionError("no such production")

    def shard(self, entry: Entry, number: int) -> tuple[Path, dict[str, Any]]:
        """Path and record of a finished shard.

        Raises:
            NoProductionError: the production has no shard of this number.
            ConflictError: it is not finished yet.
        """
        if number >= len(entry.plan.shards):
            raise NoProductionError(f"the production has {len(entry.plan.shards)} shards, from 0 on")
        found = self.shards(entry, first=number, limit=1)
        if not found or found[0][0] != number:
            raise ConflictError(f"shard {number} is not finished yet")
        return entry.folder / found[0][1]["file"], found[0][1]

    def manifest(self, entry: Entry) -> dict[str, Any]:
        """The manifest of a finished production.

        Raises:
            ConflictError: it is not finished yet.
        """
        try:
            content: dict[str, Any] = json.loads((entry.folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConflictError("the production is not finished yet") from None
        return content

    def remove(self, entry: Entry) -> None:
        """Cancel a production if it is not finished, and remove its shards."""
        gone = self.root / f"{_GONE}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            entry.folder.rename(gone)  # at once for everybody; whoever writes a shard there fails
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what is left of productions that were removed while somebody wrote to them."""
        for gone in self.root.glob(f"{_GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)

    def settle(self, entry: Entry) -> None:
        """Remove what nobody needs once a production is finished."""
        self.report(entry, None)
        for claim in entry.folder.glob(".*.claim"):  # of replicas that died
            claim.unlink(missing_ok=True)

    def report(self, entry: Entry, problem: str | None) -> None:
        """Remember why a shard could not be made, or that one could."""
        if problem is None:
            (entry.folder / _PROBLEM).unlink(missing_ok=True)
            return
        with contextlib.suppress(OutputError):  # on a full disk there may be no room even for this
            write_text(entry.folder / _PROBLEM, problem)

    @contextlib.contextmanager
    def claim(self, entry: Entry, file: str) -> Iterator["Claim | None"]:
        """Reserve a file among all replicas; yields None if another one makes it.

        Two that make one shard lose time, nothing else: its bytes are the same.
        """
        claim = Claim(entry.folder / f".{file}.claim")
        if not claim.take():
            yield None
            return
        try:
            yield claim
        finally:
            claim.path.unlink(missing_ok=True)

    def is_missing(self, entry: Entry, shard: Shard) -> bool:
        """Whether a shard is not finished."""
        return not (entry.folder / shard.file).exists()

    def _read(self, name: str) -> Entry:
        if not re.fullmatch(ID, name):
            raise NoProductionError("no such production")
        folder = self.root / name
        try:
            request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
            plan = productions.described((folder / PLAN).read_text(encoding="utf-8"))
            return Entry(name, str(request["client"]), float(request["created"]), plan, folder)
        except FileNotFoundError:
            raise NoProductionError("no such production") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EventsError(f"production {name} is damaged ({error}); delete it") from error

    def _require_room(self, plan: Production) -> None:
        needed = plan.showers * _SHOWER_BYTES.get(plan.format, 8_000)
        free = shutil.disk_usage(self.root).free - _SPARE_BYTES
        if needed > free:
            raise RoomError(
                f"{plan.showers} showers take about {needed / 1e9:.1f} GB, but there are {max(0, free) / 1e9:.1f} GB left; "
                "delete other productions, or ask for fewer showers"
            )


@dataclass(frozen=True)
class Claim:
    """A file that says who makes another one; it must be renewed.

    Attributes:
        path: the file.
    """

    path: Path

    def take(self) -> bool:
        """Make the file, unless somebody else has it."""
        try:
            self.path.touch(exist_ok=False)
        except FileExistsError:
            try:
                if time.time() - self.path.stat().st_mtime < _STALE_S:
                    return False
                self.path.unlink()
            except FileNotFoundError:
                return False  # just given back: at the next attempt
            return self.take()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        return True

    def renew(self) -> bool:
        """Say that the work goes on; returns False if the production was removed."""
        try:
            os.utime(self.path)
        except OSError:
            return False
        return True
