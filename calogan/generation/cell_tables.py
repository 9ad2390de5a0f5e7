"""The tables that cells of `lean` showers are drawn from, and their file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import special

from calogan.errors import ModelError
from calogan.geometry import CELLS, CLIC
from calogan.networks import compound_poisson as law
from calogan.networks import lean

Floats: TypeAlias = NDArray[np.float32]

LAYERS, COLUMNS = CLIC.layers, CELLS // CLIC.layers
ROW = 5 * LAYERS  # cells that follow each other in both the order of the network and that of a shower
# Octaves of the table of normal deviates, and the bits of a float that select one of its steps in an octave.
TAIL_OCTAVES, TAIL_BITS = 20, 6

_SHAPES = {
    "template": (CELLS,),
    "quantum": (CELLS,),
    "place": (COLUMNS,),
    "quantiles": (len(law.RATES), law.NORMAL_STEPS),
}


@dataclass(frozen=True, eq=False)
class CellTables:
    """Constants of the cells, in the order of (x, y, z), z running fastest.

    Attributes:
        template: logarithm of each cell's mean share of its layer, shape (15625,).
        quantum: mean deposit of one crossing, shape (15625,), GeV.
        place: index of the first cell, in a shower, of each run of 25 outputs of the network, which are the layers of
            one column, shape (625,).
        quantiles: see `compound_poisson.Law`.
    """

    template: Floats
    quantum: Floats
    place: NDArray[np.int32]
    quantiles: Floats


def write(path: Path, arrays: CellTables) -> None:
    """Write tables as a file of plain arrays; the same tables give the same bytes."""
    np.savez(path, **vars(arrays))


def read(path: Path) -> CellTables:
    """Read tables.

    Raises:
        ModelError: the file does not contain such tables, or another version of calogan wrote it.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            cells = CellTables(**arrays)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise ModelError(f"{path}: contains no tables of cells ({error}); make the model again") from error
    shapes = {name: array.shape for name, array in vars(cells).items()}
    if shapes != _SHAPES:  # compiled code would read beyond the ends of the arrays
        raise ModelError(f"{path}: was written by another version of calogan; make the model again")
    return cells


def deviates() -> Floats:
    """The normal deviates with upper tails of 2^-20 to 1/2, 64 in each octave, and one more to interpolate with."""
    steps = 2**TAIL_BITS
    octave, step = np.divmod(np.arange(steps * (TAIL_OCTAVES - 1) + 2), steps)
    tail = np.asarray(2.0 ** (octave - TAIL_OCTAVES) * (1 + step / steps))
    return np.asarray(-special.ndtri(tail), np.float32)


@dataclass(frozen=True, eq=False)
class Constants:
    """The tables as the compiled code reads them: cells are in the order of the network, `lean.to_blocks`.

    Attributes:
        weight_of: exp(template) / quantum of each cell, shape (15625,), 1/GeV.
        quantum: see `CellTables`.
        layer_of: layer of each cell, shape (15625,).
        cell_of: number of each cell in a shower, shape (15625,).
        rows: the runs of `ROW` cells in the order of a shower, shape (125,).
        neighbours: first cells of the four columns beside each column, shape (4, 625).
        quantiles: see `compound_poisson.Law`, flat.
        deviates: see `deviates`.
    """

    weight_of: Floats
    quantum: Floats
    layer_of: NDArray[np.uint8]
    cell_of: NDArray[np.uint16]
    rows: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    quantiles: Floats
    deviates: Floats


def constants(cells: CellTables) -> Constants:
    """Put tables into the order of the network."""
    order = (cells.place[:, None] + np.arange(LAYERS)).reshape(-1)  # cell numbers
    column = cells.place // LAYERS
    first = np.empty(COLUMNS, np.int32)  # first cell of each column of a shower
    first[column] = LAYERS * np.arange(COLUMNS)
    return Constants(
        weight_of=(np.exp(cells.template) / cells.quantum)[order],
        quantum=cells.quantum[order],
        layer_of=(order % LAYERS).astype(np.uint8),
        cell_of=order.astype(np.uint16),
        rows=np.argsort(order[::ROW]),
        neighbours=np.stack([first[(column + step) % COLUMNS] for step in lean.NEIGHBOURS]),
        quantiles=cells.quantiles.reshape(-1),
        deviates=deviates(),
    )
