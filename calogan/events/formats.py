"""The layouts of HDF5 files of showers: recognised by what a file holds, read and written.

| format | cells | energies |
|---|---|---|
| `clic` | `ECAL` (n, 25, 25, 25), axes (x, y, z), GeV | `target` (n, k), column 1, or `energy` (n,), GeV |
| `clic-x50` | `ECAL` (n, 51, 51, 25) or (n, 25, 25, 25), GeV times 50 | the same |
| `calochallenge` | `showers` (n, 15625), MeV | `incident_energies` (n, 1), MeV |
| `par04` | `showers` (n, 15625) or (n, 25, 25, 25), MeV | `incident_energy` (n,), MeV |

Both flavours of the CLIC files call themselves the same and differ in the unit of the cells, and the voxels of a flat
shower come in one of two orders: what the showers look like decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.geometry import CLIC

FORMATS = ("clic", "clic-x50", "calochallenge", "par04")
WRITTEN_FORMATS = ("clic", "calochallenge")
CELL_UNIT = "cell_unit"  # attribute of the files written here: says the unit, so that nothing has to be guessed
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
_LOOKED_AT = 256  # showers that decide about unit, window and order
# Median of sum / Ep. Silicon between tungsten sees 0.018 to 0.022 of Ep; a factor of five either way is another unit.
_AS_GEV, _AS_X50 = (0.004, 0.1), (0.2, 5.0)


@dataclass(frozen=True)
class Layout:
    """How one file stores its showers.

    Attributes:
        format: one of `FORMATS`.
        count: number of showers.
        showers: name of the dataset of the cells.
        gev_per_unit: what a cell has to be multiplied by.
        stored: shape of one shower as it is stored.
        axes: order of the axes of the cells, `xyz`, or `zxy` for layer after layer.
        window: first x and y cell kept of a wider shower.
        shape: cells along (x, y, z) of a shower as it is read.
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
        """The layout in a few words, for the screen."""
        unit = {1.0: "GeV", 1 / _X50: "GeV x 50", _GEV_PER_MEV: "MeV"}[self.gev_per_unit]
        cells = "x".join(map(str, self.stored))
        x, y = self.window
        cut = f", cut to 25x25 from cell ({x}, {y})" if self.stored == _WIDE else ""
        order = ", layer after layer" if self.axes == "zxy" else ""
        return f"{self.format}: {cells} cells in {unit}{order}{cut}"


@np.errstate(over="ignore", invalid="ignore")  # a number that cannot be one is told when it is read
def recognise(
    path: Path, file: h5py.File, *, format: str | None = None, shape: tuple[int, int, int] | None = CLIC.shape
) -> tuple[Layout, NDArray[np.float32]]:
    """Find out how a file stores its showers, and read the energies of the primary particles.

    Args:
        path: name of the file, for messages.
        file: the open file.
        format: one of `FORMATS` to insist on; None to recognise it.
        shape: cells along (x, y, z) that are expected; None for any, which only files written here may have.

    Returns:
        The layout, and the energies, shape (n,), GeV.

    Raises:
        EventsError: no format fits, or the file does not hold what its format says.
    """
    if format is not None and format not in FORMATS:
        raise EventsError(f"format {format!r} is not known; give one of {', '.join(FORMATS)}")
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
    """Read some showers of a recognised file, shape (n, 25, 25, 25), axes (x, y, z), GeV."""
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
    held = set(file)
    if "ECAL" in held and held & {"target", "energy"}:
        return "clic"
    for name in ("calochallenge", "par04"):
        if set(_NAMES[name]) <= held:
            return name
    known = (
        "ECAL with target or energy (CLIC), showers with incident_energies (CaloChallenge) or incident_energy (Par04)"
    )
    raise EventsError(f"{path}: is in no known format: it has {_held(file)}; expected datasets {known}")


