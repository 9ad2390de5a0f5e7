"""Folders that productions are written to: on a disk, or in an object store that fsspec knows, such as `s3://`."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from calogan import provenance
from calogan.atomic_files import PART, atomic_write
from calogan.errors import OutputError

_BLOCK = 2**24
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}  # have no folders; a bucket is made by whoever pays for it


@dataclass(frozen=True)
class Folder:
    """A folder of files; a file there is whole or does not exist.

    Attributes:
        url: path or URL of it.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def path(self) -> Path | None:
        """Its path, if it is on a disk."""
        if "://" not in self.url:
            return Path(self.url)
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None

    def create(self) -> None:
        """Create it if it does not exist.

        Raises:
            OutputError: it cannot be created.
        """
        if self.path is None:
            if self.url.split("://")[0] not in _OBJECT_STORES:
                with self._store() as (store, root):
                    store.makedirs(root, exist_ok=True)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be created ({error.strerror})") from error

    def sizes(self) -> dict[str, int]:
        """Size in bytes of each file in it, by name.

        Raises:
            OutputError: it cannot be listed.
        """
        if self.path is None:
            with self._store() as (store, root):
                store.invalidate_cache()
                try:
                    entries = store.ls(root, detail=True)
                except FileNotFoundError:  # an object store has no empty folders
                    entries = []
            return {
                entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in entries if entry["type"] == "file"
            }
        try:
            with os.scandir(self.path) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be listed ({error.strerror})") from error

    def read_text(self, name: str) -> str:
        """Read a text.

        Raises:
            OutputError: there is no such file, or it cannot be read.
        """
        if self.path is None:
            with self._store() as (store, root):
                return bytes(store.cat_file(f"{root}/{name}")).decode("utf-8", "replace")
        try:
            return (self.path / name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise OutputError(f"{self.path / name}: cannot be read ({error.strerror})") from error

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Yield a path on this machine; on success, the file written there gets its name in the folder.

        Raises:
            OutputError: it cannot be written, or the disk is full.
        """
        if self.path is not None:
            with atomic_write(self.path / name) as temporary:
                yield temporary
            return
        try:
            with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
                yield Path(scratch, name)
                with self._store() as (store, root):
                    store.put_file(str(Path(scratch, name)), f"{root}/{name}")
        except OSError as error:
            raise OutputError(f"{self}/{name}: cannot be written ({error.strerror or error})") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a text.

        Raises:
            OutputError: as `write`.
        """
        with self.write(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def sha256(self, name: str) -> str:
        """Hash of a file as hexadecimal digits."""
        if self.path is not None:
            return provenance.sha256(self.path / name)
        digest = hashlib.sha256()
        with self._store() as (store, root), store.open(f"{root}/{name}", "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self.path is not None:
            (self.path / name).unlink(missing_ok=True)
            return
        with self._store() as (store, root):
            store.rm_file(f"{root}/{name}")

    def remove_leftovers(self) -> None:
        """Remove the parts of files that writers left who were killed."""
        for leftover in self.path.glob(f".*{PART}") if self.path else ():
            shutil.rmtree(leftover, ignore_errors=True)

    @contextlib.contextmanager
    def _store(self) -> Iterator[tuple[Any, str]]:
        """Yield the object store and the path in it; its errors become one line."""
        try:
            store, root = fsspec.url_to_fs(self.url)
            yield store, root.rstrip("/")
        except ImportError as error:
            raise OutputError(f"{self}: this kind of storage needs a package ({error})") from error
        except Exception as error:  # each kind of storage has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OutputError(f"{self}: cannot be accessed ({reason})") from error
