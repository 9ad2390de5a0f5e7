from collections.abc import Callable
from pathlib import Path

import pytest

from calogan.atomic_files import write_text, written


def test_a_text_is_read_back_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\n")
    write_text(path, "Kraków\n")
    assert path.read_bytes() == "Kraków\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_seen_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with written(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_file_before_it_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with written(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "prepare"),
    [("gone/a.txt", Path.absolute), ("folder", Path.mkdir), ("n" * 250, Path.absolute)],
    ids=["no folder", "a folder", "a name too long"],
)
def test_a_place_that_cannot_be_written_to_is_told(
    name: str, prepare: Callable[[Path], object], tmp_path: Path
) -> None:
    prepare(tmp_path / name)
    before = list(tmp_path.iterdir())
    with pytest.raises(OSError):  # noqa: PT011
        write_text(tmp_path / name, "text")
    assert list(tmp_path.iterdir()) == before


def test_writers_in_two_processes_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with written(tmp_path / "a.txt") as first:
        monkeypatch.setattr("os.getpid", lambda: -1)
        with written(tmp_path / "a.txt") as second:
            assert first != second
            second.write_text("second")
        first.write_text("first")
    assert (tmp_path / "a.txt").read_text() == "first"
