import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calogan.atomic_files import atomic_write, write_json, write_text
from calogan.errors import OutputError


def test_a_text_is_read_back_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\n")
    write_text(path, "Kraków\n")
    assert path.read_bytes() == "Kraków\n".encode()
    assert list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_json_ends_with_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'


def test_the_old_file_is_seen_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_write(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_what_is_written_to_has_the_suffix_and_is_not_taken_for_another_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "model.weights.h5") as temporary:
        assert temporary.name == "model.weights.h5"
        temporary.write_text("x")
        assert not list(tmp_path.glob("*.h5"))


def test_file_and_folder_are_on_disk_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), (tmp_path / "a.txt").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "text")
    (file, before), (folder, after) = synced
    assert (file.name, before) == ("a.txt", False)
    assert (folder, after) == (tmp_path, True)


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_file_before_it_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(OutputError if error is OSError else error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("gone/a.txt", Path.absolute, "gone: no such folder; create it first"),
        ("file/a.txt", lambda path: path.parent.write_text("text"), "file: no such folder; create it first"),
        ("folder", Path.mkdir, "folder: is a folder; name a file"),
        ("n" * 256, Path.absolute, "nnn: cannot be written (File name too long)"),
    ],
    ids=["no folder", "a file for a folder", "a folder", "a name too long"],
)
def test_a_path_without_write_access_is_reported(
    name: str, prepare: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    prepare(tmp_path / name)
    before = list(tmp_path.iterdir())
    with pytest.raises(OutputError) as raised:
        write_text(tmp_path / name, "text")
    assert str(raised.value).startswith(str(tmp_path))
    assert str(raised.value).endswith(message)
    assert list(tmp_path.iterdir()) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "calogan", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_reported_and_the_old_file_remains(small_disk: Path) -> None:
    path = small_disk / "a.txt"
    write_text(path, "old")
    with pytest.raises(OutputError, match=r"disk/a\.txt: cannot be written \(No space left on device\)"):
        write_text(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert list(small_disk.iterdir()) == [path]


def test_a_read_only_file_system_is_reported(small_disk: Path) -> None:
    path = small_disk / "a.txt"
    write_text(path, "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Read-only file system\)"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Permission denied\)"):
        write_text(tmp_path / "a.txt", "text")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    write_text(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "text"


def test_a_device_and_a_pipe_are_written_to_and_not_replaced() -> None:
    write_text(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()
    code = (
        "from pathlib import Path; from calogan.atomic_files import write_text; write_text(Path('/dev/stdout'), 'text')"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "text"


WRITER = """
import sys
from pathlib import Path
from calogan.atomic_files import write_text

for _ in range(20):
    write_text(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""


def test_several_writers_leave_the_whole_of_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_writers_with_equal_process_numbers_do_not_meet(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt") as first:
        with atomic_write(tmp_path / "a.txt") as second:
            assert first != second
            second.write_text("second")
        first.write_text("first")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
