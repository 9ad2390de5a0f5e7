"""The networks that tell real showers from generated ones, with their losses.

`published` is the discriminator of Rehm et al. 2021 (arXiv 2103.10142). It sees cells in GeV, where the soft ones hardly
count, and nothing tells it the primary energy of a shower. `critic` sees, together with the primary energy, the numbers that
physicists and boosted trees compare showers by.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks import rehm2021
from calogan.networks.base import Tensor
from calogan.training.run import TrainingRun

SURVEYED = 1024  # showers that the critic takes its units from
WEIGHT_REAL, WEIGHT_ENERGY, WEIGHT_ECAL = 6.0, 0.2, 0.1
_EPSILON = 2e-7
_HIT_GEV = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_SOFT_GEV = 1e-4  # the critic sees cells by the logarithm of their energy above
_WIDTHS, _SLOPE = (64, 64), 0.2


@dataclass(frozen=True, eq=False)
class Discriminator:
    """A network that tells real showers from generated ones.

    Attributes:
        name: name of its losses and optimizer.
        network: the network.
        rate: learning rate.
        see: (showers, energy) -> input of the network.
        loss: (label, energy, ecal, outputs) -> loss that it minimises for showers of a label, and the generator for the
            opposite label.
    """

    name: str
    network: keras.Model
    rate: float
    see: Callable[[Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def loss_of(self, showers: Tensor, energy: Tensor, ecal: Tensor, label: Tensor, *, training: bool) -> Tensor:
        """Loss for showers, shape (n, 25, 25, 25), GeV, of energies and expected ECAL, shape (n,), GeV."""
        return self.loss(label, energy, ecal, self.network(self.see(showers, energy), training=training))


def published(run: TrainingRun[Any]) -> Discriminator:
    """The published discriminator with its loss."""
    network = run.share("discriminator", rehm2021.discriminator)
    return Discriminator(
        "discriminator", network, run.config.discriminator_rate, lambda showers, _: showers, published_loss
    )


def critic(run: TrainingRun[Any]) -> Discriminator:
    """The critic; its loss is the published one of the label, times `critic_weight`."""
    network = run.share("critic", lambda: critic_network(run.showers[:SURVEYED]))
    weight = run.config.critic_weight * WEIGHT_REAL

    def loss(label: Tensor, _: Tensor, __: Tensor, probability: Tensor) -> Tensor:
        return weight * binary_crossentropy(label, probability[:, 0])

    return Discriminator("critic", network, run.config.critic_rate, observe, loss)


def mape(truth: Tensor, estimate: Tensor) -> Tensor:
    """Mean absolute percentage error as in the published code, of two tensors of the same shape."""
    return 100.0 * ops.mean(ops.abs((truth - estimate) / (truth + _EPSILON)))


def binary_crossentropy(label: Tensor, probability: Tensor) -> Tensor:
    """Mean binary cross-entropy of labels in [0, 1], same shape as the probabilities; with the published epsilon."""
    of_real, of_fake = ops.log(probability + _EPSILON), ops.log(1 - probability + _EPSILON)
    return -ops.mean(label * of_real + (1 - label) * of_fake)


def published_loss(label: Tensor, energy: Tensor, ecal: Tensor, answer: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Loss of discriminator and generator.

    Args:
        label: target of the discriminator, shape (n,).
        energy: primary energies, shape (n,), GeV.
        ecal: expected sum over cells, shape (n,), GeV.
        answer: outputs of the discriminator, each of shape (n, 1).
    """
    real, auxiliary, total = (output[:, 0] for output in answer)
    adversarial = WEIGHT_REAL * binary_crossentropy(label, real)
    return adversarial + WEIGHT_ENERGY * mape(energy / 100.0, auxiliary) + WEIGHT_ECAL * mape(ecal, total)


def observe(showers: Tensor, energy: Tensor) -> Tensor:
    """The numbers that the critic sees; all are smooth functions of the cells.

    Args:
        showers: energy in each cell, shape (n, 25, 25, 25), GeV.
        energy: primary energies, shape (n,), GeV.

    Returns:
        Shape (n, 86): square roots of the shares in each slice along x, y and z; logarithms of the numbers of cells above five
        energies; mean and standard deviation of the logarithms of cells; logarithms of the shares of the central column and
        the hottest cell, of ECAL / Ep and of Ep.
    """
    showers = ops.maximum(showers, 0.0)
    total = ops.sum(showers, axis=(1, 2, 3)) + 1e-8 * energy  # an empty shower has no shares
    profiles = [ops.sum(showers, axis=axes) / total[:, None] for axes in ((2, 3), (1, 3), (1, 2))]
    hits = [ops.log1p(ops.sum(1 - ops.exp(-showers / gev), axis=(1, 2, 3))) for gev in _HIT_GEV]
    logarithms = ops.log(showers + _SOFT_GEV)
    x, y = CLIC.entry_cell
    core = ops.sum(showers[:, x, y], axis=1) / total
    hottest = ops.max(showers, axis=(1, 2, 3)) / total
    numbers = [
        *hits,
        ops.mean(logarithms, axis=(1, 2, 3)),
        ops.std(logarithms, axis=(1, 2, 3)),
        ops.log(core + 1e-3),
        ops.log(hottest + 1e-4),
        ops.log(total / energy),
        ops.log(energy),
    ]
    return ops.concatenate([*(ops.sqrt(profile + 1e-6) for profile in profiles), ops.stack(numbers, axis=1)], axis=1)


def critic_network(real: Events) -> keras.Model:
    """Make an untrained critic.

    Args:
        real: showers whose numbers it sees in units of their fluctuations; about a thousand are enough.

    Returns:
        A model from observed numbers, shape (n, 86), see `observe`, to the probability of being real, shape (n, 1).
    """
    observed = np.asarray(observe(real.showers, real.energy))
    numbers = keras.Input(observed.shape[1:], name="numbers")
    x = layers.Normalization(mean=observed.mean(axis=0), variance=observed.var(axis=0) + 1e-6)(numbers)
    for width in _WIDTHS:
        x = layers.LeakyReLU(_SLOPE)(layers.Dense(width)(x))
    return keras.Model(numbers, layers.Dense(1, activation="sigmoid", dtype="float32")(x), name="critic")
