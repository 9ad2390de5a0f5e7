"""Hits as point clouds, in HDF5 files of the layout of the package `showerdata`, which the generators of ILD read.

A point is (x, y, z, energy): x and y in mm from the axis of the primary particle, z the number of the layer, GeV.
"""

from collections.abc import Iterable, Mapping

import h5py
import numpy as np

from calogan.events.hits import Hits
from calogan.geometry import CLIC

ELECTRON_PDG = 11
_FEATURES = 4


def fill(file: h5py.File, parts: Iterable[Hits], header: Mapping[str, str]) -> int:
    """Write showers into an open, empty HDF5 file; returns their number.

    Args:
        file: the file.
        parts: the showers.
        header: attributes of the file.
    """
    file.attrs.update(header)
    file.create_dataset("showers", (0,), h5py.vlen_dtype(np.float32), maxshape=(None,), chunks=(1024,))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("energies", "num_points")}
    for hits in parts:
        clouds = np.empty(len(hits), object)  # h5py would make a rectangle of clouds that happen to be equally long
        clouds[:] = np.split(_points(hits).reshape(-1), _FEATURES * hits.offsets[1:-1])
        showers = file["showers"]
        filled = len(showers)
        showers.resize(filled + len(hits), axis=0)
        for number, cloud in enumerate(clouds):
            showers[filled + number] = cloud
        columns["energies"].append(hits.energy[:, None])
        columns["num_points"].append(hits.counts.astype(np.int32))
    n = len(file["showers"])
    if n:
        for name, values in columns.items():
            file.create_dataset(name, data=np.concatenate(values))
        file.create_dataset("directions", data=np.tile(np.array([0, 0, 1], np.float32), (n, 1)))
        file.create_dataset("pdg", data=np.full(n, ELECTRON_PDG, np.int32))
        file.create_dataset("shower_ids", data=np.arange(n, dtype=np.int32))
        file.create_dataset("shape", data=np.array([n, file["num_points"][()].max(), _FEATURES], np.int32))
    return n


def _points(hits: Hits) -> np.ndarray:
    x, y, z = np.unravel_index(hits.cell, CLIC.shape)
    across = [(index - entry) * CLIC.cell_mm for index, entry in zip((x, y), CLIC.entry_cell, strict=True)]
    return np.stack([*across, z, hits.cell_energy], axis=1).astype(np.float32)
