import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from calogan.errors import ModelError, OutputError
from calogan.search.records import Records, sole_search


@pytest.fixture
def records(tmp_path: Path) -> Records[dict[str, int]]:
    return Records(tmp_path / "records", TypeAdapter(dict[str, int]))


def test_records_are_read_as_they_were_written(records: Records[dict[str, int]]) -> None:
    assert records.read("a") is None
    assert records.read_all() == []
    assert records.write("a", {"one": 1}) == records.path("a")
    records.write("b", {"two": 2})
    records.write("b", {"two": 3})
    assert records.read("a") == {"one": 1}
    assert sorted(record.popitem() for record in records.read_all()) == [("one", 1), ("two", 3)]
    assert sorted(path.name for path in records.folder.iterdir()) == sorted(records.path(what).name for what in "ab")


@pytest.mark.parametrize("damaged", ["", "{", '{"one": "x"}', "[]"])
def test_a_damaged_record_is_reported(records: Records[dict[str, int]], damaged: str) -> None:
    path = records.write("a", {"one": 1})
    path.write_text(damaged)
    with pytest.raises(ModelError, match=f"{path.name}: is not a record of a trial .*; delete it to try"):
        records.read_all()
    with pytest.raises(ModelError, match="is not a record"):
        records.read("a")


SEARCH = """
import sys
from pathlib import Path
from calogan.search.records import sole_search
with sole_search(Path(sys.argv[1])):
    print("searching", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that searches in the folder."""
    command = [sys.executable, "-c", SEARCH, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "searching\n"
        yield process
        process.kill()


def test_a_second_search_names_the_first(other: "subprocess.Popen[str]", tmp_path: Path) -> None:
    owner = f"process {other.pid} on {platform.node()}"
    with pytest.raises(ModelError, match=rf"{tmp_path}: {owner} searches here already; wait for its end or stop it"):
        sole_search(tmp_path).__enter__()
    with sole_search(tmp_path / "elsewhere"):
        pass


@pytest.mark.parametrize("killed", [True, False])
def test_the_next_search_begins_when_the_first_has_ended(
    killed: bool, other: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert other.stdin
    if killed:
        other.kill()
    else:
        other.stdin.close()
    assert other.wait(timeout=30) == (-signal.SIGKILL if killed else 0)
    for _ in range(2):
        with sole_search(tmp_path), pytest.raises(ModelError, match="searches here already"):
            sole_search(tmp_path).__enter__()


def test_a_search_that_fails_lets_the_next_one_begin(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_search(tmp_path):
        _ = 1 / 0
    with sole_search(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/search\.lock: cannot be written"):
        sole_search(tmp_path / "file").__enter__()
