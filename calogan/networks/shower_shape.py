"""The shape of a shower as a whole, drawn in float32: where its axis is, and how wide and dense its core is.

Ten shower-shape variables are measured on each training shower. A flow learns their distribution given the energies of the
layers, and the network computes the expected energy of each cell from them. So quantization cannot change how much showers
of the same energy differ.

A measured variable contains the sampling fluctuation of the cells, which the tail of the generator adds again. Therefore the
network gets an estimate of the expected variable: the measured one, pulled towards its mean by as much as the fluctuation of
the tail widens the distribution (`ShapeFlow.expected`). How much that is, is measured after the network's training, see
`training.calibration`.
"""

import math

import numpy as np
from keras import ops
from numpy.typing import NDArray

from calogan.geometry import CLIC
from calogan.networks import flow
from calogan.networks.base import Tensor

Floats = NDArray[np.float32]

# Depths, layers, in which the radius and the share of the core are measured.
DEPTHS = ((0, 8), (8, 13), (13, 25))
SIZE = 4 + 2 * len(DEPTHS)
# Signs that the variables get when a shower is mirrored in x.
MIRROR = np.array([-1, 1, -1, 1] + [1] * (SIZE - 4), np.float32)
# Energies, GeV, at which the fluctuation of the tail is measured; between them it is interpolated in log Ep.
NODES_GEV = (4.0, 15.0, 40.0, 80.0, 180.0, 370.0)
_RADIUS_FLOOR, _SHARE_FLOOR = 0.05, 0.01  # keep the logarithms finite


def measure(showers: Floats) -> Floats:
    """Measure the shower-shape variables.

    Args:
        showers: energy in each cell, shape (n, 25, 25, 25), GeV.

    Returns:
        Shape (n, 10): mean x and mean y, cells from the entry cell; slope of the mean x and y with depth, cells per layer;
        then for each range of `DEPTHS` the logarithms of the mean radius and of the share of the central column.
    """
    flat = showers.reshape(len(showers), -1)
    sums = flat @ _WEIGHTS
    total, x, y, z, xz, yz, zz = sums[:, :7].T
    total = total + np.float32(1e-9)
    variance = zz / total - (z / total) ** 2 + 1
    columns = [x / total, y / total]
    columns += [(axz / total - ax * z / total**2) / variance for axz, ax in ((xz, x), (yz, y))]
    for k in range(len(DEPTHS)):
        energy, radius, core = sums[:, 7 + 3 * k : 10 + 3 * k].T
        energy = energy + np.float32(1e-9)
        columns += [np.log(radius / energy + _RADIUS_FLOOR), np.log(core / energy + _SHARE_FLOOR)]
    return np.stack(columns, axis=1).astype(np.float32)


class ShapeFlow(flow.Couplings):
    """Flow of the shower-shape variables, given log Ep and the scaled energies of the layers (sticks).

    The variables are centred and scaled as functions of Ep, and what the sticks say of them linearly is subtracted; the flow
    draws the rest, the residuals.
    """

    def __init__(self) -> None:
        super().__init__(SIZE, 1 + flow.SIZE, couplings=6, width=48, name="shape_flow")
        for name, shape in {
            "centre": (flow.DEGREE, SIZE),
            "spread": (flow.DEGREE, SIZE),
            "trend": (1 + flow.SIZE, SIZE),
            "shift": (len(NODES_GEV), SIZE),
        }.items():
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False))
        identity = np.tile(np.eye(SIZE, dtype=np.float32), (len(NODES_GEV), 1, 1))
        self.response = self.add_weight(name="response", shape=identity.shape, trainable=False)
        self.response.assign(identity)

    def fit_scale(self, variables: Floats, energy: Floats, sticks: Floats) -> None:
        """Fit centre, spread and trend to variables, shape (n, 10), energies, (n,), GeV, and scaled sticks, (n, 25)."""
        centre, spread, _ = flow.self_scaled(variables.astype(np.float64), energy)
        centre[:, MIRROR < 0] = 0.0
        self.centre.assign(centre)
        self.spread.assign(spread)
        scaled = self.normalise(variables, energy)
        trend = np.linalg.lstsq(_with_one(sticks), scaled, rcond=None)[0]
        trend[:, MIRROR < 0] = 0.0
        self.trend.assign(trend)

    def normalise(self, variables: Floats, energy: Floats) -> Floats:
        """Centre and scale variables, shape (n, 10), as functions of Ep, shape (n,), GeV."""
        basis = flow.powers(np.asarray(flow.log_energy(energy), np.float64))
        scaled = (variables - basis @ np.asarray(self.centre)) / np.exp(basis @ np.asarray(self.spread))
        return np.asarray(np.clip(scaled, -6.0, 6.0), np.float32)

    def residuals(self, scaled: Floats, sticks: Floats) -> Floats:
        """What remains of scaled variables, shape (n, 10), without their trend with the scaled sticks, shape (n, 25)."""
        return np.asarray(scaled - _with_one(sticks) @ np.asarray(self.trend), np.float32)

    def expected(self, residuals: Tensor, condition: Tensor, sticks: Tensor) -> Tensor:
        """Estimate the expected variables, scaled, shape (n, 10), from drawn or measured residuals.

        Args:
            residuals: shape (n, 10).
            condition: `flow.log_energy`, shape (n, 1).
            sticks: scaled sticks, shape (n, 25).
        """
        share = node_shares(condition)
        trend = ops.matmul(sticks, self.trend[1:]) + self.trend[0]
        # A sum over the nodes instead of one product of three, which not every runtime has.
        pulled = sum(share[:, k : k + 1] * ops.matmul(residuals, self.response[k]) for k in range(len(NODES_GEV)))
        return trend + pulled + ops.matmul(share, self.shift)


def node_shares(condition: Tensor) -> Tensor:
    """Weights of the nodes for a linear interpolation in log Ep, shape (n, 6), of `flow.log_energy`, shape (n, 1)."""
    nodes = [(math.log(energy) - flow.LOG_EP_CENTRE) / flow.LOG_EP_WIDTH for energy in NODES_GEV]
    inside = ops.clip(condition, nodes[0], nodes[-1])
    hats = []
    for k, node in enumerate(nodes):
        up = (inside - nodes[k - 1]) / (node - nodes[k - 1]) if k else ops.ones_like(inside)
        down = (nodes[k + 1] - inside) / (nodes[k + 1] - node) if k + 1 < len(nodes) else ops.ones_like(inside)
        hats.append(ops.relu(ops.minimum(up, down)))
    return ops.concatenate(hats, axis=1)


def _with_one(sticks: Floats) -> Floats:
    return np.concatenate([np.ones((len(sticks), 1), np.float32), sticks], axis=1)


def _weights() -> Floats:
    """Weights of the cells in the sums that the variables are made of, shape (15625, 7 + 9)."""
    x, y, z = (index.astype(np.float32) for index in np.indices(CLIC.shape))
    x, y = x - CLIC.entry_cell[0], y - CLIC.entry_cell[1]
    radius = np.hypot(x, y)
    columns = [np.ones_like(x), x, y, z, x * z, y * z, z * z]
    for first, end in DEPTHS:
        inside = (z >= first) & (z < end)
        columns += [1.0 * inside, inside * radius, 1.0 * (inside & (radius == 0))]
    return np.stack([column.reshape(-1) for column in columns], axis=1).astype(np.float32)


_WEIGHTS = _weights()
