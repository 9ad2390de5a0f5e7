"""For any description of a model: it is read, or a one-line `ModelError` describes the problem."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from calogan.errors import ModelError
from calogan.generation import model_folder
from calogan.packaged import data_file

# The examples are the same in every fast run, and new in every slow one.
FAST = settings(max_examples=300, deadline=None, derandomize=True, database=None)
SLOW = settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GOOD = data_file("models", "lean", model_folder.DESCRIPTION).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without its files, which are not needed to detect a wrong description."""
    return tmp_path_factory.mktemp("fuzz") / "inside" / "model"


def check(folder: Path, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / model_folder.DESCRIPTION).write_bytes(data)
    try:
        description = model_folder.read(folder)
        for precision in description.network_files:
            assert description.version(precision)
            names = description.files(precision)
            assert all((folder / name).parent == folder and name not in {".", ".."} for name in names)
        model_folder.copy(folder, folder.parent / "copy")
    except ModelError as error:
        assert str(error).isprintable()  # noqa: PT017 - either is right
        assert len(str(error)) < 1000  # noqa: PT017
    assert {path.name for path in folder.parent.iterdir()} == {"model"}


texts = st.sampled_from(
    ["", "../evil.pb", "/etc/passwd", "..", ".", "a/b.pb", "a\n", "\0", "x" * 200, "float32", "int4", "0" * 64, "é.pb"]
)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**400, 1e308, 5e-324])
leaves = st.none() | st.booleans() | numbers | texts | st.text(max_size=5)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths of keys to values that can be changed."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, part in inner for place in places(part, (*above, key)))]


PLACES = [place for place in places(json.loads(GOOD)) if place]
changes = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["value", "value", "key", "gone"]), values, texts),
    min_size=1,
    max_size=3,
)


def changed(changes: list[tuple[tuple[Any, ...], str, Any, str]]) -> bytes:
    fields = copy.deepcopy(json.loads(GOOD))
    for place, how, value, name in changes:
        parent = fields
        try:
            for key in place[:-1]:
                parent = parent[key]
            if how == "value":
                parent[place[-1]] = value
            else:
                old = parent.pop(place[-1])
                if how == "key":
                    parent[name] = old
        except (KeyError, IndexError, TypeError, AttributeError):  # an earlier change has taken it away
            continue
    return json.dumps(fields).encode()


pieces = st.tuples(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=4) | st.just(b'"'))


def damaged(pieces: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(GOOD.encode())
    for start, length, piece in pieces:
        data[start : start + length] = piece
    return bytes(data)


@given(changes)
@example([(("network_files", "int8"), "value", "../evil.pb", "")])
@example([(("sha256", "network.int8.pb"), "key", None, "../evil.pb")])
@example([(("energy_range",), "value", 3, "")])
@example([(("latent_size",), "value", "41", "")])
@FAST
def test_changed_values(folder: Path, changes: list[tuple[tuple[Any, ...], str, Any, str]]) -> None:
    check(folder, changed(changes))


@given(st.lists(pieces, min_size=1, max_size=4))
@FAST
def test_changed_bytes(folder: Path, pieces: list[tuple[int, int, bytes]]) -> None:
    check(folder, damaged(pieces))


@given(values)
@FAST
def test_other_values(folder: Path, value: Any) -> None:
    check(folder, json.dumps(value).encode())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(st.one_of(changes.map(changed), st.lists(pieces, min_size=1, max_size=4).map(damaged)))
@SLOW
def test_more_descriptions(folder: Path, data: bytes) -> None:
    check(folder, data)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"name": ' * 50_000, b" " * 2**21, GOOD.encode("utf-16"), b""])
def test_what_is_too_deep_too_long_or_no_text(data: bytes, folder: Path) -> None:
    check(folder, data)
    with pytest.raises(ModelError, match=r"model\.json: is damaged"):
        model_folder.read(folder)
