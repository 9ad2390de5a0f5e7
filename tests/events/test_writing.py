import itertools
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError, OutputError
from calogan.events import Events, fill_file, open_events, read_events, write_events
from calogan.geometry import CLIC

HEADER = {"seed": "1"}


def test_a_file_can_be_read_back(geant4: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", geant4, header=HEADER)
    again = read_events(str(path))
    np.testing.assert_array_equal(again.showers, geant4.showers)
    np.testing.assert_array_equal(again.energy, geant4.energy)
    with h5py.File(path) as file:
        assert dict(file.attrs) == HEADER | {"cell_unit": b"GeV", "axes": b"xyz"}
        np.testing.assert_array_equal(file["target"][:, 0], 11)
        np.testing.assert_array_equal(file["target"][:, 1], geant4.energy)
        np.testing.assert_array_equal(file["target"][:, 2:4], 0)
        assert (file["ECAL"].dtype, file["ECAL"].chunks) == (np.float32, (64, *CLIC.shape))


def test_a_calochallenge_file_holds_mev_layer_after_layer(geant4: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", geant4, header=HEADER, format="calochallenge")
    with h5py.File(path) as file:
        assert dict(file.attrs) == HEADER | {"cell_unit": b"MeV", "axes": b"zxy"}
        np.testing.assert_allclose(file["incident_energies"][:, 0], geant4.energy * 1000.0, rtol=1e-6)
        # Cell (x, y, z) is number z * 625 + x * 25 + y.
        np.testing.assert_allclose(file["showers"][:, 9 * 625 + 12 * 25 + 13], geant4.showers[:, 12, 13, 9] * 1e3)
        assert file["showers"].shape == (200, 15625)
    again = read_events(path)
    np.testing.assert_allclose(again.showers, geant4.showers, rtol=1e-6)
    np.testing.assert_allclose(again.energy, geant4.energy, rtol=1e-6)


@given(
    st.sampled_from([("clic", CLIC.shape), ("clic", (4, 5, 6)), ("calochallenge", CLIC.shape)]),
    st.lists(st.integers(0, 140), max_size=4),
)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_equal_showers_give_equal_bytes_however_divided(
    geant4: Events,
    tmp_path_factory: pytest.TempPathFactory,
    kind: tuple[str, tuple[int, int, int]],
    cuts: list[int],
) -> None:
    folder, (format, (x, y, z)) = tmp_path_factory.mktemp("parts"), kind
    some = Events(
        geant4.showers[:140, 6 : 6 + x, 6 : 6 + y, :z] if x < 25 else geant4.showers[:140], geant4.energy[:140]
    )
    borders = sorted({0, *cuts, 140})
    parts = (some[low:high] for low, high in itertools.pairwise(borders))
    whole = write_events(folder / "whole.h5", some, header=HEADER, format=format)
    divided = write_events(folder / "divided.h5", parts, header=HEADER, format=format)
    assert whole.read_bytes() == divided.read_bytes()


def test_a_part_that_ends_within_a_chunk_leaves_no_hole(geant4: Events, tmp_path: Path) -> None:
    whole = write_events(tmp_path / "whole.h5", geant4, header=HEADER)
    ones = write_events(tmp_path / "ones.h5", (geant4[i : i + 7] for i in range(0, 200, 7)), header=HEADER)
    empties = write_events(tmp_path / "empties.h5", [geant4[:0], geant4[:65], geant4[:0], geant4[65:]], header=HEADER)
    assert whole.read_bytes() == ones.read_bytes() == empties.read_bytes()


def test_parts_are_never_in_memory_together(tmp_path: Path) -> None:
    def parts() -> Iterator[Events]:
        for _ in range(40):
            yield Events(np.ones((50, 10, 10, 10), np.float32), np.ones(50, np.float32))

    tracemalloc.start()
    try:
        write_events(tmp_path / "showers.h5", parts(), header=HEADER)
        peak = tracemalloc.get_traced_memory()[1] / (50 * 4000)
    finally:
        tracemalloc.stop()
    assert peak < 8


def test_a_file_that_is_replaced_is_never_seen_half_written(geant4: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", geant4[:3], header=HEADER)
    before = path.read_bytes()
    with path.open("rb") as reader:
        write_events(path, geant4[3:6], header=HEADER)
        assert reader.read() == before
    np.testing.assert_array_equal(read_events(path).energy, geant4.energy[3:6])


def test_without_a_header_provenance_is_written(plain: Events, tmp_path: Path) -> None:
    with h5py.File(write_events(tmp_path / "showers.h5", plain)) as file:
        assert "calogan_version" in file.attrs


def test_a_file_in_memory_is_filled_as_one_on_disk(plain: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", plain, header=HEADER)
    with h5py.File.in_memory() as memory, h5py.File(path) as disk:
        fill_file(memory, plain, header=HEADER)
        assert dict(memory.attrs) == dict(disk.attrs)
        for name in ("ECAL", "target"):
            np.testing.assert_array_equal(memory[name], disk[name])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(geant4: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", geant4[:3], header=HEADER)
    before = path.read_bytes()

    def interrupted() -> Iterator[Events]:
        yield geant4[:70]
        raise KeyboardInterrupt

    with pytest.raises(TypeError):
        write_events(path, geant4, header={"seed": object()})  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        write_events(path, interrupted())
    with pytest.raises(EventsError, match="no showers to write; expected at least one"):
        write_events(path, [geant4[:0]])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


IN_THE_MIDDLE = """
import sys
import numpy as np
from calogan.events import Events, write_events

def parts():
    while True:
        yield Events(np.random.default_rng(0).random((64, 25, 25, 25), dtype=np.float32), np.ones(64, np.float32))
        print("written", flush=True)

write_events(sys.argv[1], parts(), header={})
"""


def test_a_killed_write_leaves_the_old_file_and_a_hidden_one(plain: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", plain, header=HEADER)
    before = path.read_bytes()
    with subprocess.Popen([sys.executable, "-c", IN_THE_MIDDLE, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        for _ in range(3):
            assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == before
    part, whole = sorted(entry.name for entry in tmp_path.iterdir())
    assert re.fullmatch(r"\.showers\.h5\.\w+\.part", part)
    assert whole == "showers.h5"
    assert open_events(tmp_path).paths == (path,)
    assert open_events(f"{tmp_path}/*").paths == open_events(f"{tmp_path}/**").paths == (path,)


ON_A_FULL_DISK = """
import resource, sys
import numpy as np
from calogan.errors import OutputError
from calogan.events import Events, write_events

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
noise = Events(np.random.default_rng(0).random((200, 25, 25, 25), dtype=np.float32), np.ones(200, np.float32))
try:
    write_events(sys.argv[1], noise, header={})
except OutputError as error:
    print(error)
"""


def test_a_full_disk_is_reported(plain: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "showers.h5", plain, header=HEADER)
    before = path.read_bytes()
    answer = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, path], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.startswith(f"{path}: cannot be written (")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("gone/showers.h5", Path.absolute, r"gone: no such folder; create it first"),
        ("folder.h5", Path.mkdir, r"folder\.h5: is a folder; name a file"),
        ("n" * 256, Path.absolute, r"nnn: cannot be written \(.*[Ff]ile name too long"),
        ("file/showers.h5", lambda path: path.parent.write_text("text"), r"file: no such folder; create it first"),
    ],
)
def test_a_path_that_cannot_be_written_is_reported(
    name: str, prepare: Callable[[Path], object], message: str, plain: Events, tmp_path: Path
) -> None:
    prepare(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=message):
        write_events(tmp_path / name, plain)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_reported(plain: Events, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"showers\.h5: cannot be written \("):
        write_events(tmp_path / "showers.h5", plain)


def test_a_format_that_is_only_read_is_refused(plain: Events, tmp_path: Path) -> None:
    message = "format 'par04' cannot be written; expected one of clic, calochallenge"
    with pytest.raises(EventsError, match=re.escape(message)):
        write_events(tmp_path / "showers.h5", plain, format="par04")
