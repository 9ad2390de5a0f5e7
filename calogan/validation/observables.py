"""Physics observables of showers: energies, profiles, moments, hits; arrays in, arrays out."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calogan.events import Events
from calogan.geometry import CLIC

Showers = NDArray[np.float32]
Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

AXES = ("x", "y", "z")
PLANES = ("xy", "xz", "yz")
BRIGHT_GEV = 3e-4  # hit threshold of the public 3DGAN analysis; a minimum-ionising particle deposits 2e-4 GeV
SPECTRUM_EDGES_GEV: Floats = np.geomspace(1e-6, 1.0, 49)  # 8 bins per decade of cell energy
_FROM_10MEV = 32  # first bin of the spectrum above 10 MeV
_CHUNK = 256  # showers processed at a time: 16 MB of cells


def ecal(showers: Showers) -> Floats:
    """Energy deposited in each shower, shape (n,), GeV; showers: shape (n, 25, 25, 25), GeV."""
    return _sum(showers, (1, 2, 3))


def sampling_fraction(showers: Showers, energy: NDArray[np.floating]) -> Floats:
    """ECAL/Ep of each shower, shape (n,); energy: of the primary particles, shape (n,), GeV."""
    return ecal(showers) / energy


def profile(showers: Showers, axis: str) -> Floats:
    """Energy of each shower along one axis, shape (n, 25), GeV; axis is x, y or z."""
    others = tuple(1 + i for i, name in enumerate(AXES) if name != axis)
    return _sum(showers, others)


def layer_energies(showers: Showers) -> Floats:
    """Energy of each layer, shape (n, 25), GeV: the profile along the depth z."""
    return profile(showers, "z")


def projection(showers: Showers, plane: str) -> Floats:
    """Energy of each shower summed along the axis normal to a plane, shape (n, 25, 25), GeV; plane is xy, xz or yz."""
    (across,) = (1 + i for i, name in enumerate(AXES) if name not in plane)
    return _sum(showers, across)


def moments(profiles: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Energy-weighted mean and standard deviation of the cell index along the last axis.

    Args:
        profiles: energy in each cell along an axis, shape (..., k), any unit.

    Returns:
        Mean and standard deviation, each of shape (...), in cells counted from 0; NaN for a profile without energy.
    """
    total = _nonzero(_sum(profiles, -1))
    index = np.arange(profiles.shape[-1], dtype=np.float64)
    mean = (profiles @ index) / total
    square = (profiles @ index**2) / total
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def hits(showers: Showers, threshold_gev: float = CLIC.threshold_gev) -> Floats:
    """Number of cells at or above a threshold in each layer, shape (n, 25)."""
    return _sum(showers >= threshold_gev, (1, 2))


