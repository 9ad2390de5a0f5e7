"""Random bytes and structures: a file is either read, or an `EventsError` says what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Events, read_events
from calogan.geometry import CLIC

Write = Callable[[str, Path, Events], Path]
# The examples are the same in every fast run, and new in every slow run.
FAST = settings(max_examples=150, deadline=None, derandomize=True, database=None)
SLOW = settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KINDS = ("written clic", "written calochallenge", "clic", "clic energy", "x50 wide", "calochallenge", "par04")


@pytest.fixture(scope="module")
def good(geant4: Events, write_as: Write, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Bytes of a good file of two showers in each format."""
    path = tmp_path_factory.mktemp("good") / "showers.h5"
    return {kind: write_as(kind, path, geant4[:2]).read_bytes() for kind in KINDS}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "showers.h5"


def read(path: Path) -> None:
    try:
        events = read_events(path)
    except EventsError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either is right
        return
    assert events.showers.shape == (len(events.energy), *CLIC.shape)
    assert np.isfinite(events.showers).all()
    assert (events.showers >= 0).all()
    assert (events.energy > 0).all()


# What HDF5 keeps about its datasets lies at both ends of these files.
place = st.integers(0, 3000) | st.integers(-4000, -1) | st.integers(0, 2**18)
piece = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\xff" * 64, b"\x7f", b"\x01"])
changes = st.lists(st.tuples(st.sampled_from(["over", "over", "out", "in"]), place, piece), min_size=1, max_size=8)


def check_bytes(good: dict[str, bytes], path: Path, kind: str, changes: list[tuple[str, int, bytes]]) -> None:
    data = bytearray(good[kind])
    for how, where, some in changes:
        start = where % max(1, len(data))
        stop = start if how == "in" else start + len(some)
        data[start:stop] = b"" if how == "out" else some
    path.write_bytes(data)
    read(path)


@given(st.sampled_from(KINDS), changes)
@FAST
def test_changed_bytes(good: dict[str, bytes], path: Path, kind: str, changes: list[tuple[str, int, bytes]]) -> None:
    check_bytes(good, path, kind, changes)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(st.sampled_from(KINDS), changes)
@SLOW
def test_more_changed_bytes(
    good: dict[str, bytes], path: Path, kind: str, changes: list[tuple[str, int, bytes]]
) -> None:
    check_bytes(good, path, kind, changes)


NAMES = ("ECAL", "target", "energy", "showers", "incident_energies", "incident_energy", "layers")
INNER = [(), (1,), (2,), (5,), (0,), CLIC.shape, (51, 51, 25), (15625,), (25, 25), (25, 25, 25, 1), (30, 30, 30)]
TYPES = ["f2", "f4", "f8", ">f4", "i1", "u8", "?", "c8", "S3", "g"]
VALUES = [0, 1, 0.12, 6, 120, 1e5, -1, 1e300, np.nan, np.inf]
dataset = st.tuples(
    st.sampled_from(TYPES), st.integers(0, 3), st.sampled_from(INNER), st.sampled_from(VALUES), st.booleans()
)
structure = st.dictionaries(
    st.sampled_from(NAMES) | st.text(st.characters(codec="utf-8", exclude_characters="/\0."), min_size=1),
    dataset,
    max_size=4,
)
likely = st.sampled_from([("ECAL", "target"), ("ECAL", "energy"), NAMES[3:5], ("showers", "incident_energy")]).flatmap(
    lambda names: st.fixed_dictionaries(dict.fromkeys(names, dataset))
)
FORMATS = st.sampled_from([None, "clic", "clic-x50", "calochallenge", "par04"])


def check_structure(
    path: Path, structure: dict[str, tuple[str, int, tuple[int, ...], float, bool]], format: str | None
) -> None:
    with h5py.File(path, "w") as file, np.errstate(all="ignore"):
        for name, (dtype, n, inner, value, packed) in structure.items():
            shape = (n, *inner)
            options = {"chunks": True, "compression": "gzip"} if packed and 0 not in shape else {}
            file.create_dataset(name, data=np.full(shape, value).astype(dtype), **options)
    try:
        read_events(path, format=format)
    except EventsError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either is right


@given(structure | likely, FORMATS)
@FAST
def test_other_structures(
    path: Path, structure: dict[str, tuple[str, int, tuple[int, ...], float, bool]], format: str | None
) -> None:
    check_structure(path, structure, format)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(structure | likely, FORMATS)
@SLOW
def test_more_other_structures(
    path: Path, structure: dict[str, tuple[str, int, tuple[int, ...], float, bool]], format: str | None
) -> None:
    check_structure(path, structure, format)