def _held(file: h5py.File) -> str:
    # A name that is not UTF-8 comes as bytes.
    names = [name if name.isprintable() else repr(name) for name in sorted(map(str, file))]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) or "nothing") + more


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise EventsError(f"{path}: has no dataset {name!r} (it has: {_held(file)})")
    number = np.issubdtype(found.dtype, np.floating) or np.issubdtype(found.dtype, np.integer)
    if not number or h5py.check_enum_dtype(found.dtype):
        raise EventsError(f"{path}: dataset {name!r} holds {found.dtype}; expected numbers")
    packing = found.id.get_create_plist()
    for code in (packing.get_filter(i)[0] for i in range(packing.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            raise EventsError(
                f"{path}: dataset {name!r} is packed by a filter ({code}) that is not installed here; "
                "name its folder in HDF5_PLUGIN_PATH, or pack the file anew with gzip"
            )
    if not found.shape:
        raise EventsError(f"{path}: dataset {name!r} is a single number or empty; expected one row for each shower")
    return found


def _energies(path: Path, file: h5py.File, name: str, count: int) -> NDArray[np.float32]:
    clic = name.startswith("clic")
    dataset = ("target" if "target" in file or "energy" not in file else "energy") if clic else _NAMES[name][1]
    found = _dataset(path, file, dataset)
    if len(found) != count:
        raise EventsError(f"{path}: {count} showers but {len(found)} energies; expected one energy for each")
    if count == 0:
        raise EventsError(f"{path}: no showers; expected at least one")
    if dataset == "target":
        if found.ndim != 2 or found.shape[1] < 2:
            raise EventsError(
                f"{path}: target has shape {found.shape}; expected (n, 2 or more) with column 1 = energy in GeV"
            )
        values = found[:, 1]
    else:
        if found.ndim > 2 or (found.ndim == 2 and found.shape[1] != 1):
            raise EventsError(f"{path}: {dataset} has shape {found.shape}; expected (n,) or (n, 1)")
        values = found[()].reshape(-1)
    energy = np.asarray(np.asarray(values, dtype=np.float64) * (1.0 if clic else _GEV_PER_MEV), dtype=np.float32)
    for bad, problem in ((~np.isfinite(energy), "is not a finite number"), (energy <= 0, "is not above 0")):
        if bad.any():
            which = int(np.argmax(bad))
            raise EventsError(f"{path}: the energy of shower {which} {problem} ({values[which]}); expected Ep")
    return energy


def _stored_shape(path: Path, cells: h5py.Dataset, name: str, shape: tuple[int, int, int] | None) -> tuple[int, ...]:
    stored = tuple(int(length) for length in cells.shape[1:])
    flat = (int(np.prod(CLIC.shape)),)
    if name.startswith("clic"):
        allowed = {shape, _WIDE} if shape == CLIC.shape else {shape}
        fits = stored in allowed if shape is not None else len(stored) == 3 and min(stored) > 0
        inner = ", ".join(map(str, shape)) if shape else "x, y, z"
        wanted = "(n, 25, 25, 25) or (n, 51, 51, 25)" if shape == CLIC.shape else f"(n, {inner})"
    else:
        fits = stored in (flat, CLIC.shape) and shape in (None, CLIC.shape)
        wanted = f"(n, {flat[0]}) or (n, 25, 25, 25): cells of 5.1 mm in 25 layers"
    if not fits:
        raise EventsError(f"{path}: {cells.name[1:]} has shape {cells.shape}; expected {wanted}")
    return stored


def _look(cells: h5py.Dataset) -> NDArray[np.float64]:
    """Read the showers that decide; what cannot be an energy counts as none here."""
    looked_at = np.asarray(cells[:_LOOKED_AT], dtype=np.float64)
    looked_at[~((looked_at > 0) & (looked_at < np.finfo(np.float32).max))] = 0
    return looked_at


def _cell_unit(
    path: Path, file: h5py.File, cells: h5py.Dataset, energy: NDArray[np.float32], format: str | None
) -> float:
    if format == "clic-x50":
        return 1 / _X50
    if format == "clic" or _told(file, CELL_UNIT) == "GeV":
        return 1.0
    total = _look(cells).sum(axis=(1, 2, 3))
    filled = total > 0
    if not filled.any():
        raise EventsError(
            f"{path}: the first {len(total)} showers hold no energy, so that the unit of the cells cannot be told; "
            "say it with the format: clic (GeV) or clic-x50"
        )
    median = float(np.median((total / energy[: len(total)])[filled]))
    for (low, high), unit in ((_AS_GEV, 1.0), (_AS_X50, 1 / _X50)):
        if low <= median <= high:
            return unit
    raise EventsError(
        f"{path}: the sum of the cells is {median:.3g} of Ep; expected about 0.02 (GeV) or 1 (GeV x 50). "
        "Are the cells in MeV? If the showers are meant so, say the format: clic or clic-x50"
    )


def _clic_layout(path: Path, cells: h5py.Dataset, unit: float, stored: tuple[int, ...]) -> Layout:
    name = "clic" if unit == 1 else "clic-x50"
    if stored != _WIDE:
        x, y, z = stored
        return Layout(name, len(cells), "ECAL", unit, stored, "xyz", (0, 0), (x, y, z))
    looked_at = _look(cells)
    starts = []
    for axis, entry in ((1, CLIC.entry_cell[0]), (2, CLIC.entry_cell[1])):
        others = tuple(i for i in range(4) if i != axis)
        profile = looked_at.sum(axis=others)
        total = profile.sum()
        centre = profile @ np.arange(len(profile)) / total if total > 0 else len(profile) // 2
        start = round(float(centre)) - entry
        if not 0 <= start <= _WIDE[axis - 1] - CLIC.shape[axis - 1]:
            raise EventsError(
                f"{path}: the showers lie around cell {centre:.1f} along {'xy'[axis - 1]}, too close to the edge to cut "
                "25 cells around them; expected the middle of the window, cell 25"
            )
        starts.append(start)
    return Layout(name, len(cells), "ECAL", unit, stored, "xyz", (starts[0], starts[1]), CLIC.shape)


def _axes(path: Path, file: h5py.File, cells: h5py.Dataset, stored: tuple[int, ...]) -> str:
    """Find the order of the axes: the showers are narrow along x and y and long along z."""
    told = _told(file, AXES)
    if told in ("xyz", "zxy"):
        return told
    looked_at = _look(cells)
    mean = looked_at.sum(axis=0).reshape(CLIC.shape)
    index = np.arange(CLIC.layers)
    spreads = []
    for axis in range(3):
        profile = mean.sum(axis=tuple(i for i in range(3) if i != axis))
        if not profile.sum() > 0:
            raise EventsError(
                f"{path}: the first {len(looked_at)} showers hold no energy; the order of the cells is unknown"
            )
        centre = profile @ index / profile.sum()
        spreads.append(float(profile @ (index - centre) ** 2 / profile.sum()))
    longest = int(np.argmax(spreads))
    if longest == 1:
        raise EventsError(
            f"{path}: showers of shape {stored} are longest along their middle axis; expected cells ordered (x, y, z) "
            "or (z, x, y), z being the depth"
        )
    return "xyz" if longest == 2 else "zxy"


def attributes(format: str, header: Mapping[str, str]) -> dict[str, str | np.bytes_]:
    """Attributes of a file that is written: the header, and what a reader would else have to guess."""
    told = {"clic": {CELL_UNIT: "GeV", AXES: "xyz"}, "calochallenge": {CELL_UNIT: "MeV", AXES: "zxy"}}[format]
    return {**header, **{name: np.bytes_(value) for name, value in told.items()}}


def _told(file: h5py.File, name: str) -> str:
    # Only of fixed length: a string of variable length is kept in a heap, and HDF5 crashes in one that is damaged.
    if name not in file.attrs or file.attrs.get_id(name).dtype.kind != "S" or file.attrs.get_id(name).shape != ():
        return ""
    return bytes(file.attrs[name]).decode("ascii", "replace")
