"""The layouts of HDF5 shower files: detected from the contents of a file, read and written.

| format | cells | energies |
|---|---|---|
| `clic` | `ECAL` (n, 25, 25, 25), axes (x, y, z), GeV | `target` (n, k), column 1, or `energy` (n,), GeV |
| `clic-x50` | `ECAL` (n, 51, 51, 25) or (n, 25, 25, 25), GeV times 50 | the same |
| `calochallenge` | `showers` (n, 15625), MeV | `incident_energies` (n, 1), MeV |
| `par04` | `showers` (n, 15625) or (n, 25, 25, 25), MeV | `incident_energy` (n,), MeV |

Both kinds of CLIC files use the same dataset names and differ in the unit of the cells, and the voxels of a flattened
shower come in one of two orders. The showers themselves decide which it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.events import hit_files
from calogan.geometry import CLIC

HDF5_FORMATS = ("clic", "clic-x50", "calochallenge", "par04")
FORMATS = (*HDF5_FORMATS, *hit_files.FORMATS.values())
WRITTEN_HDF5 = ("clic", "calochallenge", "showerdata")
WRITTEN_FORMATS = (*WRITTEN_HDF5, *hit_files.FORMATS.values())
CELL_UNIT = "cell_unit"  # attribute of the files written here, so that their unit need not be guessed
AXES = "axes"
_NAMES = {
    "clic": ("ECAL", "target"),
    "clic-x50": ("ECAL", "energy"),
    "calochallenge": ("showers", "incident_energies"),
    "par04": ("showers", "incident_energy"),
}
_X50 = 50.0
_GEV_PER_MEV = 1e-3
_WIDE = (51, 51, 25)
_PROBE_SHOWERS = 256  # showers read to decide about unit, window and order
# Median of ECAL / Ep. Silicon between tungsten absorbs 0.018 to 0.022 of Ep; a factor of five off is another unit.
_AS_GEV, _AS_X50 = (0.004, 0.1), (0.2, 5.0)


@dataclass(frozen=True)
class Layout:
    """How one file stores its showers.

    Attributes:
        format: one of `FORMATS`.
        count: number of showers.
        showers: name of the dataset of the cells.
        gev_per_unit: factor that converts a cell to GeV.
        stored: shape of one shower in the file.
        axes: order of the axes of the cells, `xyz`, or `zxy` for layer after layer.
        window: first x and y cell to read from a wider shower.
        shape: number of cells along (x, y, z) of a shower after reading.
    """

    format: str
    count: int
    showers: str
    gev_per_unit: float
    stored: tuple[int, ...]
    axes: str
    window: tuple[int, int]
    shape: tuple[int, int, int]

    @property
    def description(self) -> str:
        """The layout in a few words, for display."""
        if self.format in hit_files.FORMATS.values():
            return f"{self.format}: hits, in GeV"
        unit = {1.0: "GeV", 1 / _X50: "GeV x 50", _GEV_PER_MEV: "MeV"}[self.gev_per_unit]
        cells = "x".join(map(str, self.stored))
        x, y = self.window
        cut = f", cut to 25x25 from cell ({x}, {y})" if self.stored == _WIDE else ""
        order = ", layer after layer" if self.axes == "zxy" else ""
        return f"{self.format}: {cells} cells in {unit}{order}{cut}"


@np.errstate(over="ignore", invalid="ignore")  # numbers that are not finite are reported later, when they are read
def recognise(
    path: Path, file: h5py.File, *, format: str | None = None, shape: tuple[int, int, int] | None = CLIC.shape
) -> tuple[Layout, NDArray[np.float32]]:
    """Detect how a file stores its showers, and read the energies of the primary particles.

    Args:
        path: path of the file, for error messages.
        file: the open file.
        format: one of `FORMATS` to require; None to detect it.
        shape: expected number of cells along (x, y, z); None for any, which only files written here may have.

    Returns:
        The layout, and the energies, shape (n,), GeV.

    Raises:
        EventsError: no format fits, or the contents of the file do not match its format.
    """
    if format is not None and format not in HDF5_FORMATS:
        raise EventsError(f"{path}: is no file of the format {format!r}; in HDF5 there are {', '.join(HDF5_FORMATS)}")
    name = format or _by_names(path, file)
    cells = _dataset(path, file, _NAMES[name][0])
    stored = _stored_shape(path, cells, name, shape)
    if not cells.is_virtual and cells.id.get_storage_size() < len(cells):
        raise EventsError(f"{path}: {_NAMES[name][0]} has room for {len(cells)} showers but was never filled")
    energy = _energies(path, file, name, len(cells))
    if name.startswith("clic"):
        unit = _cell_unit(path, file, cells, energy, format)
        return _clic_layout(path, cells, unit, stored), energy
    axes = _axes(path, file, cells, stored)
    return Layout(name, len(cells), _NAMES[name][0], _GEV_PER_MEV, stored, axes, (0, 0), CLIC.shape), energy


@np.errstate(over="ignore", invalid="ignore")
def read_showers(file: h5py.File, layout: Layout, rows: slice) -> NDArray[np.float32]:
    """Read some showers of a file of known layout, shape (n, 25, 25, 25), axes (x, y, z), GeV."""
    (x, y), (nx, ny, nz) = layout.window, layout.shape
    dataset = file[layout.showers]
    if len(layout.stored) == 1:
        grid = [{"x": nx, "y": ny, "z": nz}[axis] for axis in layout.axes]
        cells = dataset[rows].reshape(-1, *grid)
    elif layout.stored == _WIDE:
        cells = dataset[rows, x : x + nx, y : y + ny]
    else:
        cells = dataset[rows]
    if layout.axes == "zxy":
        cells = np.moveaxis(cells, 1, 3)
    cells = np.ascontiguousarray(cells, dtype=np.float32)
    if layout.gev_per_unit != 1:
        cells *= np.float32(layout.gev_per_unit)
    return cells


def _by_names(path: Path, file: h5py.File) -> str:
    names = set(file)
    if "ECAL" in names and names & {"target", "energy"}:
        return "clic"
    for name in ("calochallenge", "par04"):
        if set(_NAMES[name]) <= names:
            return name
    raise EventsError(
        f"{path}: unknown format, it contains {_contents(file)}; expected the datasets ECAL with target or energy "
        "(CLIC), or showers with incident_energies (CaloChallenge) or incident_energy (Par04)"
    )


def _contents(file: h5py.File) -> str:
    # h5py returns a name that is not UTF-8 as bytes.
    names = [name if name.isprintable() else repr(name) for name in sorted(map(str, file))]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) or "nothing") + more


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise EventsError(f"{path}: has no dataset {name!r}; it contains {_contents(file)}")
    numeric = np.issubdtype(dataset.dtype, np.floating) or np.issubdtype(dataset.dtype, np.integer)
    if not numeric or h5py.check_enum_dtype(dataset.dtype):
        raise EventsError(f"{path}: dataset {name!r} has type {dataset.dtype}; expected numbers")
    properties = dataset.id.get_create_plist()
    for code in (properties.get_filter(i)[0] for i in range(properties.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            raise EventsError(
                f"{path}: dataset {name!r} is compressed with an HDF5 filter ({code}) that is not installed; "
                "set HDF5_PLUGIN_PATH to its folder, or compress the file again with gzip"
            )
    if not dataset.shape:
        raise EventsError(f"{path}: dataset {name!r} is a single number or empty; expected one row for each shower")
    return dataset


def _energies(path: Path, file: h5py.File, name: str, count: int) -> NDArray[np.float32]:
    clic = name.startswith("clic")
    column = ("target" if "target" in file or "energy" not in file else "energy") if clic else _NAMES[name][1]
    dataset = _dataset(path, file, column)
    if len(dataset) != count:
        raise EventsError(f"{path}: {count} showers but {len(dataset)} energies; expected one energy for each shower")
    if count == 0:
        raise EventsError(f"{path}: no showers; expected at least one")
    if column == "target":
        if dataset.ndim != 2 or dataset.shape[1] < 2:
            raise EventsError(
                f"{path}: target has shape {dataset.shape}; expected (n, 2 or more) with column 1 = energy in GeV"
            )
        values = dataset[:, 1]
    else:
        if dataset.ndim > 2 or (dataset.ndim == 2 and dataset.shape[1] != 1):
            raise EventsError(f"{path}: {column} has shape {dataset.shape}; expected (n,) or (n, 1)")
        values = dataset[()].reshape(-1)
    energy = np.asarray(np.asarray(values, dtype=np.float64) * (1.0 if clic else _GEV_PER_MEV), dtype=np.float32)
    for bad, problem in ((~np.isfinite(energy), "is not a finite number"), (energy <= 0, "is not above 0")):
        if bad.any():
            which = int(np.argmax(bad))
            raise EventsError(f"{path}: the energy of shower {which} {problem} ({values[which]}); expected Ep in GeV")
    return energy


def _stored_shape(path: Path, cells: h5py.Dataset, name: str, shape: tuple[int, int, int] | None) -> tuple[int, ...]:
    stored = tuple(int(length) for length in cells.shape[1:])
    flat = (int(np.prod(CLIC.shape)),)
    if name.startswith("clic"):
        allowed = {shape, _WIDE} if shape == CLIC.shape else {shape}
        fits = stored in allowed if shape is not None else len(stored) == 3 and min(stored) > 0
        inner = ", ".join(map(str, shape)) if shape else "x, y, z"
        expected = "(n, 25, 25, 25) or (n, 51, 51, 25)" if shape == CLIC.shape else f"(n, {inner})"
    else:
        fits = stored in (flat, CLIC.shape) and shape in (None, CLIC.shape)
        expected = f"(n, {flat[0]}) or (n, 25, 25, 25): cells of 5.1 mm in 25 layers"
    if not fits:
        raise EventsError(f"{path}: {cells.name[1:]} has shape {cells.shape}; expected {expected}")
    return stored


def _probe(cells: h5py.Dataset) -> NDArray[np.float64]:
    """Read the first showers; values that cannot be energies are set to 0 here."""
    probe = np.asarray(cells[:_PROBE_SHOWERS], dtype=np.float64)
    probe[~((probe > 0) & (probe < np.finfo(np.float32).max))] = 0
    return probe


def _cell_unit(
    path: Path, file: h5py.File, cells: h5py.Dataset, energy: NDArray[np.float32], format: str | None
) -> float:
    if format == "clic-x50":
        return 1 / _X50
    if format == "clic" or _attribute(file, CELL_UNIT) == "GeV":
        return 1.0
    total = _probe(cells).sum(axis=(1, 2, 3))
    filled = total > 0
    if not filled.any():
        raise EventsError(
            f"{path}: the first {len(total)} showers hold no energy, so the unit of the cells is unclear; "
            "name the format: clic (GeV) or clic-x50"
        )
    median = float(np.median((total / energy[: len(total)])[filled]))
    for (low, high), unit in ((_AS_GEV, 1.0), (_AS_X50, 1 / _X50)):
        if low <= median <= high:
            return unit
    raise EventsError(
        f"{path}: the sum of the cells is {median:.3g} of Ep; expected about 0.02 (GeV) or 1 (GeV x 50). "
        "Are the cells in MeV? If this is intended, name the format: clic or clic-x50"
    )


def _clic_layout(path: Path, cells: h5py.Dataset, unit: float, stored: tuple[int, ...]) -> Layout:
    name = "clic" if unit == 1 else "clic-x50"
    if stored != _WIDE:
        x, y, z = stored
        return Layout(name, len(cells), "ECAL", unit, stored, "xyz", (0, 0), (x, y, z))
    probe = _probe(cells)
    starts = []
    for axis, entry in ((1, CLIC.entry_cell[0]), (2, CLIC.entry_cell[1])):
        others = tuple(i for i in range(4) if i != axis)
        profile = probe.sum(axis=others)
        total = profile.sum()
        centre = profile @ np.arange(len(profile)) / total if total > 0 else len(profile) // 2
        start = round(float(centre)) - entry
        if not 0 <= start <= _WIDE[axis - 1] - CLIC.shape[axis - 1]:
            raise EventsError(
                f"{path}: the showers are centred on cell {centre:.1f} along {'xy'[axis - 1]}, too close to the edge to "
                "cut out 25 cells; expected the middle of the window, cell 25"
            )
        starts.append(start)
    return Layout(name, len(cells), "ECAL", unit, stored, "xyz", (starts[0], starts[1]), CLIC.shape)


def _axes(path: Path, file: h5py.File, cells: h5py.Dataset, stored: tuple[int, ...]) -> str:
    """Detect the order of the axes: showers are narrow along x and y and long along z."""
    attribute = _attribute(file, AXES)
    if attribute in ("xyz", "zxy"):
        return attribute
    probe = _probe(cells)
    mean = probe.sum(axis=0).reshape(CLIC.shape)
    index = np.arange(CLIC.layers)
    spreads = []
    for axis in range(3):
        profile = mean.sum(axis=tuple(i for i in range(3) if i != axis))
        if not profile.sum() > 0:
            raise EventsError(
                f"{path}: the first {len(probe)} showers hold no energy, so the order of the cells is unclear; "
                "put showers with energy first"
            )
        centre = profile @ index / profile.sum()
        spreads.append(float(profile @ (index - centre) ** 2 / profile.sum()))
    longest = int(np.argmax(spreads))
    if longest == 1:
        raise EventsError(
            f"{path}: showers of shape {stored} are longest along their middle axis; expected the order (x, y, z) or "
            "(z, x, y), where z is the depth"
        )
    return "xyz" if longest == 2 else "zxy"


def attributes(format: str, header: Mapping[str, str]) -> dict[str, str | np.bytes_]:
    """Attributes of a new file: the header, and the unit and order that a reader would otherwise have to guess."""
    layout = {"clic": {CELL_UNIT: "GeV", AXES: "xyz"}, "calochallenge": {CELL_UNIT: "MeV", AXES: "zxy"}}[format]
    return {**header, **{name: np.bytes_(value) for name, value in layout.items()}}


def _attribute(file: h5py.File, name: str) -> str:
    # Strings of fixed length only: those of variable length are stored in a heap, and HDF5 crashes on a damaged heap.
    if name not in file.attrs or file.attrs.get_id(name).dtype.kind != "S" or file.attrs.get_id(name).shape != ():
        return ""
    return bytes(file.attrs[name]).decode("ascii", "replace")
