"""Pre-training of the published networks without an adversary.

The loss is the energy score (Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation" (2007),
eq. 22) of two showers generated at the energy of each real one. Its mean is smallest if both have the same distribution
at every energy, so it teaches fluctuations as well as means, and training cannot collapse or oscillate.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from calogan.events import batches
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.stages import StagePlan
from calogan.training.run import TrainingRun
from calogan.training.workers import Gradients

_SURVEYED = 1024  # showers used to measure the fluctuation of each number
_CLIP_NORM = 1.0
_TINY = 1e-12  # keeps the gradient of a distance finite at 0
_SOFT_GEV = 1e-4  # cells are compared by the logarithm of their energy above, linearly below


class DistanceStage:
    """Fits a generator by the energy score of its showers in several views.

    For families whose network outputs showers in GeV.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[GeneratorNetwork]) -> None:
        showers, config, workers = run.showers, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._showers = run.model, showers
        self._batch_size = min(config.batch_size, len(showers))
        self._mine = workers.rows(self._batch_size)
        some = showers[:_SURVEYED]
        self._unit = float(some.showers.mean())
        self._spreads = [_spread(np.asarray(view)) for view in views(some.showers, some.energy)]
        steps = max(1, self.epochs * (len(showers) // self._batch_size))
        self._variables = list(run.model.trainable_variables)
        self._optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.shape_rate, steps))
        self._optimizer.build(self._variables)
        self.state = {"distance_optimizer": self._optimizer}
        self._step = workers.step(self._differentiate, self._optimizer, self._variables, clip_norm=_CLIP_NORM)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take one step per batch, half of them mirrored in x, an exact symmetry; returns the mean loss."""
        losses = []
        if epoch:  # the output of a new network is of order 1 already
            self._scale_output(1 / self._unit)
        for batch in batches(self._showers, self._batch_size, rng):
            mirrored = rng.random() < 0.5
            latent = rng.standard_normal((2, len(batch), self._model.latent_size), np.float32)[:, self._mine]
            mine = batch[self._mine]
            showers = mine.showers[:, ::-1] if mirrored else mine.showers
            losses.append(self._step(*(tf.constant(array) for array in (showers, mine.energy, *latent))))
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
        self, showers: tf.Tensor, energy: tf.Tensor, first: tf.Tensor, second: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            # In one call, so that batch normalisation sees them as one batch.
            features, _ = self._model.prepare(tf.tile(energy, [2]), tf.concat([first, second], 0))
            generated = tf.split(self._model.network(features, training=True) * self._unit, 2)
            features = [views(each, energy) for each in (showers, *generated)]
            scores = [
                energy_score(*(view / spread for view in same))
                for spread, *same in zip(self._spreads, *features, strict=True)
            ]
            loss = tf.add_n(scores)
        return loss, tape.gradient(loss, self._variables)


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


def views(showers: Tensor, energy: Tensor) -> list[Tensor]:
    """The views of showers to compare: sum of the cells, profiles, planes and cells over Ep; logarithms of cells.

    Each view has its own score, because among 15,625 cells the few most important physics quantities would not count.

    Args:
        showers: energy in each cell, shape (n, 25, 25, 25), GeV.
        energy: primary energies, shape (n,), GeV.

    Returns:
        Tensors of shape (n, k), with k from 1 to 15,625.
    """
    share = showers / energy[:, None, None, None]
    planes = [ops.sum(share, axis=axis) for axis in (1, 2, 3)]
    profiles = [ops.sum(planes[1], axis=2), ops.sum(planes[0], axis=2), ops.sum(planes[1], axis=1)]
    shares = [ops.sum(profiles[2], axis=1), *profiles, *planes, ops.log1p(ops.maximum(showers, 0.0) / _SOFT_GEV)]
    return [ops.reshape(view, (len(energy), -1)) for view in shares]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return ops.sqrt(ops.mean(ops.square(one - other), axis=1) + _TINY)


def _spread(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each number of a view, shape (k,), but at least a tenth of the typical one."""
    spread: NDArray[np.float32] = view.std(axis=0)
    typical = np.sqrt(np.mean(np.square(spread)))
    return np.asarray(np.maximum(spread, 0.1 * typical), np.float32)
