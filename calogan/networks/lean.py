"""`lean`: a generator designed for integer arithmetic.

It has three parts. Float32 flows draw the energies of the layers (`flow`) and the shape of the shower as a whole
(`shower_shape`). A small convolutional network, the part that is quantized, computes the expected share of each cell in its
layer. A float32 tail draws each cell around its expected energy with the sampling fluctuation (`compound_poisson`) and
scales every layer to the energy drawn by the flow. So quantization can change the shape within a layer only: it cannot shift
the sampling fraction, the resolution or the longitudinal profile, nor how much showers of an energy differ.
"""

import math
from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from calogan.config import Network
from calogan.geometry import CELLS, CLIC
from calogan.networks import compound_poisson, deposits, flow, shower_shape
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.stages import ADVERSARIAL, FLOW, PRETRAINING, SHAPE, SHAPE_FLOW, WARMUP

_RINGS, _SIDES = 8, 3
LOGIT_MAX = 30.0  # above any realistic share; keeps the exponential finite
BY_CROSSINGS = 0.5  # share of a layer's excess or deficit that is corrected by the number of crossings
FACTOR_MIN, FACTOR_MAX = 0.4, 1.25  # factors on the rates of a layer with too many, or too few, crossings
RATE_MIN = 1e-7  # keeps the logarithm of the rate of an empty layer finite
_DEPOSIT_GEV = 3.5e-4
# Chance that a track that deposits a mean energy in a cell crosses a given one of its four neighbours too; it grows with the
# energy, as oblique and curling tracks deposit most.
SHARED = 1 / 32
NEIGHBOURS = (1, -1, CLIC.shape[1], -CLIC.shape[1])  # columns from a cell's column to those of its neighbours
# A cell borrows the random numbers of cells far away: for digits beyond its own 16 bits, for the direction in which a track
# is shared, and for what it deposits there. Where one of two such cells is often hit, the other hardly ever is.
FINE, DIRECTION, DEPOSIT = 7_813, 3_919, 11_717
_BLOCK = 5  # side of the small image, and of the square of cells that each of its positions expands to
_BLOCKS = _BLOCK * _BLOCK


