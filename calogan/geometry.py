"""The read-out grid of the calorimeter: positions of the cells and absorber in front of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A stack of absorber plates, each followed by one layer of square read-out cells.

    Attributes:
        shape: number of cells along (x, y, z); z is the depth, so shape[2] is the number of layers.
        cell_mm: side of a cell in x and y, mm.
        absorber_mm: thickness of the tungsten in front of each layer, mm, one number per layer.
        gap_mm: total thickness of silicon, air and boards behind each plate, mm.
        entry_cell: (x, y) index of the cell that the primary particle enters at its centre.
        threshold_gev: read-out threshold; a cell below it counts as empty, GeV.
    """

    shape: tuple[int, int, int]
    cell_mm: float
    absorber_mm: tuple[float, ...]
    gap_mm: float
    entry_cell: tuple[int, int]
    threshold_gev: float

    @property
    def layers(self) -> int:
        """Number of read-out layers."""
        return self.shape[2]


# Barrel ECAL of the CLIC detector model CLIC_o1_v01; threshold of the public 3DGAN code.
CLIC = Grid(
    shape=(25, 25, 25),
    cell_mm=5.1,
    absorber_mm=(2.4,) * 17 + (4.8,) * 8,
    gap_mm=2.5,
    entry_cell=(12, 12),
    threshold_gev=1e-6,
)


CELLS = CLIC.shape[0] * CLIC.shape[1] * CLIC.shape[2]
