"""Pre-training of the published networks without an adversary.

The loss is the energy score (Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation" (2007),
eq. 22) of two showers generated at the energy of each real one. Its mean is smallest if both have the same distribution
at every energy, so it teaches fluctuations as well as means, and training cannot collapse or oscillate.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from calogan.events import batches
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.stages import StagePlan
from calogan.training.optimizers import FanInAdam
from calogan.training.run import TrainingRun
from calogan.training.workers import Gradients

_SURVEYED = 1024  # showers used to measure the fluctuation of each number
_CLIP_NORM = 1.0
_TINY = 1e-12  # keeps the gradient of a distance finite at 0
_SOFT_GEV = (1e-4, 1e-2)  # cells are compared by the logarithm of their energy above, linearly below
_TOTAL_WEIGHT = 12.0  # of the sum of the cells; the other views have 1
_NUMBER_WEIGHT = 4.0  # of each of `numbers`, with the reduction of `numbers_share`
_LARGEST_GRADIENT = 2.0  # of one shower, relative to the median of the batch
_LOWEST_TOTAL = 0.25  # of the mean sampling fraction: smaller totals do not enlarge the shares of their cells further
_RISE = 100  # steps in which the learning rate rises
_LAST_RATE = 0.02
_NEW_BIAS_RATE = 10.0  # of biases relative to weights, for new weights


class DistanceStage:
    """Fits a generator by the energy score of its showers in several views.

    For families whose network outputs showers in GeV.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[GeneratorNetwork]) -> None:
        showers, config, workers = run.showers, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._showers, self._training = run.model, showers, not config.inference_mode
        self._started, self._numbers_share = bool(config.start), config.numbers_share
        self._batch_size = min(config.batch_size, len(showers))
        self._mine = workers.rows(self._batch_size)
        some = showers[:_SURVEYED]
        self._unit = float(some.showers.mean())
        self._fraction = float(np.mean(some.showers.sum(axis=(1, 2, 3)) / some.energy))
        self._spreads = [_spread(np.asarray(view)) for view in views(some.showers, some.energy, self._fraction)]
        self._number_spreads = _spread_at_energy(np.asarray(numbers(some.showers, some.energy)), some.energy)
        run.model.sketch(run.survey.mean_shower, float(run.survey.energy.mean()))
        steps = max(1, self.epochs * (len(showers) // self._batch_size))
        self._variables = list(run.model.trainable_variables)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps, alpha=_LAST_RATE, warmup_target=config.shape_rate, warmup_steps=min(_RISE, steps // 2)
        )
        # New weights need not be followed by biases: these would only disturb them.
        bias, factors = (run.model.bias_rate, run.model.rate_factors) if self._started else (_NEW_BIAS_RATE, {})
        self._optimizer = FanInAdam(rate, run.model.network, self._variables, bias=bias, factors=factors)
        self.state = {"distance_optimizer": self._optimizer}
        self._step = workers.step(self._differentiate, self._optimizer, self._variables, clip_norm=_CLIP_NORM)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take one step per batch, half of them mirrored in x, an exact symmetry; returns the mean loss.

        The numbers count from the second epoch of new weights on. After an epoch the weights are averages over its last
        steps.
        """
        losses = []
        started = self._started or epoch > 0
        share = tf.constant(self._numbers_share if started else 0.0)
        if started:  # the output of a new network is of order 1 already
            self._scale_output(1 / self._unit)
        for batch in batches(self._showers, self._batch_size, rng):
            mirrored = rng.random() < 0.5
            latent = rng.standard_normal((2, len(batch), self._model.latent_size), np.float32)[:, self._mine]
            mine = batch[self._mine]
            showers = mine.showers[:, ::-1] if mirrored else mine.showers
            losses.append(self._step(*(tf.constant(array) for array in (showers, mine.energy, *latent)), share))
        self._optimizer.finalize_variable_values(self._variables)
        self._scale_output(self._unit)
        return {"distance_loss": float(np.mean(losses))}

    def _scale_output(self, factor: float) -> None:
        """Change the unit of the network's output, between GeV and the mean cell.

        Adam changes a weight by the learning rate, however small the weight is, and the weights of a last layer that
        outputs GeV are all small.
        """
        kernel = next(variable for variable in reversed(self._variables) if variable.path.endswith("kernel"))
        kernel.assign(kernel * factor)

    def _differentiate(
        self, showers: tf.Tensor, energy: tf.Tensor, first: tf.Tensor, second: tf.Tensor, share: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            # In one call, so that batch normalisation sees them as one batch.
            features, _ = self._model.prepare(tf.tile(energy, [2]), tf.concat([first, second], 0))
            generated = self._model.network(features, training=self._training) * self._unit
            triple = showers, *tf.split(_limit_gradients(generated), 2)
            loss = self._views_loss(triple, energy)
            numbers_loss = self._numbers_loss(triple, energy)
            loss += share * tf.stop_gradient(tf.minimum(1.0, loss / numbers_loss)) * numbers_loss
        return loss, tape.gradient(loss, self._variables)

    def _views_loss(self, triple: tuple[tf.Tensor, ...], energy: tf.Tensor) -> tf.Tensor:
        seen = zip(*(views(each, energy, self._fraction) for each in triple), strict=True)
        total, *others = (
            energy_score(*(view / spread for view in same)) for spread, same in zip(self._spreads, seen, strict=True)
        )
        return tf.add_n([_TOTAL_WEIGHT * total, *others])

    def _numbers_loss(self, triple: tuple[tf.Tensor, ...], energy: tf.Tensor) -> tf.Tensor:
        columns = (tf.unstack(numbers(each, energy) / self._number_spreads, axis=1) for each in triple)
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
def _limit_gradients(showers: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
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
