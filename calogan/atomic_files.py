"""Atomic writes: a reader sees the old or the new file, never a part of one, even if the writer crashes."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calogan.errors import OutputError

PART = ".part"  # ends the name of a hidden folder that holds a file until it is whole


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the name of `path`; on success, the file written there replaces `path` on disk.

    Any number of processes, on any node, may write one file: the last one wins. A link stays a link. A target
    that is not a regular file, such as /dev/stdout, is written to directly.

    Raises:
        OutputError: the folder is missing or read-only, the disk is full, or a folder has that name.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file")
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent}: no such folder; create it first")
        if path.exists() and not path.is_file():
            yield path
        else:
            yield from _replacement(Path(os.path.realpath(path)))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _replacement(target: Path) -> Iterator[Path]:
    # A hidden folder, so that the file keeps its suffix, from which libraries infer the format, without showing up in
    # patterns such as *.h5.
    prefix = f".{target.name[:100]}."
    with tempfile.TemporaryDirectory(PART, prefix, target.parent, ignore_cleanup_errors=True) as folder:
        temporary = Path(folder, target.name)
        yield temporary
        _sync(temporary)
        temporary.replace(target)
    with contextlib.suppress(OSError):  # not every file system supports this for folders
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text, as UTF-8.

    Raises:
        OutputError: as `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write something as JSON.

    Raises:
        OutputError: as `atomic_write`.
    """
    write_text(path, json.dumps(content, indent=1) + "\n")
