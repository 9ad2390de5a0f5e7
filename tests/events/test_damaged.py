import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from calogan.errors import EventsError
from calogan.events import open_events, read_events
from calogan.geometry import CLIC

Make = Callable[[Path], object]
Put = Callable[[h5py.File, str], object]


def file_of(**defaults: Any) -> Callable[..., Make]:
    """Returns factories of files that are valid except for some datasets; None leaves a dataset out."""

    def but(**changes: Any) -> Make:
        def make(path: Path) -> None:
            with h5py.File(path, "w") as file:
                for name, value in (defaults | changes).items():
                    if callable(value):
                        value(file, name)
                    elif value is not None:
                        file[name] = value

        return make

    return but


def column(*shape: int, cell: float, one: float = 0, core: float | None = None) -> np.ndarray:
    """Showers that are a column of equal cells; `one` sets a cell of shower 1 at the edge, `core` one in the column."""
    cells = np.zeros((3, *shape), np.float32)
    x, y = shape[0] // 2, shape[1] // 2
    cells[:, x, y, 3:20] = cell
    cells[1, 2, 3, 4] = one
    if core is not None:
        cells[1, x, y, 4] = core
    return cells


def energies(*values: float) -> np.ndarray:
    return np.array(values or (100, 100, 100))


def target(*values: float) -> np.ndarray:
    return np.tile(energies(*values)[:, None], (1, 5))


GRID, WIDE = CLIC.shape, (51, 51, 25)
clic = file_of(ECAL=column(*GRID, cell=0.12), target=target())
wide = file_of(ECAL=column(*WIDE, cell=6), energy=energies())
calochallenge = file_of(
    showers=column(*GRID, cell=120).reshape(3, -1), incident_energies=energies(1e5, 1e5, 1e5)[:, None]
)
par04 = file_of(showers=column(*GRID, cell=120), incident_energy=energies(1e5, 1e5, 1e5))
GOOD = {"clic": clic(), "wide": wide(), "calochallenge": calochallenge(), "par04": par04()}


def of_type(dtype: Any, shape: tuple[int, ...] = (3, *GRID)) -> Put:
    return lambda file, name: file.create_dataset(name, shape, dtype)


def claiming(n: int, *inner: int) -> Put:
    return lambda file, name: file.create_dataset(name, (n, *inner), np.float32, chunks=(1, *inner))


def far_behind(shower: int, value: float, scale: float = 1) -> Put:
    """300 compressed showers, one of them with a bad cell, beyond those read to detect the format."""

    def write_link(file: h5py.File, name: str) -> None:
        cells = np.repeat(column(*GRID, cell=0.12 * scale)[:1], 300, axis=0)
        cells[shower, 24, 24, 24] = value
        file.create_dataset(name, data=cells, chunks=(64, *GRID), compression="gzip", compression_opts=1)

    return write_link


def unknown_filter(file: h5py.File, name: str) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((3, *GRID))
    properties.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((3, *GRID))
    dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_FLOAT, space, properties)
    dataset.write_direct_chunk((0, 0, 0, 0), b"packed by nobody knows what", 0)


def damaged(make: Make, change: Callable[[bytes], bytes]) -> Make:
    def damage(path: Path) -> None:
        make(path)
        path.write_bytes(change(path.read_bytes()))

    return damage


def chunk_overwritten(number: int) -> Make:
    def make(path: Path) -> None:
        clic(ECAL=far_behind(0, 0), target=target(*[100] * 300))(path)
        with h5py.File(path) as file:
            chunk = file["ECAL"].id.get_chunk_info(number)
        data = bytearray(path.read_bytes())
        data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\x55" * chunk.size
        path.write_bytes(data)

    return make


def link(to: object) -> Put:
    return lambda file, name: file.__setitem__(name, to)


def group(file: h5py.File, name: str) -> None:
    file.create_group(name)


