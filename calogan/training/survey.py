"""Statistics of the training showers that stages need: computed in one pass, and small."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calogan.events import EventSource
from calogan.geometry import CLIC
from calogan.networks import deposits, shower_shape

_CHUNK = 512  # showers read at a time


@dataclass(frozen=True, eq=False)
class Survey:
    """Sums and small tables of a sample of n showers.

    Attributes:
        energy: energies of the primary particles, shape (n,), GeV.
        layer_energies: energy of each layer, shape (n, 25), GeV.
        mean_shower: mean energy of each cell, shape (25, 25, 25), GeV.
        deposits: law of a single deposit, see `networks.deposits`.
        shape: the shower-shape variables, see `networks.shower_shape`, shape (n, 10).
    """

    energy: NDArray[np.float32]
    layer_energies: NDArray[np.float32]
    mean_shower: NDArray[np.float64]
    deposits: NDArray[np.float64]
    shape: NDArray[np.float32]

    @property
    def ecal(self) -> NDArray[np.float64]:
        """Sum over the cells of each shower, shape (n,), GeV."""
        total: NDArray[np.float64] = self.layer_energies.sum(axis=1, dtype=np.float64)
        return total


def survey(source: EventSource) -> Survey:
    """Compute the statistics of a sample in one pass."""
    layer_energies, shape = [], []
    mean_shower = np.zeros(CLIC.shape)
    counts = np.zeros((mean_shower.size, deposits.BINS), np.int32)
    for start in range(0, len(source), _CHUNK):
        showers = source[start : start + _CHUNK].showers
        layer_energies.append(showers.sum(axis=(1, 2)))
        shape.append(shower_shape.measure(showers))
        mean_shower += showers.sum(axis=0, dtype=np.float64)
        counts += deposits.histogram(showers)
    return Survey(
        energy=source.energy,
        layer_energies=np.concatenate(layer_energies),
        mean_shower=mean_shower / len(source),
        deposits=deposits.single(counts, len(source)),
        shape=np.concatenate(shape),
    )