class Lean(GeneratorNetwork):
    """Generator family `lean`; see the module.

    Attributes:
        flow: draws the energies of the layers.
        shape_flow: draws the shape of a shower with these energies.
        network: the quantized part: features, shape (n, 2 + 25 + 10) -> logits, shape (n, 5, 5, 625), see `to_blocks`.
        template: logarithm of each cell's mean share of its layer, shape (25, 25, 25).
        log_quantum: logarithm of the mean deposit of one crossing, GeV, by layer and region, see `_regions`.
    """

    family = "lean"
    latent_size = flow.SIZE + shower_shape.SIZE
    cell_noise = True
    stages = (PRETRAINING, FLOW, SHAPE, SHAPE_FLOW, WARMUP, ADVERSARIAL)

    @classmethod
    def create(cls, config: Network) -> Self:
        """Make an untrained generator whose network has the width, depth and kernel of a configuration."""
        return cls(width=config.width, depth=config.depth, kernel=config.kernel)

    def __init__(self, *, width: int = 128, depth: int = 2, kernel: int = 3) -> None:
        super().__init__(name=self.family)
        self.flow = flow.LayerFlow()
        self.shape_flow = shower_shape.ShapeFlow()
        self.network = shape_network(width, depth=depth, kernel=kernel)
        self.template = self.add_weight(name="template", shape=CLIC.shape, initializer="zeros")
        self.log_quantum = self.add_weight(
            name="log_quantum",
            shape=(CLIC.layers, _RINGS * _SIDES),
            initializer="zeros",
        )
        # Quantiles of the cells' energies; computed from the deposits in the training showers.
        self.quantiles = self.add_weight(
            name="quantiles",
            shape=(len(compound_poisson.RATES), compound_poisson.NORMAL_STEPS),
            initializer="zeros",
            trainable=False,
        )
        self.set_law(compound_poisson.law(deposits.exponential(_DEPOSIT_GEV)))
        self.region = _regions()
        self.central = np.zeros((1, *CLIC.shape), dtype=np.float32)
        self.central[:, *CLIC.entry_cell] = 1.0

    def set_law(self, law: compound_poisson.Law) -> None:
        """Set the law of single deposits; its mean becomes the quantum of all cells."""
        self.quantiles.assign(law.quantiles)
        self.log_quantum.assign(np.full(self.log_quantum.shape, np.log(law.mean), np.float32))

    def adapt(
        self,
        *,
        energy: NDArray[np.float32],
        layer_energies: NDArray[np.float32],
        mean_shower: NDArray[np.float64],
        deposit_law: NDArray[np.float64],
        shape: NDArray[np.float32],
    ) -> None:
        """Set the scales of the flows, the law of single deposits and the template; see `GeneratorNetwork.adapt`."""
        self.flow.fit_scale(flow.to_sticks(layer_energies, energy), energy)
        self.shape_flow.fit_scale(shape, energy, self.scaled_sticks(layer_energies, energy)[1])
        self.set_law(compound_poisson.law(deposit_law))
        self.template.assign(template(mean_shower))

    def adversarial_variables(self) -> list[keras.Variable]:
        """All but the flows: their density is known, so they are fitted by likelihood."""
        return [*self.network.trainable_variables, self.template, self.log_quantum]

    def tables(self) -> dict[str, NDArray[Any]]:
        """The tables that cells are drawn from, see `generation.cell_sampling.CellTables`."""
        columns = to_blocks(np.arange(CELLS, dtype=np.int32).reshape(CLIC.shape)).reshape(-1, CLIC.layers)
        return {
            "template": np.asarray(self.template).reshape(-1),
            "quantum": np.asarray(self.quantum()).reshape(-1),
            "place": columns[:, 0].copy(),
            "quantiles": np.asarray(self.quantiles),
        }

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the float32 steps before the network.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).

        Returns:
            Features of the network, shape (n, 37), and energies of the layers, shape (n, 25), GeV.
        """
        condition = flow.log_energy(energy)
        scaled = self.flow(latent[:, : flow.SIZE], condition)
        residuals = self.shape_flow(latent[:, flow.SIZE :], ops.concatenate([condition, scaled], axis=1))
        shape = self.shape_flow.expected(residuals, condition, scaled)
        return self.features(condition, scaled, shape), self.flow.layer_energies(scaled, condition, energy)

    def features(self, condition: Tensor, scaled: Tensor, shape: Tensor) -> Tensor:
        """Concatenate condition (n, 1), scaled sticks (n, 25) and expected shape (n, 10) to the network's input."""
        inside = (ops.clip(scaled, -4.0, 4.0), ops.clip(shape, -4.0, 4.0))
        return ops.concatenate([condition, ops.square(condition), *inside], axis=1)

    def scaled_sticks(
        self, layer_energies: NDArray[np.float32], energy: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The condition, shape (n, 1), and the scaled sticks, shape (n, 25), of energies of layers, (n, 25), and Ep, (n,), GeV."""
        condition = np.asarray(flow.log_energy(energy), np.float32)
        sticks = flow.to_sticks(layer_energies, energy).astype(np.float32)
        return condition, np.asarray(self.flow.normalise(sticks, condition), np.float32)

    def rates(self, logits: Tensor, layer_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Expected number of crossings of each cell, without those shared by its neighbours, and the mean energy of one.

        Args:
            logits: output of the network, shape (n, 5, 5, 625).
            layer_energies: shape (n, 25), GeV.

        Returns:
            Rates, shape (n, 25, 25, 25), and quanta, shape (25, 25, 25), GeV.
        """
        quantum = self.quantum()
        # A softmax over the cells of a layer; the logits are small, so their maximum need not be subtracted.
        weight = ops.exp(ops.clip(_from_blocks(logits), -LOGIT_MAX, LOGIT_MAX) + self.template)
        factor = layer_energies / ops.sum(weight, axis=(1, 2))
        return weight * factor[:, None, None, :] * (1.0 / quantum) + RATE_MIN, quantum

    def quantum(self) -> Tensor:
        """Mean deposit of one crossing in each cell, shape (25, 25, 25), GeV."""
        return ops.exp(ops.take(ops.transpose(self.log_quantum), self.region, axis=0))

    def with_shared(self, rate: Tensor) -> Tensor:
        """Expected numbers of crossings, shape (n, 25, 25, 25), with those of tracks that hit a neighbour first."""
        leaving = _columns(SHARED * rate / (1.0 + rate))
        return rate + _cells(sum(_roll(leaving, shift) for shift in NEIGHBOURS))

    def shared(self, energy: Tensor, quantum: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        """Energies that cells get from tracks that hit a neighbour first, shape (n, 25, 25, 25), GeV.

        Tracks along the silicon cross two cells. A cell shares one track at most, with one neighbour, where it deposits a
        random part of what a track deposited in the cell, on average.

        Args:
            energy: energies drawn for the cells, quanta, shape (n, 25, 25, 25).
            quantum: mean deposit of one crossing, shape (25, 25, 25), GeV.
            rate: expected numbers of crossings, shape (n, 25, 25, 25).
            noise: standard normal numbers, same shape.
        """
        uniform = 4.0 * _columns(_upper_tail(_borrow(noise, DIRECTION)))
        direction = ops.floor(uniform)
        track = _columns(energy / (1.0 + rate))  # quanta
        leaving = ops.where(uniform - direction < 4.0 * SHARED * track, track * _columns(quantum[None]), 0.0)
        arriving = sum(_roll(ops.where(direction == k, leaving, 0.0), shift) for k, shift in enumerate(NEIGHBOURS))
        return _upper_tail(_borrow(noise, DEPOSIT)) * _cells(arriving)

    def finish(self, logits: Tensor, layer_energies: Tensor, noise: Tensor) -> Tensor:
        """Draw the cells around their expected energies.

        Args:
            logits: output of the network, shape (n, 5, 5, 625).
            layer_energies: shape (n, 25), GeV; every layer of the result sums to its energy.
            noise: standard normal numbers, shape (n, 25, 25, 25).

        Returns:
            Showers, shape (n, 25, 25, 25), GeV.
        """
        rate, quantum = self.rates(logits, layer_energies)
        target = layer_energies[:, None, None, :]
        energy, slope = compound_poisson.sample(rate, noise, self.quantiles)
        shared = self.shared(ops.relu(energy), quantum, rate, noise)
        total = ops.sum(ops.relu(energy) * quantum + shared, axis=(1, 2), keepdims=True)
        # Half of a layer's deficit is corrected by more crossings, the other half by more energy per crossing.
        # The factor is linear, which keeps the mean number of crossings, even where it is small.
        excess = total / ops.maximum(target, 1e-9) - 1.0
        factor = ops.clip(1.0 - BY_CROSSINGS * excess, FACTOR_MIN, FACTOR_MAX)
        # To first order, which is no good where a cell is far from being hit.
        risen = FACTOR_MAX * rate
        may_be_hit = _upper_tail(noise) * (1.0 + 0.5 * risen) < risen
        cells = ops.where(may_be_hit, ops.relu(energy + slope * (factor - 1.0)), 0.0) * quantum + shared
        total = ops.sum(cells, axis=(1, 2), keepdims=True)
        # If no cell of a layer is hit, the central cell gets its energy.
        cells = ops.where(total > 0, cells, self.central)
        total = ops.where(total > 0, total, 1.0)
        showers = cells * (target / total)
        return ops.where(showers < CLIC.threshold_gev, 0.0, showers)


def shape_network(width: int, *, depth: int, kernel: int) -> keras.Model:
    """The network of the family: Dense, convolutions over 5x5 positions, then the 625 cells of each position's block.

    The last layer is a sub-pixel convolution (Shi et al. 2016) whose output stays in block order: the tail reads the
    cells from there at no cost, while a transposition would take time. Every other layer is followed by ReLU, which
    fuses into the integer operation; a transposed convolution would stay float32 in TensorFlow.

    Args:
        width: channels of the convolutions, a multiple of 4.
        depth: number of convolutions.
        kernel: side of their kernels, positions.

    Returns:
        Features, shape (n, 37) -> logits, shape (n, 5, 5, 625).
    """
    x = features = keras.Input((2 + flow.SIZE + shower_shape.SIZE,), name="features")
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dense(_BLOCKS * width // 4, activation="relu")(x)
    x = layers.Reshape((_BLOCK, _BLOCK, width // 4))(x)
    for _ in range(depth):
        x = layers.Conv2D(width, kernel, padding="same", activation="relu")(x)
    near_zero = keras.initializers.RandomNormal(0, 0.02)
    logits = layers.Conv2D(_BLOCKS * CLIC.layers, 1, kernel_initializer=near_zero)(x)
    return keras.Model(features, logits, name="shape")


def to_blocks(cells: NDArray[Any]) -> NDArray[Any]:
    """Put cells, shape (25, 25, 25), into the network's order: 5x5 blocks of 5x5 cells in 25 layers, (5, 5, 625)."""
    split = cells.reshape(_BLOCK, _BLOCK, _BLOCK, _BLOCK, CLIC.layers)
    return split.transpose(0, 2, 1, 3, 4).reshape(_BLOCK, _BLOCK, -1)


def _columns(cells: Tensor) -> Tensor:
    return ops.reshape(cells, (-1, CLIC.shape[0] * CLIC.shape[1], CLIC.layers))


def _cells(columns: Tensor) -> Tensor:
    return ops.reshape(columns, (-1, *CLIC.shape))


def _upper_tail(normal: Tensor) -> Tensor:
    """Probability that a standard normal number is above this one."""
    return 0.5 * ops.erfc(normal / math.sqrt(2.0))


def _borrow(noise: Tensor, shift: int) -> Tensor:
    """The number of the cell `shift` places further on in the network's order, for each cell, shape (n, 25, 25, 25)."""
    split = ops.reshape(noise, (-1, _BLOCK, _BLOCK, _BLOCK, _BLOCK, CLIC.layers))
    flat = ops.reshape(ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, CELLS))
    return _from_blocks(_roll(flat, -shift))


def _roll(columns: Tensor, shift: int) -> Tensor:
    """`numpy.roll` along axis 1, of two or more axes, built from slices, which every runtime supports."""
    return ops.concatenate([columns[:, -shift:], columns[:, :-shift]], axis=1)


def _from_blocks(outputs: Tensor) -> Tensor:
    split = ops.reshape(outputs, (-1, _BLOCK, _BLOCK, _BLOCK, _BLOCK, CLIC.layers))
    return ops.reshape(ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, *CLIC.shape))


def template(mean_shower: NDArray[np.float64]) -> NDArray[np.float32]:
    """Log of each cell's share of its layer in the mean shower, both of shape (25, 25, 25), with a floor for rare cells."""
    symmetric = 0.5 * (mean_shower + mean_shower[::-1])
    share = symmetric / symmetric.sum(axis=(0, 1), keepdims=True)
    return np.asarray(np.log(share + 1e-6), dtype=np.float32)


def _regions() -> NDArray[np.int32]:
    """Region of each (x, y), shape (25, 25): ring around the entry cell combined with the side.

    The field bends low-energy electrons along y only, so deposits above and below the axis differ; left and right do not.
    """
    x, y = np.indices(CLIC.shape[:2]) - np.reshape(CLIC.entry_cell, (2, 1, 1))
    ring = np.minimum(np.round(np.hypot(x, y)), _RINGS - 1)
    side = np.where(np.abs(y) <= np.abs(x), 0, np.where(y > 0, 1, 2))
    return np.asarray(ring * _SIDES + side, dtype=np.int32)
