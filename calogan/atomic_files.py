"""Files written whole or not at all: whoever reads one sees the old or the new one, never a part."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what is written there takes its place on disk when all went well.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text, as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
