"""The energy score of generated showers in several views: a loss without an adversary.

The loss is the energy score (Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation" (2007),
eq. 22) of two showers generated at the energy of each real one. Its mean is smallest if both have the same distribution
at every energy, so it teaches fluctuations as well as means, and training cannot collapse or oscillate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks.base import Tensor

_TINY = 1e-12  # keeps the gradient of a distance finite at 0
_SOFT_GEV = (1e-4, 1e-2)  # cells are compared by the logarithm of their energy above, linearly below
_TOTAL_WEIGHT = 12.0  # of the sum of the cells; the other views have 1
_NUMBER_WEIGHT = 4.0  # of each of `numbers`, with the reduction of `numbers_share`
_LARGEST_GRADIENT = 2.0  # of one shower, relative to the median of the batch
_LOWEST_TOTAL = 0.25  # of the mean sampling fraction: smaller totals do not enlarge the shares of their cells further


@dataclass(frozen=True, eq=False)
class EnergyScore:
    """The loss, in units of the fluctuations of real showers.

    Attributes:
        fraction: mean sampling fraction.
        spreads: fluctuation of each number of each of `views`.
        number_spreads: fluctuation of each of `numbers` at fixed energy.
    """

    fraction: float
    spreads: tuple[NDArray[np.float32], ...]
    number_spreads: NDArray[np.float32]

    @classmethod
    def of(cls, real: Events) -> Self:
        """Measure the fluctuations of real showers; about a thousand are enough."""
        fraction = float(np.mean(real.showers.sum(axis=(1, 2, 3)) / real.energy))
        spreads = tuple(_spread(np.asarray(view)) for view in views(real.showers, real.energy, fraction))
        number_spreads = _spread_at_energy(np.asarray(numbers(real.showers, real.energy)), real.energy)
        return cls(fraction, spreads, number_spreads)

    def loss(self, real: Tensor, pairs: Tensor, energy: Tensor, *, numbers_share: Tensor) -> Tensor:
        """Mean energy score of pairs of generated showers.

        Args:
            real: showers, shape (n, 25, 25, 25), GeV.
            pairs: two showers at the energy of each, shape (2 n, 25, 25, 25), GeV: n first ones, then n second ones.
            energy: primary energies, shape (n,), GeV.
            numbers_share: the loss of the numbers counts at most this much relative to that of the views.

        Returns:
            The loss. The gradient of a shower is limited relative to those of the others.
        """
        triple = real, *tf.split(limit_gradients(pairs), 2)
        loss, numbers_loss = self._views_loss(triple, energy), self._numbers_loss(triple, energy)
        return loss + numbers_share * tf.stop_gradient(tf.minimum(1.0, loss / numbers_loss)) * numbers_loss

    def _views_loss(self, triple: tuple[tf.Tensor, ...], energy: tf.Tensor) -> tf.Tensor:
        seen = zip(*(views(each, energy, self.fraction) for each in triple), strict=True)
        total, *others = (
            energy_score(*(view / spread for view in same)) for spread, same in zip(self.spreads, seen, strict=True)
        )
        return tf.add_n([_TOTAL_WEIGHT * total, *others])

    def _numbers_loss(self, triple: tuple[tf.Tensor, ...], energy: tf.Tensor) -> tf.Tensor:
        columns = (tf.unstack(numbers(each, energy) / self.number_spreads, axis=1) for each in triple)
        scores = [energy_score(*(column[:, None] for column in same)) for same in zip(*columns, strict=True)]
        return _NUMBER_WEIGHT * tf.add_n(scores)


def energy_score(real: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mean energy score of pairs of predictions: lower is better, and the distribution of `real` minimises its mean.

    Args:
        real: observations, shape (n, k).
        first: a prediction for each, shape (n, k).
        second: an independent second prediction, shape (n, k).

    Returns:
        Mean over the n observations, in units of a distance over sqrt(k).
    """
    return ops.mean(0.5 * (_distance(first, real) + _distance(second, real) - _distance(first, second)))


