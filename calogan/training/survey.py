"""Statistics of the training showers that stages need: computed in one pass, and small."""

from dataclasses import dataclass

import numpy as np
from keras import ops
from numpy.typing import NDArray

from calogan.events import EventSource
from calogan.geometry import CLIC
from calogan.networks import deposits
from calogan.networks.base import Tensor

_CHUNK = 512  # showers read at a time
_MOMENT_FLOOR = 0.05  # cells squared, keeps the logarithm of a width finite where one cell holds a layer


@dataclass(frozen=True, eq=False)
class Survey:
    """Sums and small tables of a sample of n showers.

    Attributes:
        energy: energies of the primary particles, shape (n,), GeV.
        layer_energies: energy of each layer, shape (n, 25), GeV.
        mean_shower: mean energy of each cell, shape (25, 25, 25), GeV.
        deposits: law of a single deposit, see `networks.deposits`.
        moments_centre, moments_spread: mean and standard deviation of `moments`, shape (150,).
    """

    energy: NDArray[np.float32]
    layer_energies: NDArray[np.float32]
    mean_shower: NDArray[np.float64]
    deposits: NDArray[np.float64]
    moments_centre: NDArray[np.float32]
    moments_spread: NDArray[np.float32]

    @property
    def ecal(self) -> NDArray[np.float64]:
        """Sum over the cells of each shower, shape (n,), GeV."""
        total: NDArray[np.float64] = self.layer_energies.sum(axis=1, dtype=np.float64)
        return total


def survey(source: EventSource) -> Survey:
    """Compute the statistics of a sample in one pass."""
    layer_energies, layer_moments = [], []
    mean_shower = np.zeros(CLIC.shape)
    counts = np.zeros((mean_shower.size, deposits.BINS), np.int32)
    for start in range(0, len(source), _CHUNK):
        showers = source[start : start + _CHUNK].showers
        layer_energies.append(showers.sum(axis=(1, 2)))
        layer_moments.append(np.asarray(moments(showers)))
        mean_shower += showers.sum(axis=0, dtype=np.float64)
        counts += deposits.histogram(showers)
    table = np.concatenate(layer_moments)
    return Survey(
        energy=source.energy,
        layer_energies=np.concatenate(layer_energies),
        mean_shower=mean_shower / len(source),
        deposits=deposits.single(counts, len(source)),
        moments_centre=table.mean(axis=0),
        moments_spread=table.std(axis=0) + np.float32(1e-6),
    )


def moments(showers: Tensor) -> Tensor:
    """Describe each layer for an encoder: centre and width along x and y, hits, share of the central cell.

    Args:
        showers: energy in each cell, shape (n, 25, 25, 25), GeV.

    Returns:
        Shape (n, 150): six numbers of each layer, of order 1 after `Survey` has centred them.
    """
    x, y = CLIC.entry_cell
    total = ops.sum(showers, axis=(1, 2)) + 1e-9
    columns = []
    for across, entry in ((2, x), (1, y)):
        offset = ops.reshape(ops.arange(CLIC.shape[0], dtype="float32") - entry, (1, -1, 1))
        profile = ops.sum(showers, axis=across)
        columns.append(ops.sum(profile * offset, axis=1) / total)
        columns.append(ops.log(ops.sum(profile * offset**2, axis=1) / total + _MOMENT_FLOOR))
    hits = ops.sum(ops.cast(showers > 0, "float32"), axis=(1, 2))
    columns += [ops.log1p(hits), ops.log(showers[:, x, y] / total + 1e-3)]
    return ops.concatenate(columns, axis=1)