UNREADABLE = "is not a readable HDF5 file ("
UNKNOWN = "unknown format, it contains "
NUMBERS = "expected numbers"
ROWS = "is a single number or empty; expected one row for each shower"
GRID_OR_WIDE = "expected (n, 25, 25, 25) or (n, 51, 51, 25)"
MEV_GRID = "expected (n, 15625) or (n, 25, 25, 25)"
NO_ECAL = "has no dataset 'ECAL'; it contains ECAL, target"
SHARE_ELSE = "of Ep; expected about 0.02 (GeV) or 1 (GeV x 50). Are the cells in MeV?"
NOT_FINITE = "a shower cell is not a finite number (shower 1)"
EDGE = "too close to the edge to cut out 25 cells; expected the middle of the window, cell 25"

# Name, how it is made, what is said after the name of the file.
DAMAGES: list[tuple[str, Make, str]] = [
    ("missing", Path.absolute, "no such file"),
    ("empty", Path.touch, UNREADABLE),
    ("text", lambda path: path.write_text("energy"), UNREADABLE),
    ("first byte only", damaged(clic(), lambda data: data[:1]), UNREADABLE),
    ("cut in the superblock", damaged(clic(), lambda data: data[:40]), UNREADABLE),
    ("cut behind the superblock", damaged(wide(), lambda data: data[:100]), "is truncated ("),
    ("half", damaged(calochallenge(), lambda data: data[: len(data) // 2]), "is truncated ("),
    ("last byte missing", damaged(par04(), lambda data: data[:-1]), "is truncated ("),
    ("signature", damaged(clic(), lambda data: b"x" + data[1:]), UNREADABLE),
    ("version of the superblock", damaged(clic(), lambda data: data[:8] + b"\x77" + data[9:]), UNREADABLE),
    ("root group", damaged(clic(), lambda data: data[:96] + b"\xff" * 400 + data[496:]), UNREADABLE),
    ("first chunk", chunk_overwritten(0), "is damaged ("),
    ("last chunk", chunk_overwritten(4), "is damaged ("),
    (
        "unknown compression",
        clic(ECAL=unknown_filter),
        "dataset 'ECAL' is compressed with an HDF5 filter (32123) that is not installed",
    ),
    (
        "nothing in it",
        clic(ECAL=None, target=None),
        f"{UNKNOWN}nothing; expected the datasets ECAL with target or energy",
    ),
    ("no ECAL", clic(ECAL=None), f"{UNKNOWN}target; expected"),
    ("no energies", clic(target=None), f"{UNKNOWN}ECAL; expected"),
    ("no incident energies", calochallenge(incident_energies=None), f"{UNKNOWN}showers; expected"),
    ("of another program", file_of(layers=column(30, 30, 30, cell=1), energy=energies())(), f"{UNKNOWN}energy, layers"),
    ("within a group", file_of(**{"30x30/ECAL": column(*GRID, cell=1)})(), f"{UNKNOWN}30x30; expected"),
    (
        "many names",
        file_of(**{f"d{i:02}": 1 for i in range(30)})(),
        f"{UNKNOWN}d00, d01, d02, d03, d04, d05, d06, d07, d08, d09 and 20 more; ",
    ),
    ("name with control codes", file_of(**{"a\x1b[31m\nb": 1})(), f"{UNKNOWN}'a\\x1b[31m\\nb'; expected"),
    ("name not UTF-8", lambda path: h5py.File(path, "w").create_group(b"\xff").file.close(), f"{UNKNOWN}b'\\xff'"),
    ("group", clic(ECAL=group), NO_ECAL),
    ("soft link to nowhere", clic(ECAL=link(h5py.SoftLink("/gone"))), NO_ECAL),
    ("soft links in a ring", clic(ECAL=link(h5py.SoftLink("/ECAL"))), "is damaged (Special link traversal failed"),
    ("link to no file", clic(ECAL=link(h5py.ExternalLink("gone.h5", "/x"))), NO_ECAL),
    ("type", clic(ECAL=link(np.dtype(np.float32))), NO_ECAL),
    (
        "compound",
        clic(ECAL=of_type([("a", "f4"), ("b", "f4")])),
        f"dataset 'ECAL' has type [('a', '<f4'), ('b', '<f4')]; {NUMBERS}",
    ),
    ("strings", clic(target=np.full((3, 5), b"100 GeV")), f"dataset 'target' has type |S7; {NUMBERS}"),
    ("texts", wide(energy=of_type(h5py.string_dtype(), (3,))), f"dataset 'energy' has type object; {NUMBERS}"),
    ("flags", clic(ECAL=of_type(bool)), f"dataset 'ECAL' has type bool; {NUMBERS}"),
    ("complex", par04(showers=of_type(np.complex64)), f"dataset 'showers' has type complex64; {NUMBERS}"),
    (
        "lists",
        calochallenge(showers=of_type(h5py.vlen_dtype(np.float32), (3,))),
        f"dataset 'showers' has type object; {NUMBERS}",
    ),
    ("enumeration", clic(ECAL=of_type(h5py.enum_dtype({"A": 1}))), f"dataset 'ECAL' has type uint8; {NUMBERS}"),
    ("opaque", par04(incident_energy=of_type("V8", (3,))), f"dataset 'incident_energy' has type |V8; {NUMBERS}"),
    ("references", wide(energy=of_type(h5py.ref_dtype, (3,))), f"dataset 'energy' has type object; {NUMBERS}"),
    (
        "grids as one number",
        clic(ECAL=of_type((np.float32, GRID), (3,))),
        "dataset 'ECAL' has type ('<f4', (25, 25, 25)); ",
    ),
    ("no space", clic(ECAL=h5py.Empty("f4")), f"dataset 'ECAL' {ROWS}"),
    ("no space for energies", par04(incident_energy=h5py.Empty("f4")), f"dataset 'incident_energy' {ROWS}"),
    ("single number", clic(ECAL=np.float32(1)), f"dataset 'ECAL' {ROWS}"),
    ("single energy", wide(energy=100.0), f"dataset 'energy' {ROWS}"),
    ("no showers", clic(ECAL=np.ones((0, *GRID)), target=np.ones((0, 5))), "no showers; expected at least one"),
    ("no showers, MeV", par04(showers=np.ones((0, *GRID)), incident_energy=np.ones(0)), "no showers; expected"),
    ("rank of ECAL", clic(ECAL=np.ones((3, 25, 25))), f"ECAL has shape (3, 25, 25); {GRID_OR_WIDE}"),
    ("layers of ECAL", clic(ECAL=np.ones((3, 25, 25, 24))), f"ECAL has shape (3, 25, 25, 24); {GRID_OR_WIDE}"),
    ("axes of ECAL", wide(ECAL=np.ones((3, 25, 51, 51))), f"ECAL has shape (3, 25, 51, 51); {GRID_OR_WIDE}"),
    ("cylinder", par04(showers=np.ones((3, 18, 50, 45))), f"showers has shape (3, 18, 50, 45); {MEV_GRID}"),
    ("dataset 2", calochallenge(showers=np.ones((3, 6480))), f"showers has shape (3, 6480); {MEV_GRID}"),
    ("rank of showers", calochallenge(showers=np.ones(3)), f"showers has shape (3,); {MEV_GRID}"),
    ("rank of target", clic(target=np.ones(3)), "target has shape (3,); expected (n, 2 or more) with column 1"),
    ("columns of target", clic(target=np.ones((3, 1))), "target has shape (3, 1); expected (n, 2 or more)"),
    ("columns of energy", wide(energy=np.ones((3, 2))), "energy has shape (3, 2); expected (n,) or (n, 1)"),
    ("rank of energies", calochallenge(incident_energies=np.ones((3, 1, 1))), "incident_energies has shape (3, 1, 1)"),
    ("more energies", clic(target=np.ones((4, 5))), "3 showers but 4 energies; expected one energy for each"),
    ("fewer energies", par04(incident_energy=energies(1, 1)), "3 showers but 2 energies; expected one energy for each"),
    ("energy NaN", clic(target=target(1, 1, np.nan)), "the energy of shower 2 is not a finite number (nan)"),
    ("energy infinite", wide(energy=energies(1, np.inf, 1)), "the energy of shower 1 is not a finite number (inf)"),
    ("energy beyond single precision", wide(energy=energies(1, 1e300, 1)), "the energy of shower 1 is not a finite"),
    ("energy 0", clic(target=target(0, 1, 1)), "the energy of shower 0 is not above 0 (0); expected Ep"),
    ("energy negative", par04(incident_energy=energies(1, 1, -3)), "the energy of shower 2 is not above 0 (-3)"),
    ("cell NaN", clic(ECAL=column(*GRID, cell=0.12, one=np.nan)), NOT_FINITE),
    ("cell infinite", clic(ECAL=column(*GRID, cell=0.12, one=np.inf)), NOT_FINITE),
    ("cell minus infinite", calochallenge(showers=column(*GRID, cell=120, one=-np.inf).reshape(3, -1)), NOT_FINITE),
    (
        "cell beyond single precision",
        wide(ECAL=np.minimum(column(*WIDE, cell=6, core=np.inf).astype(np.float64), 1e300)),
        NOT_FINITE,
    ),
    ("cell infinite, wide", wide(ECAL=column(*WIDE, cell=6, core=np.inf)), NOT_FINITE),
    ("cell NaN, MeV", par04(showers=column(*GRID, cell=120, one=np.nan)), NOT_FINITE),
    (
        "cell negative",
        clic(ECAL=column(*GRID, cell=0.12, one=-1e-3)),
        "shower 1 has a cell with negative energy (-0.001",
    ),
    ("cell negative, MeV", par04(showers=column(*GRID, cell=120, one=-1)), "shower 1 has a cell with negative energy"),
    (
        "NaN far behind",
        clic(ECAL=far_behind(299, np.nan), target=target(*[100] * 300)),
        "a shower cell is not a finite number (shower 299)",
    ),
    (
        "infinite far behind",
        wide(ECAL=far_behind(257, np.inf, 50), energy=energies(*[100] * 300)),
        "a shower cell is not a finite number (shower 257)",
    ),
    (
        "negative far behind",
        par04(showers=far_behind(290, -9, 1e3), incident_energy=energies(*[1e5] * 300)),
        "shower 290 has a cell with negative",
    ),
    ("MeV in ECAL", clic(ECAL=column(*GRID, cell=120)), f"the sum of the cells is 20.4 {SHARE_ELSE}"),
    ("ten times too little", clic(ECAL=column(*GRID, cell=0.012)), f"the sum of the cells is 0.00204 {SHARE_ELSE}"),
    ("between the units", clic(ECAL=column(*GRID, cell=0.9)), f"the sum of the cells is 0.153 {SHARE_ELSE}"),
    ("no energy, no unit", clic(ECAL=np.zeros((3, *GRID))), "the first 3 showers hold no energy, so the unit"),
    ("no energy, no order", par04(showers=np.zeros((3, *GRID))), "the first 3 showers hold no energy, so the order"),
    ("all NaN", clic(ECAL=np.full((3, *GRID), np.nan)), "the first 3 showers hold no energy, so the unit"),
    (
        "longest in the middle",
        par04(showers=np.moveaxis(column(*GRID, cell=120), 3, 2)),
        "showers of shape (25, 25, 25) are longest along their middle axis",
    ),
    (
        "window at the edge",
        wide(ECAL=np.roll(column(*WIDE, cell=6), 14, axis=1)),
        f"the showers are centred on cell 39.0 along x, {EDGE}",
    ),
    (
        "window at the other edge",
        wide(ECAL=np.roll(column(*WIDE, cell=6), -14, axis=2)),
        f"the showers are centred on cell 11.0 along y, {EDGE}",
    ),
    (
        "claims of a million million",
        clic(ECAL=claiming(10**12, *GRID), target=claiming(10**12, 5)),
        "ECAL has room for 1000000000000 showers but was never filled",
    ),
    (
        "claims, MeV",
        calochallenge(showers=claiming(10**12, 15625), incident_energies=claiming(10**12, 1)),
        "showers has room for 1000000000000",
    ),
    ("claims of energies", clic(target=claiming(10**12, 5)), "3 showers but 1000000000000 energies"),
    ("pipe", os.mkfifo, "is a device or pipe; name an HDF5 file"),
    ("device", lambda path: path.symlink_to("/dev/null"), "is a device or pipe; name an HDF5 file"),
    ("link to nothing", lambda path: path.symlink_to(path.with_name("gone")), "no such file"),
    ("link to itself", lambda path: path.symlink_to(path), "no such file"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
@pytest.mark.timeout(20)
def test_damage_to_a_file_is_reported(make: Make, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ein Schauer ½ {x} %s.h5"
    make(path)
    with pytest.raises(EventsError) as error:
        read_events(path)
    text = str(error.value)
    assert text.startswith(f"{path}: {message}")
    assert len(text) < 1500
    text.encode()


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_an_undamaged_file_of_that_making_is_read(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "good.h5")
    events = read_events(tmp_path / "good.h5")
    assert events.energy.tolist() == [100, 100, 100]
    assert events.showers.sum(axis=(1, 2, 3)) == pytest.approx(17 * 0.12)


@pytest.mark.parametrize("one", [np.nan, np.inf, -np.inf, -1e30])
def test_a_cell_that_cannot_be_one_does_not_move_the_window(one: float, tmp_path: Path) -> None:
    path = tmp_path / "wide.h5"
    wide(ECAL=column(*WIDE, cell=6, one=one))(path)
    assert open_events(path).layouts[0].window == (13, 13)


FORCED: list[tuple[Make, str, str]] = [
    (clic(), "calochallenge", "has no dataset 'showers'; it contains ECAL, target"),
    (clic(), "par04", "has no dataset 'showers'; it contains ECAL, target"),
    (calochallenge(), "clic", "has no dataset 'ECAL'; it contains incident_energies, showers"),
    (par04(), "clic-x50", "has no dataset 'ECAL'; it contains incident_energy, showers"),
    (par04(), "calochallenge", "has no dataset 'incident_energies'; it contains incident_energy, showers"),
    (clic(target=None), "clic", "has no dataset 'target'; it contains ECAL"),
    (clic(ECAL=None, target=None), "clic", "has no dataset 'ECAL'; it contains nothing"),
]


@pytest.mark.parametrize(("make", "format", "message"), FORCED)
def test_a_format_that_does_not_fit_is_reported(make: Make, format: str, message: str, tmp_path: Path) -> None:
    make(tmp_path / "showers.h5")
    with pytest.raises(EventsError) as error:
        open_events(tmp_path / "showers.h5", format=format)
    assert str(error.value).startswith(f"{tmp_path / 'showers.h5'}: {message}")


def test_a_format_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    clic()(tmp_path / "showers.h5")
    with pytest.raises(
        EventsError, match="unknown format 'root'; expected one of clic, clic-x50, calochallenge, par04"
    ):
        open_events(tmp_path / "showers.h5", format="root")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_reported(tmp_path: Path) -> None:
    clic()(tmp_path / "showers.h5")
    (tmp_path / "showers.h5").chmod(0)
    with pytest.raises(EventsError, match="is not a readable HDF5 file"):
        read_events(tmp_path / "showers.h5")
    tmp_path.chmod(0)
    with pytest.raises(EventsError, match="cannot be accessed"):
        read_events(tmp_path / "showers.h5")
    tmp_path.chmod(0o700)
