from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Events, open_events, packaged_sample, read_events, write_events
from calogan.geometry import CLIC

Write = Callable[[str, Path, Events], Path]

KINDS = [
    ("written clic", "clic: 25x25x25 cells in GeV"),
    ("written calochallenge", "calochallenge: 15625 cells in MeV, layer after layer"),
    ("clic", "clic: 25x25x25 cells in GeV"),
    ("clic energy", "clic: 25x25x25 cells in GeV"),
    ("x50", "clic-x50: 25x25x25 cells in GeV x 50"),
    ("x50 wide", "clic-x50: 51x51x25 cells in GeV x 50, cut to 25x25 from cell (13, 13)"),
    ("calochallenge", "calochallenge: 15625 cells in MeV, layer after layer"),
    ("calochallenge xyz", "calochallenge: 15625 cells in MeV"),
    ("par04", "par04: 25x25x25 cells in MeV"),
    ("par04 zxy", "par04: 25x25x25 cells in MeV, layer after layer"),
]


@pytest.mark.parametrize(("kind", "description"), KINDS, ids=[kind for kind, _ in KINDS])
def test_real_showers_are_read_from_every_format(
    kind: str, description: str, geant4: Events, write_as: Write, tmp_path: Path
) -> None:
    some = geant4[:20]
    files = open_events(write_as(kind, tmp_path / "showers.h5", some))
    assert [layout.description for layout in files.layouts] == [description]
    again = files[:]
    np.testing.assert_allclose(again.showers, some.showers, rtol=1e-6)
    np.testing.assert_allclose(again.energy, some.energy, rtol=1e-6)
    assert again.showers.dtype == again.energy.dtype == np.float32
    assert again.showers.flags.c_contiguous


def test_the_packaged_sample_holds_a_thousand_geant4_showers() -> None:
    events = read_events(packaged_sample())
    assert events.showers.shape == (1000, *CLIC.shape)
    assert events.showers.dtype == events.energy.dtype == np.float32
    assert 2 <= events.energy.min() < 10
    assert 490 < events.energy.max() <= 500


@given(st.integers(0, 199), st.sampled_from([kind for kind, _ in KINDS if not kind.startswith("written")]))
@settings(max_examples=25, deadline=None)
@example(0, "x50 wide")
def test_one_real_shower_is_enough_to_tell_unit_order_and_window(
    geant4: Events, write_as: Write, tmp_path_factory: pytest.TempPathFactory, which: int, kind: str
) -> None:
    one = geant4[which : which + 1]
    layout = open_events(write_as(kind, tmp_path_factory.mktemp("one") / "showers.h5", one)).layouts[0]
    expected = dict(KINDS)[kind]
    # The centre of one shower is not that of its sample: the window may start a cell beside.
    assert layout.description.split(" from cell")[0] == expected.split(" from cell")[0]
    assert all(abs(start - (13 if kind == "x50 wide" else 0)) <= 1 for start in layout.window)


@pytest.mark.parametrize("shift", [(0, 0), (-13, 13), (5, -2)])
def test_the_window_lies_around_the_showers(shift: tuple[int, int], plain: Events, tmp_path: Path) -> None:
    wide = np.zeros((3, 51, 51, 25))
    x, y = shift
    wide[:, 13 + x : 38 + x, 13 + y : 38 + y] = plain.showers * 50.0
    with h5py.File(tmp_path / "showers.h5", "w") as file:
        file["ECAL"], file["energy"] = wide, plain.energy
    files = open_events(tmp_path / "showers.h5")
    assert files.layouts[0].window == (13 + x, 13 + y)
    np.testing.assert_allclose(files[:].showers, plain.showers, rtol=1e-6)


def test_attributes_take_precedence_over_the_look_of_the_showers(plain: Events, tmp_path: Path) -> None:
    odd = Events(np.moveaxis(plain.showers, 3, 1).copy(), plain.energy)  # long along x, as no shower is
    for format in ("clic", "calochallenge"):
        path = write_events(tmp_path / "odd.h5", odd, header={}, format=format)
        np.testing.assert_allclose(read_events(path).showers, odd.showers, rtol=1e-6)
    bright = Events(plain.showers * 50, plain.energy)
    path = write_events(tmp_path / "bright.h5", bright, header={})
    np.testing.assert_array_equal(read_events(path).showers, bright.showers)


