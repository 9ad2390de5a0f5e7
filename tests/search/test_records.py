from pathlib import Path

import pytest
from pydantic import TypeAdapter

from calogan.errors import ModelError
from calogan.search.records import Records


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
