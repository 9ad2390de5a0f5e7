from pathlib import Path

import pytest
from pydantic import TypeAdapter

from calogan.errors import ModelError
from calogan.search.records import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal[dict[str, int]]:
    return Journal(tmp_path / "records", TypeAdapter(dict[str, int]))


def test_records_are_read_as_they_were_written(journal: Journal[dict[str, int]]) -> None:
    assert journal.read("a") is None
    assert journal.read_all() == []
    assert journal.write("a", {"one": 1}) == journal.path("a")
    journal.write("b", {"two": 2})
    journal.write("b", {"two": 3})
    assert journal.read("a") == {"one": 1}
    assert sorted(record.popitem() for record in journal.read_all()) == [("one", 1), ("two", 3)]
    assert sorted(path.name for path in journal.folder.iterdir()) == sorted(journal.path(what).name for what in "ab")


@pytest.mark.parametrize("damaged", ["", "{", '{"one": "x"}', "[]"])
def test_a_damaged_record_is_told_of(journal: Journal[dict[str, int]], damaged: str) -> None:
    path = journal.write("a", {"one": 1})
    path.write_text(damaged)
    with pytest.raises(ModelError, match=f"{path.name}: is no record of a trial .*; delete it to try"):
        journal.read_all()
    with pytest.raises(ModelError, match="is no record"):
        journal.read("a")
