"""Files of point clouds, read back by the package they are for."""

from pathlib import Path

import numpy as np
import pytest
import showerdata

from calogan.errors import EventsError
from calogan.events import Events, Hits, write_events
from calogan.events.files import read_header
from calogan.geometry import CLIC

HEADER = {"generator": "test", "seed": "7"}


def test_showerdata_reads_the_points_of_the_cells(geant4: Events, tmp_path: Path) -> None:
    hits = Hits.from_dense(geant4[:30])
    path = write_events(tmp_path / "clouds.h5", [hits[:7], hits[7:]], header=HEADER, format="showerdata")
    clouds = showerdata.load(path)
    assert len(clouds) == 30
    assert clouds.energies[:, 0].tolist() == geant4.energy[:30].tolist()
    assert set(clouds.pdg.tolist()) == {11}
    np.testing.assert_array_equal(clouds.directions, np.tile([0, 0, 1], (30, 1)))
    assert showerdata.get_file_shape(path) == (30, hits.counts.max(), 4)
    for shower, points, count in zip(geant4.showers, clouds.points, hits.counts, strict=False):
        x, y, z = (np.rint(points[:count, 0] / 5.1 + 12), np.rint(points[:count, 1] / 5.1 + 12), points[:count, 2])
        again = np.zeros(CLIC.shape, np.float32)
        again[x.astype(int), y.astype(int), z.astype(int)] = points[:count, 3]
        assert again.tobytes() == shower.tobytes()
        assert not points[count:].any()
    assert read_header(path)["seed"] == "7"


def test_showers_of_equally_many_points_and_of_none(tmp_path: Path) -> None:
    hits = Hits(np.array([0, 1, 2, 2]), np.array([7, 8], np.uint16), np.ones(2, np.float32), np.ones(3, np.float32))
    clouds = showerdata.load(write_events(tmp_path / "clouds.h5", hits, format="showerdata"))
    np.testing.assert_allclose(clouds.points[:, 0, 2], [7, 8, 0])
    np.testing.assert_allclose(clouds.points[0, 0, :2], [-12 * 5.1, -12 * 5.1])


def test_no_showers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(EventsError, match="no showers to write"):
        write_events(tmp_path / "clouds.h5", [], format="showerdata")
    assert not list(tmp_path.iterdir())