@pytest.mark.parametrize("value", ["GeV", np.array([b"GeV", b"GeV"]), 7, h5py.Empty("S3"), b"MeV", b"\xff"])
def test_a_meaningless_attribute_is_ignored(value: object, plain: Events, write_as: Write, tmp_path: Path) -> None:
    for kind in ("x50", "par04"):
        path = write_as(kind, tmp_path / f"{kind}.h5", plain)
        with h5py.File(path, "a") as file:
            file.attrs["cell_unit"] = file.attrs["axes"] = value
        np.testing.assert_allclose(read_events(path).showers, plain.showers, rtol=1e-6)


def test_datasets_may_be_elsewhere(plain: Events, write_as: Write, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with h5py.File(there / "deep.h5", "w") as file:
        file["a/b"] = plain.showers * 1000
    path = write_as("par04", tmp_path / "linked.h5", plain)
    source = h5py.VirtualSource(str(there / "deep.h5"), "a/b", shape=plain.showers.shape)
    virtual = h5py.VirtualLayout(shape=plain.showers.shape, dtype=np.float32)
    virtual[:] = source
    for link in (h5py.ExternalLink(str(there / "deep.h5"), "a/b"), virtual):
        with h5py.File(path, "a") as file:
            del file["showers"]
            if isinstance(link, h5py.VirtualLayout):
                file.create_virtual_dataset("showers", link)
            else:
                file["showers"] = link
        np.testing.assert_allclose(read_events(path).showers, plain.showers, rtol=1e-6)


def test_target_takes_precedence_over_energy(plain: Events, write_as: Write, tmp_path: Path) -> None:
    path = write_as("clic", tmp_path / "both.h5", plain)
    with h5py.File(path, "a") as file:
        file["energy"] = plain.energy * 2
    assert read_events(path).energy.tolist() == [100, 100, 100]


def test_a_format_given_by_name_overrides_the_detection(plain: Events, write_as: Write, tmp_path: Path) -> None:
    dim = Events(plain.showers / np.float32(1000), plain.energy)
    path = write_as("clic", tmp_path / "dim.h5", dim)
    np.testing.assert_array_equal(read_events(path, format="clic").showers, dim.showers)
    np.testing.assert_allclose(read_events(path, format="clic-x50").showers * 50, dim.showers, rtol=1e-6)
    dark = write_as("clic", tmp_path / "dark.h5", Events(np.zeros_like(plain.showers), plain.energy))
    assert not read_events(dark, format="clic").showers.any()
    wide = write_as("x50 wide", tmp_path / "wide.h5", Events(np.zeros_like(plain.showers), plain.energy))
    assert open_events(wide, format="clic-x50").layouts[0].window == (13, 13)
    both = write_as("calochallenge", tmp_path / "both.h5", plain)
    with h5py.File(both, "a") as file:
        file["incident_energy"] = plain.energy * 2000
    assert read_events(both).energy[0] == pytest.approx(100)
    assert read_events(both, format="par04").energy[0] == pytest.approx(200)


def test_showers_of_another_detector_are_read_where_they_are_allowed(plain: Events, tmp_path: Path) -> None:
    small = Events(plain.showers[:, :5, :6, :7].copy(), plain.energy)
    path = write_events(tmp_path / "small.h5", small, header={})
    for shape in (None, (5, 6, 7)):
        np.testing.assert_array_equal(read_events(path, shape=shape).showers, small.showers)
    flat = write_events(tmp_path / "flat.h5", plain, header={}, format="calochallenge")
    assert read_events(flat, shape=None).showers.shape == plain.showers.shape
    for file, shape, message in (
        (path, CLIC.shape, r"ECAL has shape \(3, 5, 6, 7\); expected \(n, 25, 25, 25\) or \(n, 51, 51, 25\)"),
        (path, (7, 6, 5), r"ECAL has shape \(3, 5, 6, 7\); expected \(n, 7, 6, 5\)"),
        (flat, (5, 6, 7), r"showers has shape \(3, 15625\); expected"),
    ):
        with pytest.raises(EventsError, match=message):
            open_events(file, shape=shape)
