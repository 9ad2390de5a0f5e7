"""Training of the published networks without an adversary, by the energy score of their showers.

New weights learn mean showers in the stage `distance`. The stage `refinement` teaches how showers differ: the numbers by
which they do count as much as all views, and biases learn at the rate that the network needs.
"""

import numpy as np
import tensorflow as tf

from calogan.events import batches
from calogan.networks.base import GeneratorNetwork
from calogan.networks.stages import DISTANCE, StagePlan
from calogan.training.energy_score import EnergyScore
from calogan.training.optimizers import FanInAdam, rise_and_fall, scale_output
from calogan.training.run import TrainingRun
from calogan.training.workers import Gradients

SURVEYED = 1024  # showers used to measure the fluctuation of each number
_CLIP_NORM = 1.0
_NEW_BIAS_RATE = 10.0  # of biases relative to weights: faster ones only disturb new weights
_NUMBERS_SHARE, _REFINED_NUMBERS_SHARE = 0.35, 1.0


class DistanceStage:
    """Fits a generator by the energy score of its showers; this class is both stages.

    For families whose network outputs showers in GeV.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[GeneratorNetwork]) -> None:
        model, showers, config, workers = run.model, run.showers, run.config, run.workers
        new = plan is DISTANCE
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._showers, self._training = model, showers, not config.inference_mode
        self._rough = new and not config.start
        self._numbers_share = _NUMBERS_SHARE if new else _REFINED_NUMBERS_SHARE
        self._batch_size = min(config.batch_size, len(showers))
        self._mine = workers.rows(self._batch_size)
        some = showers[:SURVEYED]
        self._unit, self._score = float(some.showers.mean()), EnergyScore.of(some)
        if new:
            model.sketch(run.survey.mean_shower, float(run.survey.energy.mean()))
        self._variables = list(model.trainable_variables)
        rate = rise_and_fall(
            config.shape_rate if new else config.refinement_rate, steps=self.epochs * (len(showers) // self._batch_size)
        )
        bias, factors = (_NEW_BIAS_RATE, {}) if new else (model.bias_rate, model.rate_factors)
        self._optimizer = FanInAdam(rate, model.network, self._variables, bias=bias, factors=factors)
        self.state = {f"{plan.name}_optimizer": self._optimizer}
        self._step = workers.step(self._differentiate, self._optimizer, self._variables, clip_norm=_CLIP_NORM)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take one step per batch, half of them mirrored in x, an exact symmetry; returns the mean loss.

        In the first epoch of new weights the numbers do not count. After an epoch the weights are averages over its last
        steps.
        """
        losses = []
        rough = self._rough and epoch == 0
        share = tf.constant(0.0 if rough else self._numbers_share)
        if not rough:  # the output of a new network is of order 1 already
            scale_output(self._variables, 1 / self._unit)
        for batch in batches(self._showers, self._batch_size, rng):
            mirrored = rng.random() < 0.5
            latent = rng.standard_normal((2, len(batch), self._model.latent_size), np.float32)[:, self._mine]
            mine = batch[self._mine]
            showers = mine.showers[:, ::-1] if mirrored else mine.showers
            losses.append(self._step(*(tf.constant(array) for array in (showers, mine.energy, *latent)), share))
        self._optimizer.finalize_variable_values(self._variables)
        scale_output(self._variables, self._unit)
        return {f"{self.plan.name}_loss": float(np.mean(losses))}

    def _differentiate(
        self, showers: tf.Tensor, energy: tf.Tensor, first: tf.Tensor, second: tf.Tensor, share: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            # In one call, so that batch normalisation sees them as one batch.
            features, _ = self._model.prepare(tf.tile(energy, [2]), tf.concat([first, second], 0))
            generated = self._model.network(features, training=self._training) * self._unit
            loss = self._score.loss(showers, generated, energy, numbers_share=share)
        return loss, tape.gradient(loss, self._variables)
