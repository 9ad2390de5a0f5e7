"""`lean`: a generator designed for integer arithmetic.

It has three parts. Float32 flows draw the energies of the layers and the latent numbers of the shape (`flow`). A small
convolutional network, the part that is quantized, computes the expected share of each cell in its layer. A float32 tail
draws each cell around its expected energy with the sampling fluctuation (`compound_poisson`) and scales every layer to
the energy drawn by the flow. So quantization can change the shape within a layer only: it cannot shift the sampling
fraction, the resolution or the longitudinal profile.
"""

import math
from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from calogan.config import Network
from calogan.geometry import CELLS, CLIC
from calogan.networks import compound_poisson, deposits, flow
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.stages import ADVERSARIAL, FLOW, PRETRAINING, PRIOR, SHAPE, WARMUP

SHAPE_LATENT = 16
_RINGS, _SIDES = 8, 3
LOGIT_MAX = 30.0  # above any realistic share; keeps the exponential finite
BY_CROSSINGS = 0.5  # share of a layer's excess or deficit that is corrected by the number of crossings
FACTOR_MIN = 0.4  # smallest factor on the rates of a layer with too many crossings
RATE_MIN = 1e-7  # keeps the logarithm of the rate of an empty layer finite
_DEPOSIT_GEV = 3.5e-4
NEIGHBOUR = 0.11  # weight of a neighbour's random number, relative to the cell's own
OWN = 1 / math.sqrt(1 + 4 * NEIGHBOUR**2)
_BLOCK = 5  # side of the small image, and of the square of cells that each of its positions expands to
_BLOCKS = _BLOCK * _BLOCK


class Lean(GeneratorNetwork):
    """Generator family `lean`; see the module.

    Attributes:
        flow: draws the energies of the layers.
        prior: draws the latent numbers that the encoder of the training would assign to a shower with these energies.
        network: the quantized part: features, shape (n, 2 + 25 + 16) -> logits, shape (n, 5, 5, 625), see `to_blocks`.
        template: logarithm of each cell's mean share of its layer, shape (25, 25, 25).
        log_quantum: logarithm of the mean deposit of one crossing, GeV, by layer and region, see `_regions`.
    """

    family = "lean"
    latent_size = flow.SIZE + SHAPE_LATENT
    cell_noise = True
    stages = (PRETRAINING, FLOW, SHAPE, PRIOR, WARMUP, ADVERSARIAL)

    @classmethod
    def create(cls, config: Network) -> Self:
        """Make an untrained generator whose network has the width, depth and kernel of a configuration."""
        return cls(width=config.width, depth=config.depth, kernel=config.kernel)

    def __init__(self, *, width: int = 128, depth: int = 2, kernel: int = 3) -> None:
        super().__init__(name=self.family)
        self.flow = flow.LayerFlow()
        self.prior = flow.Couplings(SHAPE_LATENT, 1 + flow.SIZE, couplings=6, width=48, name="prior")
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
    ) -> None:
        """Set the scales of the flow, the law of single deposits and the template; see `GeneratorNetwork.adapt`."""
        self.flow.fit_scale(flow.to_sticks(layer_energies, energy), energy)
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
            Features of the network, shape (n, 43), and energies of the layers, shape (n, 25), GeV.
        """
        condition = flow.log_energy(energy)
        scaled = self.flow(latent[:, : flow.SIZE], condition)
        shape_latent = self.prior(latent[:, flow.SIZE :], ops.concatenate([condition, scaled], axis=1))
        features = self.features(condition, scaled, shape_latent)
        return features, self.flow.layer_energies(scaled, condition, energy)

    def features(self, condition: Tensor, scaled: Tensor, shape_latent: Tensor) -> Tensor:
        """Concatenate condition (n, 1), scaled sticks (n, 25) and shape latent (n, 16) to the network's input."""
        inside = ops.clip(scaled, -4.0, 4.0)
        return ops.concatenate([condition, ops.square(condition), inside, shape_latent], axis=1)

    def rates(self, logits: Tensor, layer_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Expected number of crossings of each cell, and the mean energy of one crossing.

        Args:
            logits: output of the network, shape (n, 5, 5, 625).
            layer_energies: shape (n, 25), GeV.

        Returns:
            Rates, shape (n, 25, 25, 25), and quanta, shape (25, 25, 25), GeV.
        """
        quantum = self.quantum()
        # A softmax over the cells of a layer; the logits are small, so their maximum need not be subtracted.
        weight = ops.exp(ops.minimum(_from_blocks(logits) + self.template, LOGIT_MAX))
        factor = layer_energies / ops.sum(weight, axis=(1, 2))
        return weight * factor[:, None, None, :] * (1.0 / quantum) + RATE_MIN, quantum

    def quantum(self) -> Tensor:
        """Mean deposit of one crossing in each cell, shape (25, 25, 25), GeV."""
        return ops.exp(ops.take(ops.transpose(self.log_quantum), self.region, axis=0))

    def couple(self, noise: Tensor) -> Tensor:
        """Correlate neighbouring cells in a layer: a track along the silicon crosses both.

        A Gaussian copula: every number stays standard normal, so the distribution of each single cell does not change.

        Args:
            noise: independent standard normal numbers, shape (n, 25, 25, 25).
        """
        columns = ops.reshape(noise, (-1, CLIC.shape[0] * CLIC.shape[1], CLIC.layers))
        # Cells at an edge, which are hardly ever hit, have neighbours at the opposite edge.
        around = sum(_roll(columns, shift) for shift in (1, -1, CLIC.shape[1], -CLIC.shape[1]))
        return ops.reshape(OWN * columns + OWN * NEIGHBOUR * around, (-1, *CLIC.shape))

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
        normal = self.couple(noise)
        target = layer_energies[:, None, None, :]
        cells = compound_poisson.sample(rate, normal, self.quantiles) * quantum
        total = ops.sum(cells, axis=(1, 2), keepdims=True)
        # Half of a layer's deficit is corrected by more crossings, the other half by more energy per crossing.
        # The factor is linear, which keeps the mean number of crossings, even where it is small.
        excess = total / ops.maximum(target, 1e-9) - 1.0
        rate = rate * ops.maximum(1.0 - BY_CROSSINGS * excess, FACTOR_MIN)
        cells = compound_poisson.sample(rate, normal, self.quantiles) * quantum
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
        Features, shape (n, 43) -> logits, shape (n, 5, 5, 625).
    """
    x = features = keras.Input((2 + flow.SIZE + SHAPE_LATENT,), name="features")
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


def _roll(columns: Tensor, shift: int) -> Tensor:
    """`numpy.roll` along axis 1, built from slices, which every runtime supports."""
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
