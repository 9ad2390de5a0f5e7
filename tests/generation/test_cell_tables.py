from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calogan.errors import ModelError
from calogan.generation import cell_tables, freezing, model_folder
from calogan.generation.cell_tables import CellTables
from calogan.geometry import CELLS
from calogan.networks import lean


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> lean.Lean:
    loaded = freezing.load_generator_network(tiny_model, model_folder.read(tiny_model))
    assert isinstance(loaded, lean.Lean)
    return loaded


def test_tables_survive_being_written_and_have_one_spelling(model: lean.Lean, tmp_path: Path) -> None:
    cells = CellTables(**model.tables())
    for name in ("a.npz", "b.npz"):
        cell_tables.write(tmp_path / name, cells)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = cell_tables.read(tmp_path / "a.npz")
    for name, array in vars(cells).items():
        np.testing.assert_array_equal(getattr(again, name), array)
    assert sorted(again.place) == list(range(0, 25**3, 25))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-2000]),
        lambda path: np.savez(path, template=np.zeros(3)),
        lambda path: np.savez(path, template=np.array([{}], dtype=object)),
        lambda path: path.unlink(),
    ],
    ids=["empty", "cut off", "not all of them", "pickled", "not there"],
)
def test_a_file_without_tables_is_an_error(damage: Callable[[Path], object], model: lean.Lean, tmp_path: Path) -> None:
    cell_tables.write(tmp_path / "cells.npz", CellTables(**model.tables()))
    damage(tmp_path / "cells.npz")
    with pytest.raises(ModelError, match="contains no tables of cells"):
        cell_tables.read(tmp_path / "cells.npz")


def test_tables_of_another_version_are_an_error(model: lean.Lean, tmp_path: Path) -> None:
    cells: dict[str, Any] = dict(model.tables())
    np.savez(tmp_path / "cells.npz", **cells | {"place": np.arange(25**3, dtype=np.int32)})
    with pytest.raises(ModelError, match="another version"):
        cell_tables.read(tmp_path / "cells.npz")


def test_the_order_of_the_network_has_every_cell_once_and_its_neighbours_beside_it(model: lean.Lean) -> None:
    constants = cell_tables.constants(CellTables(**model.tables()))
    assert sorted(constants.cell_of) == list(range(CELLS))
    cell_of = constants.cell_of.astype(int)
    rows = [cell_of[row * cell_tables.ROW : (row + 1) * cell_tables.ROW] for row in constants.rows]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(CELLS))
    centre = int(np.flatnonzero(cell_of == (12 * 25 + 12) * 25)[0])
    beside = cell_of[constants.neighbours[:, centre // 25]] // 25
    assert [divmod(int(column), 25) for column in beside] == [(12, 13), (12, 11), (13, 12), (11, 12)]