def core_share(xy: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Share of ECAL in the column of the entry cell, and in the 3x3 columns around it.

    Args:
        xy: projection of each shower on the front face, shape (n, 25, 25), GeV.

    Returns:
        Two shares, each of shape (n,); NaN for a shower without energy.
    """
    x, y = CLIC.entry_cell
    total = _nonzero(_sum(xy, (1, 2)))
    return xy[:, x, y] / total, _sum(xy[:, x - 1 : x + 2, y - 1 : y + 2], (1, 2)) / total


def mean_radius(xy: NDArray[np.floating]) -> Floats:
    """Energy-weighted mean distance from the centre of the shower, across its direction.

    Args:
        xy: projection of each shower on the front face, shape (n, 25, 25), GeV.

    Returns:
        Distances in cells, shape (n,); NaN for a shower without energy.
    """
    x, y = (moments(_sum(xy, axis))[0][:, None, None] for axis in (2, 1))
    i, j = np.indices(CLIC.shape[:2])
    return _sum(xy * np.hypot(i - x, j - y), (1, 2)) / _nonzero(_sum(xy, (1, 2)))


def max_cell(showers: Showers) -> Floats:
    """Energy of the hottest cell of each shower, shape (n,), GeV."""
    hottest: Showers = showers.max(axis=(1, 2, 3))
    return hottest.astype(np.float64)


def cell_spectrum(showers: Showers) -> Floats:
    """Number of cells of each shower in each bin of `SPECTRUM_EDGES_GEV`, shape (n, 48); the last includes overflow."""
    shower, *cell = np.nonzero(showers >= SPECTRUM_EDGES_GEV[0])
    return _spectrum(shower, showers[shower, *cell], len(showers)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Observables:
    """Everything that metrics and figures need of each shower: 1.3 kB instead of 62.5 kB.

    Attributes:
        energy: energy of the primary particles, Ep, shape (n,), GeV.
        ecal: deposited energy, shape (n,), GeV; 0 for an empty shower, which stays in the sample.
        profiles: energy along x, y and z, shape (n, 3, 25), GeV.
        layer_moments: mean and width along x, then along y, in each layer, shape (n, 4, 25), cells; NaN if it is empty.
        core_shares: the two shares of `core_share`, shape (n, 2); NaN for an empty shower.
        mean_radius: see `mean_radius`, shape (n,), cells; NaN for an empty shower.
        hits: cells above the read-out threshold in each layer, shape (n, 25).
        bright_hits: cells above `BRIGHT_GEV`, shape (n,).
        max_cell: energy of the hottest cell, shape (n,), GeV.
        spectrum: cells in each bin of `SPECTRUM_EDGES_GEV`, shape (n, 48).
    """

    energy: Floats
    ecal: Floats
    profiles: Floats
    layer_moments: NDArray[np.float32]
    core_shares: Floats
    mean_radius: Floats
    hits: Counts
    bright_hits: Counts
    max_cell: Floats
    spectrum: Counts

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, which: slice | NDArray[np.intp]) -> "Observables":
        return Observables(**{name: array[which] for name, array in self.arrays().items()})

    @property
    def sampling_fraction(self) -> Floats:
        """ECAL/Ep, shape (n,)."""
        return self.ecal / self.energy

    @property
    def hits_10mev(self) -> Floats:
        """Number of cells above 10 MeV, shape (n,): an edge of the spectrum."""
        return _sum(self.spectrum[:, _FROM_10MEV:], 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all attributes by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def observe(events: Events) -> Observables:
    """Compute the observables of a sample; cells below the read-out threshold `CLIC.threshold_gev` count as empty."""
    parts = (observe_planes(events[start : start + _CHUNK])[0] for start in range(0, len(events), _CHUNK))
    return concatenate(parts, len(events))


def observe_planes(events: Events) -> tuple[Observables, Floats]:
    """Compute the observables of a few showers and their projections on xy, xz and yz, shape (n, 3, 25, 25), GeV.

    Nine cells of ten are empty, so all sums run over the hits only.
    """
    n, (nx, ny, nz) = len(events), CLIC.shape
    flat = events.showers.reshape(-1)
    where = np.flatnonzero(flat >= CLIC.threshold_gev)
    gev = flat[where]
    column, z = np.divmod(where, nz)  # index of (shower, x, y)
    row = column // ny  # index of (shower, x)
    shower = row // nx
    planes = np.stack(
        [
            _sums(column, gev, (n, nx, ny)),
            _sums(row * nz + z, gev, (n, nx, nz)),
            _sums(where - nz * ny * (row - shower), gev, (n, ny, nz)),
        ],
        axis=1,
    )
    xy, xz, yz = planes[:, 0], planes[:, 1], planes[:, 2]
    total = _sum(xy, (1, 2))
    return Observables(
        energy=events.energy.astype(np.float64),
        ecal=total,
        profiles=np.stack([xz.sum(axis=2), yz.sum(axis=2), xz.sum(axis=1)], axis=1),
        layer_moments=np.stack(
            [number for plane in (xz, yz) for number in moments(plane.swapaxes(1, 2))], axis=1, dtype=np.float32
        ),
        core_shares=np.stack(core_share(xy), axis=1),
        mean_radius=mean_radius(xy),
        hits=_counts(shower * nz + z, (n, nz)),
        bright_hits=_counts(shower[gev >= BRIGHT_GEV], (n,)),
        max_cell=np.where(total > 0, max_cell(events.showers), 0.0),
        spectrum=_spectrum(shower, gev, n),
    ), planes


def concatenate(parts: Iterable[Observables], showers: int) -> Observables:
    """Concatenate the parts of a sample; showers: their total number."""
    arrays: dict[str, NDArray[Any]] = {}
    filled = 0
    for part in parts:
        for name, array in part.arrays().items():
            if name not in arrays:
                arrays[name] = np.empty((showers, *array.shape[1:]), array.dtype)
            arrays[name][filled : filled + len(part)] = array
        filled += len(part)
    return Observables(**arrays)


def high_level_features(sample: Observables) -> tuple[Floats, tuple[str, ...]]:
    """Describe each shower by the numbers that a physicist would look at, for a classifier.

    The list of the CaloChallenge (arXiv 2410.21611: energies, centres, widths and sparsity of each layer), extended
    by the share of each layer, the moments of the whole shower, its radius, its core and its hottest cell.

    Args:
        sample: observables of n showers.

    Returns:
        Features, shape (n, k), NaN where undefined (such as the centre of an empty layer), and their k names.
    """
    tiny = CLIC.threshold_gev
    layers = sample.profiles[:, 2]
    mean, std = moments(sample.profiles)
    each_layer = {
        "share": layers / _nonzero(sample.ecal)[:, None],
        "log10_energy": np.log10(layers + tiny),
        "hits": sample.hits.astype(np.float64),
        "x_mean": sample.layer_moments[:, 0],
        "x_std": sample.layer_moments[:, 1],
        "y_mean": sample.layer_moments[:, 2],
        "y_std": sample.layer_moments[:, 3],
    }
    single = {
        "log10_ep": np.log10(sample.energy),
        "sampling_fraction": sample.sampling_fraction,
        "log10_ecal": np.log10(sample.ecal + tiny),
        **{f"{axis}_mean": mean[:, i] for i, axis in enumerate(AXES)},
        **{f"{axis}_std": std[:, i] for i, axis in enumerate(AXES)},
        "hits": sample.hits.sum(axis=1).astype(np.float64),
        "bright_hits": sample.bright_hits.astype(np.float64),
        "hits_10mev": sample.hits_10mev,
        "mean_radius": sample.mean_radius,
        "core_share": sample.core_shares[:, 0],
        "core_share_3x3": sample.core_shares[:, 1],
        "max_cell_share": sample.max_cell / sample.energy,
    }
    names = (*single, *(f"{name}_layer_{k}" for name in each_layer for k in range(CLIC.layers)))
    return np.column_stack([*single.values(), *each_layer.values()]), names


def _sums(index: NDArray[np.intp], gev: Showers, shape: tuple[int, ...]) -> Floats:
    total = np.bincount(index, weights=gev, minlength=math.prod(shape))
    return np.asarray(total, dtype=np.float64).reshape(shape)


def _counts(index: NDArray[np.intp], shape: tuple[int, ...]) -> Counts:
    return np.bincount(index, minlength=math.prod(shape)).reshape(shape).astype(np.int32)


def _spectrum(shower: NDArray[np.intp], gev: Showers, n: int) -> Counts:
    """Spectra of n showers from their hits, given as the shower and the energy of each."""
    bins = len(SPECTRUM_EDGES_GEV) - 1
    which = np.searchsorted(SPECTRUM_EDGES_GEV, gev, side="right") - 1
    inside = which >= 0
    return _counts(shower[inside] * bins + np.minimum(which[inside], bins - 1), (n, bins))


def _sum(numbers: NDArray[np.number] | NDArray[np.bool_], axis: int | tuple[int, ...]) -> Floats:
    total: Floats = np.sum(numbers, axis=axis, dtype=np.float64)
    return total


def _nonzero(total: Floats) -> Floats:
    """Replace 0 by NaN, so that a share or moment of no energy is undefined."""
    return np.where(total > 0, total, np.nan)
