import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import EventFiles, Events, EventSource, open_events, read_events, write_events
from calogan.events.files import find_files, open_hdf5

Write = Callable[[str, Path, Events], Path]
COUNTS = {"written clic": 5, "x50 wide": 3, "calochallenge": 7, "par04": 1, "clic energy": 4}


@pytest.fixture(scope="module")
def mixed(geant4: Events, write_as: Write, tmp_path_factory: pytest.TempPathFactory) -> EventFiles:
    """The first 20 Geant4 showers in five files of five formats."""
    folder, first, files = tmp_path_factory.mktemp("mixed"), 0, []
    for kind, count in COUNTS.items():
        files.append(write_as(kind, folder / f"{first:02}.h5", geant4[first : first + count]))
        first += count
    return open_events(files)


def test_files_of_several_formats_are_one_sample(mixed: EventFiles, geant4: Events) -> None:
    assert len(mixed) == 20
    assert [layout.format for layout in mixed.layouts] == ["clic", "clic-x50", "calochallenge", "par04", "clic"]
    assert [layout.count for layout in mixed.layouts] == list(COUNTS.values())
    np.testing.assert_allclose(mixed.energy, geant4.energy[:20], rtol=1e-6)
    np.testing.assert_allclose(mixed[:].showers, geant4.showers[:20], rtol=1e-6)
    source: EventSource = mixed
    np.testing.assert_array_equal(read_events(list(mixed.paths)).showers, source[:].showers)


border = st.none() | st.integers(-25, 25)


@given(border, border)
@settings(max_examples=40, deadline=None)
def test_a_slice_of_files_is_the_slice_of_the_sample(
    mixed: EventFiles, geant4: Events, start: int | None, stop: int | None
) -> None:
    some, expected = mixed[start:stop], geant4[:20][start:stop]
    np.testing.assert_allclose(some.showers, expected.showers, rtol=1e-6)
    np.testing.assert_allclose(some.energy, expected.energy, rtol=1e-6)
    assert some.showers.dtype == np.float32


@pytest.mark.parametrize("size", [1, 6, 20, 1024])
def test_chunks_are_the_sample_in_order(mixed: EventFiles, size: int) -> None:
    chunks = list(mixed.chunks(size))
    assert {len(chunk) for chunk in chunks[:-1]} <= {size}
    np.testing.assert_array_equal(np.concatenate([chunk.energy for chunk in chunks]), mixed.energy)
    np.testing.assert_array_equal(np.concatenate([chunk.showers for chunk in chunks]), mixed[:].showers)


def test_showers_of_files_are_read_in_order_only(mixed: EventFiles) -> None:
    for step in (-1, 2):
        with pytest.raises(ValueError, match="expected 1, because files are read in order"):
            mixed[::step]


def test_a_bad_shower_is_reported_with_its_file_and_index(geant4: Events, write_as: Write, tmp_path: Path) -> None:
    bad = Events(geant4.showers[:5].copy(), geant4.energy[:5])
    bad.showers[3, 0, 0, 0] = np.nan
    files = open_events([write_as("clic", tmp_path / f"{i}.h5", some) for i, some in enumerate([geant4[:4], bad])])
    assert len(files[:7]) == 7
    with pytest.raises(EventsError, match=r"1\.h5: a shower cell is not a finite number \(shower 3\)"):
        files[6:9]
    files.paths[1].unlink()
    with pytest.raises(EventsError, match=r"1\.h5: no such file"):
        files[4:5]


def test_files_are_found_by_name_folder_and_pattern(plain: Events, tmp_path: Path) -> None:
    paths = [write_events(tmp_path / name, plain, header={}) for name in ("b.h5", "a.hdf5", "c 1.h5", "[1].h5", "ü.h5")]
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / ".b.h5.7.part").write_text("half")
    (tmp_path / ".hidden.h5").write_text("half")
    (tmp_path / "deep").mkdir()
    deep = write_events(tmp_path / "deep" / "d.h5", plain, header={})
    assert find_files(paths[0]) == find_files(str(paths[0])) == [paths[0]]
    assert find_files([paths[2], paths[1]]) == [paths[2], paths[1]]
    assert find_files(tmp_path) == sorted(paths)
    assert find_files(f"{tmp_path}/*.h5") == sorted(set(paths) - {paths[1]})
    assert find_files(f"{tmp_path}/[ab].h*") == [paths[1], paths[0]]
    assert find_files(f"{tmp_path}/[1].h5") == [paths[3]]
    assert find_files(f"{tmp_path}/**/d.h5") == [deep]
    assert find_files([f"{tmp_path}/b*", tmp_path / "deep"]) == [paths[0], deep]
    assert len(open_events(tmp_path)) == 15


def test_a_name_without_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("text")
    for paths, message in (
        (tmp_path / "gone.h5", r"gone\.h5: no such file"),
        (tmp_path / "empty", r"empty: the folder contains no file of showers \(\.h5, \.hdf5, .*\.parquet, \.npz\)"),
        (f"{tmp_path}/*.h5", r"\*\.h5: the pattern matches no file"),
        (f"{tmp_path}/emp*", r"emp\*: the pattern matches no file"),
        ([], "no shower file given; expected one or more files"),
        ("n" * 5000, r"nnn: cannot be accessed \(File name too long\)"),
        ("a\0b.h5", "no such file"),
        (str(tmp_path / "empty" / "notes.txt" / "x.h5"), "no such file"),
    ):
        with pytest.raises(EventsError, match=message):
            open_events(paths)


def test_a_file_given_twice_is_reported(plain: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_events(tmp_path / "a.h5", plain, header={})
    (tmp_path / "link.h5").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "link.h5"
    twice: list[list[str | Path]] = [[path, path], [path, link], ["a.h5", path], [path, f"{tmp_path}/a*"], [tmp_path]]
    for paths in twice:
        with pytest.raises(EventsError, match="given more than once, so its showers would count twice"):
            open_events(paths)


def test_files_of_two_detectors_are_reported(plain: Events, tmp_path: Path) -> None:
    small = Events(plain.showers[:, :5, :6, :7].copy(), plain.energy)
    for name, events in (("a.h5", plain), ("b.h5", small)):
        write_events(tmp_path / name, events, header={})
    with pytest.raises(EventsError, match=r"b\.h5: showers of \(5, 6, 7\) cells, but .*a\.h5 has \(25, 25, 25\); give"):
        open_events(tmp_path, shape=None)


def test_a_folder_or_a_pipe_among_the_files_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.h5").mkdir()
    with pytest.raises(EventsError, match=r"a\.h5: is a folder; name an HDF5 file"):
        open_events(tmp_path)
    (tmp_path / "a.h5").rmdir()
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(EventsError, match=r"a\.h5: is a device or pipe; name an HDF5 file"):
        open_events(tmp_path)


def test_a_file_is_closed_even_after_an_error(plain: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "a.h5", plain, header={})
    with open_hdf5(path) as file:
        assert set(file) == {"ECAL", "target"}
    assert not file
    with (
        pytest.raises(EventsError, match=r"a\.h5: is damaged \(worn out\); create or download it again"),
        open_hdf5(path) as file,
    ):
        raise OSError("worn out")
    assert not file