def views(showers: Tensor, energy: Tensor, fraction: float) -> list[Tensor]:
    """The views of showers to compare: total, profiles and planes as shares of the total, logarithms of cells.

    Each view has its own score, because among 15,625 cells the few most important physics quantities would not count.
    Shapes are shares of the shower's own total: otherwise an error of the total would be one of every shape, too.

    Args:
        showers: energy in each cell, shape (n, 25, 25, 25), GeV.
        energy: primary energies, shape (n,), GeV.
        fraction: mean sampling fraction.

    Returns:
        Tensors of shape (n, k), with k from 1 to 15,625; the first one is the total over Ep.
    """
    total = ops.sum(showers, axis=(1, 2, 3)) / energy
    share = showers / (ops.maximum(total / fraction, _LOWEST_TOTAL) * energy)[:, None, None, None]
    planes = [ops.sum(share, axis=axis) for axis in (1, 2, 3)]
    profiles = [ops.sum(planes[1], axis=2), ops.sum(planes[0], axis=2), ops.sum(planes[1], axis=1)]
    logarithms = [ops.log1p(ops.maximum(showers, 0.0) / soft) for soft in _SOFT_GEV]
    return [ops.reshape(view, (len(energy), -1)) for view in (total, *profiles, *planes, *logarithms)]


def numbers(showers: Tensor, energy: Tensor) -> Tensor:
    """Centre and width along x, y and z, hits, and share of the central column: what says how showers differ.

    Args:
        showers: energy in each cell, shape (n, 25, 25, 25), GeV.
        energy: primary energies, shape (n,), GeV.

    Returns:
        Shape (n, 8): cells or layers; thousands of hits, each counted smoothly; a fraction.
    """
    showers = ops.maximum(showers, 0.0)
    total = ops.sum(showers, axis=(1, 2, 3)) + 1e-8 * energy  # an empty shower has no centre
    cell = ops.arange(CLIC.layers, dtype="float32")
    columns = []
    for axes in ((2, 3), (1, 3), (1, 2)):
        profile = ops.sum(showers, axis=axes) / total[:, None]
        centre, square = ops.sum(profile * cell, axis=1), ops.sum(profile * cell**2, axis=1)
        columns += [centre, ops.sqrt(ops.maximum(square - centre**2, 0.0) + 0.01)]
    hits = ops.sum(1 - ops.exp(-showers / _SOFT_GEV[0]), axis=(1, 2, 3)) / 1000
    x, y = CLIC.entry_cell
    return ops.stack([*columns, hits, ops.sum(showers[:, x, y], axis=1) / total], axis=1)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def limit_gradients(showers: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The showers; their gradients are limited, so that no odd shower decides a step of a small batch alone."""

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        norms = tf.sqrt(tf.reduce_sum(tf.square(upstream), axis=(1, 2, 3), keepdims=True)) + 1e-20
        median = tf.sort(norms, axis=0)[tf.shape(norms)[0] // 2]
        return upstream * tf.minimum(1.0, _LARGEST_GRADIENT * median / norms)

    return tf.identity(showers), gradient


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return ops.sqrt(ops.mean(ops.square(one - other), axis=1) + _TINY)


def _spread(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each number of a view, shape (k,), but at least 0.3 of the typical one."""
    spread: NDArray[np.float32] = view.std(axis=0)
    typical = np.sqrt(np.mean(np.square(spread)))
    return np.asarray(np.maximum(spread, 0.3 * typical), np.float32)


def _spread_at_energy(values: NDArray[np.float32], energy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each column at fixed energy, shape (k,): about a parabola in the logarithm of the energy."""
    terms = np.vander(np.log(energy.astype(np.float64)), 3)
    residuals = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    return np.asarray(residuals.std(axis=0) + 1e-6, np.float32)
