"""Files of hits, read back by this package and by the programs they are for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from calogan.errors import EventsError
from calogan.events import Events, Hits, hit_tables, open_events, read_events, write_events
from calogan.events.files import read_header

HEADER = {"generator": "test", "seed": "7"}
SUFFIXES = [".arrow", ".parquet", ".npz"]


@pytest.fixture(scope="module")
def hits(geant4: Events) -> Hits:
    """More showers than a chunk, and one of them without any hit."""
    some = Hits.from_dense(geant4[:200])
    empty = Hits(np.zeros(2, np.int64), np.empty(0, np.uint16), np.empty(0, np.float32), np.ones(1, np.float32))
    return Hits.concatenate([*[some] * 5, empty, *[some] * 6])


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestEveryFormat:
    def test_what_is_written_is_read(self, suffix: str, hits: Hits, tmp_path: Path) -> None:
        path = write_events(tmp_path / f"showers{suffix}", hits, header=HEADER)
        source = open_events(path)
        assert len(source) == len(hits)
        assert source.layouts[0].description == f"{suffix[1:]}: hits, in GeV"
        assert source.energy.tobytes() == hits.energy.tobytes()
        for start, stop in ((0, 1), (999, 1030), (1000, 1001), (len(hits) - 1, len(hits)), (5, 5)):
            assert source[start:stop].showers.tobytes() == hits[start:stop].to_dense().showers.tobytes()
        assert read_header(path) == HEADER

    def test_dense_showers_are_written_as_their_hits(self, suffix: str, geant4: Events, tmp_path: Path) -> None:
        path = write_events(tmp_path / f"showers{suffix}", geant4[:10], header=HEADER)
        assert read_events(path).showers.tobytes() == geant4[:10].showers.tobytes()

    def test_parts_do_not_matter(self, suffix: str, hits: Hits, tmp_path: Path) -> None:
        whole = write_events(tmp_path / f"whole{suffix}", hits, header=HEADER).read_bytes()
        parts = [hits[:1], hits[1:1100], hits[1100:1100], hits[1100:]]
        assert write_events(tmp_path / f"parts{suffix}", parts, header=HEADER).read_bytes() == whole

    @pytest.mark.parametrize(
        "damage",
        [lambda _: b"", lambda data: data[: len(data) // 2], lambda data: data[:10], lambda _: b"no" * 500],
        ids=["empty", "half", "start", "something else"],
    )
    def test_a_damaged_file_is_an_error(
        self, suffix: str, damage: Callable[[bytes], bytes], hits: Hits, tmp_path: Path
    ) -> None:
        path = write_events(tmp_path / f"showers{suffix}", hits[:300], header=HEADER)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(EventsError, match=rf"showers\{suffix}: "):
            read_events(path)

    def test_flipped_bits_are_an_error_or_other_showers(self, suffix: str, hits: Hits, tmp_path: Path) -> None:
        path = write_events(tmp_path / f"showers{suffix}", hits[:20], header=HEADER)
        data, rng = path.read_bytes(), np.random.default_rng(1)
        errors = 0
        for place in rng.integers(0, len(data), 200):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.integers(8))]) + data[place + 1 :])
            try:
                assert len(read_events(path)) >= 1
            except EventsError:
                errors += 1
        assert errors

    def test_no_showers_are_an_error_and_leave_no_file(self, suffix: str, hits: Hits, tmp_path: Path) -> None:
        with pytest.raises(EventsError, match="no showers to write"):
            write_events(tmp_path / f"showers{suffix}", [hits[:0]], header=HEADER)

        def interrupted() -> Iterator[Hits]:
            yield hits
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_events(tmp_path / f"showers{suffix}", interrupted(), header=HEADER)
        assert not list(tmp_path.iterdir())


def test_the_programs_they_are_for_read_them(hits: Hits, tmp_path: Path) -> None:
    paths = [write_events(tmp_path / f"showers{suffix}", hits, header=HEADER) for suffix in SUFFIXES]
    with pa.ipc.open_stream(paths[0].read_bytes()) as stream:
        tables = [stream.read_all(), parquet.read_table(paths[1])]
    for table in tables:
        assert table.column_names == ["energy", "cell", "cell_energy"]
        assert table["cell"][3].as_py() == hits[3:4].cell.tolist()
        assert table["cell_energy"][3].as_py() == hits[3:4].cell_energy.tolist()
    assert parquet.ParquetFile(paths[1]).metadata.row_group(0).column(1).compression == "ZSTD"
    archive = np.load(paths[2], allow_pickle=False)
    assert archive["cell"].tobytes() == hits.cell.tobytes()


def test_files_of_several_formats_are_one_sample(geant4: Events, tmp_path: Path) -> None:
    for number, suffix in enumerate([".arrow", ".h5", ".npz", ".parquet"]):
        write_events(tmp_path / f"{number}{suffix}", geant4[10 * number : 10 * (number + 1)])
    assert read_events(tmp_path).showers.tobytes() == geant4[:40].showers.tobytes()


def test_a_batch_of_a_stream_is_the_hits_without_a_copy(hits: Hits) -> None:
    batch = hit_tables.to_batch(hits)
    cell = batch.column("cell").flatten().to_numpy()
    assert np.shares_memory(cell, hits.cell)
    again = hit_tables.to_hits(batch, origin="test")
    assert all(getattr(again, name).tobytes() == array.tobytes() for name, array in vars(hits).items())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"energy": [1.0]}, "has the columns"),
        ({"cell": pa.array([[1]], pa.list_(pa.int32()))}, "has the columns"),
        ({"cell": pa.array([None], pa.list_(pa.uint16()))}, "holds null"),
        ({"cell": pa.array([[None, 2]], pa.list_(pa.uint16()))}, "holds null"),
        ({"cell": pa.array([[1]], pa.list_(pa.uint16()))}, "another number of cells than of energies"),
        ({"cell": pa.array([[2, 1]], pa.list_(pa.uint16()))}, "not in ascending order"),
        ({"cell": pa.array([[1, 15625]], pa.list_(pa.uint16()))}, "not in ascending order from 0 to 15624"),
        ({"energy": pa.array([-1], pa.float32())}, "energy of a primary particle"),
    ],
)
def test_other_tables_are_refused(columns: dict[str, pa.Array], message: str) -> None:
    usual = {
        "energy": pa.array([10], pa.float32()),
        "cell": pa.array([[1, 2]], pa.list_(pa.uint16())),
        "cell_energy": pa.array([[0.5, 0.5]], pa.list_(pa.float32())),
    }
    assert len(hit_tables.to_hits(pa.table(usual), origin="there")) == 1
    with pytest.raises(EventsError, match=f"^there: .*{message}"):
        hit_tables.to_hits(pa.table(usual | columns), origin="there")


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, offsets=np.zeros(2, np.int32), cell=np.empty(0), cell_energy=np.empty(0), energy=np.ones(1))
    with pytest.raises(EventsError, match=r"a\.npz: offsets is int32 of shape \(2,\); expected a list of int64"):
        open_events(path)
    np.savez(path, energy=np.array([{}], dtype=object))
    with pytest.raises(EventsError, match=r"a\.npz: is not a readable npz file"):
        open_events(path)
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    (tmp_path / "b.npy").rename(path)
    with pytest.raises(EventsError, match=r"a\.npz: is no archive"):
        open_events(path)


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("a.arrow", "clic", "the name says arrow, not clic; name a file .h5"),
        ("a.h5", "parquet", r"a file of the format parquet is called \.parquet"),
        ("a.h5", "root", "format 'root' cannot be written"),
    ],
)
def test_a_name_that_contradicts_the_format_is_refused(
    name: str, format: str, message: str, geant4: Events, tmp_path: Path
) -> None:
    with pytest.raises(EventsError, match=message):
        write_events(tmp_path / name, geant4[:1], format=format)


def test_a_format_that_is_required_is_that_of_the_name(geant4: Events, tmp_path: Path) -> None:
    path = write_events(tmp_path / "a.arrow", geant4[:1])
    assert len(open_events(path, format="arrow")) == 1
    with pytest.raises(EventsError, match=r"is not in the format 'clic': its name says arrow"):
        open_events(path, format="clic")
    h5 = write_events(tmp_path / "a.h5", geant4[:1])
    with pytest.raises(EventsError, match="is no file of the format 'arrow'"):
        open_events(h5, format="arrow")
    assert h5.stat().st_size < 20_000  # one shower, not a chunk of 64
