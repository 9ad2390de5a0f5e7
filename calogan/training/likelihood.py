"""Likelihood pre-training of `lean`: all of its parts have a density, so none needs an adversary at first."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan.events import batches
from calogan.networks import compound_poisson, flow, lean, shower_shape
from calogan.networks.stages import StagePlan
from calogan.simulation import parametric
from calogan.training.calibration import calibrate
from calogan.training.run import TrainingRun
from calogan.training.workers import Gradients

Sample: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

# Blurs the few thousand showers that a flow learns from, less and less: showers drawn from it are blurred as much as the
# last ones it saw.
_NOISE_FIRST, _NOISE_LAST = 0.3, 0.1
_CLIP_NORM = 1.0
_CHUNK = 512  # showers simulated at a time


def pretraining_stage(plan: StagePlan, run: TrainingRun[lean.Lean]) -> "FlowStage":
    """The stage that fits the flow to parametrised showers, which are available in any number.

    The parametrisation has wrong means and spreads, so each sample is normalised by its own. It describes the
    correlations between layers well enough that a few thousand Geant4 showers can correct the rest.
    """
    config = run.config

    def parametrised() -> Sample:
        energy = np.random.default_rng(config.seed).choice(run.survey.energy, config.pretraining_showers)
        energy = np.clip(energy, parametric.MIN_ENERGY_GEV, parametric.MAX_ENERGY_GEV)
        parts = (energy[start : start + _CHUNK] for start in range(0, len(energy), _CHUNK))
        layers = [
            parametric.simulate(part, seed=config.seed, first=_CHUNK * k).showers.sum(axis=(1, 2))
            for k, part in enumerate(parts)
        ]
        sticks = flow.to_sticks(np.concatenate(layers), energy)
        return run.model.flow.normalise_alike(sticks, energy), np.asarray(flow.log_energy(energy), np.float32)

    return FlowStage(
        plan, run, run.model.flow, parametrised, config.pretraining_showers, noise=(_NOISE_FIRST, _NOISE_FIRST)
    )


def flow_stage(plan: StagePlan, run: TrainingRun[lean.Lean]) -> "FlowStage":
    """The stage that fits the flow to the showers of the training split."""

    def sample() -> Sample:
        condition, scaled = run.model.scaled_sticks(run.survey.layer_energies, run.survey.energy)
        return scaled, condition

    return FlowStage(plan, run, run.model.flow, sample, len(run.survey.energy))


def shape_flow_stage(plan: StagePlan, run: TrainingRun[lean.Lean]) -> "FlowStage":
    """The stage that fits the flow of the shower-shape variables, each shower used together with its mirror image.

    When it begins, the network is trained, and how much its tail widens the distributions is measured.
    """
    model, survey = run.model, run.survey

    def sample() -> Sample:
        calibrate(model, survey, seed=run.config.seed)
        condition, sticks = model.scaled_sticks(survey.layer_energies, survey.energy)
        residuals = model.shape_flow.residuals(model.shape_flow.normalise(survey.shape, survey.energy), sticks)
        both = np.concatenate([residuals, residuals * shower_shape.MIRROR])
        return both, np.tile(np.concatenate([condition, sticks], axis=1), (2, 1))

    return FlowStage(plan, run, model.shape_flow, sample, 2 * len(survey.energy))


class FlowStage:
    """Fits a flow to a sample by maximum likelihood.

    Args:
        plan: description of the stage.
        run: the training it is part of.
        couplings: the flow.
        sample: () -> numbers, shape (n, k), and conditions, shape (n, c); called when the stage begins.
        n: number of showers of the sample.
        noise: standard deviation of the blur at the beginning and at the end, in units of the numbers.
    """

    def __init__(
        self,
        plan: StagePlan,
        run: TrainingRun[lean.Lean],
        couplings: flow.Couplings,
        sample: Callable[[], Sample],
        n: int,
        *,
        noise: tuple[float, float] = (_NOISE_FIRST, _NOISE_LAST),
    ) -> None:
        config, workers = run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._flow, self._sample, self._noise = couplings, functools.cache(sample), noise
        self._batch_size = min(config.batch_size, n)
        self._mine = workers.rows(self._batch_size)
        rate = keras.optimizers.schedules.CosineDecay(config.flow_rate, max(1, self.epochs * (n // self._batch_size)))
        self._optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)
        couplings.log_likelihood(
            np.zeros((2, couplings.size), "f"), np.zeros((2, couplings.condition), "f")
        )  # builds the variables
        self._variables = couplings.trainable_variables
        self._optimizer.build(self._variables)
        self.state = {f"{plan.name}_optimizer": self._optimizer}
        self._step = workers.step(self._differentiate, self._optimizer, self._variables, compiled=True)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take one step per batch; returns the mean loss."""
        numbers, condition = self._sample()
        losses = []
        order = rng.permutation(len(numbers))
        for start in range(0, len(order) - self._batch_size + 1, self._batch_size):
            rows = order[start : start + self._batch_size]
            progress = (epoch + start / len(order)) / max(1, self.epochs)
            noise = np.float32(self._noise[0] + (self._noise[1] - self._noise[0]) * progress)
            blurred = numbers[rows] + noise * rng.standard_normal(numbers[rows].shape, np.float32)
            arrays = (blurred, condition[rows])
            losses.append(self._step(*(tf.constant(array[self._mine]) for array in arrays)))
        return {f"{self.plan.name}_loss": float(np.mean(losses))}

    def _differentiate(self, numbers: tf.Tensor, condition: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self._flow.log_likelihood(numbers, condition))
        return loss, tape.gradient(loss, self._variables)


class ShapeStage:
    """Fits the network of the cells' shares by maximum likelihood, with the compound Poisson law of the cells.

    The network sees the measured shape of each shower, so it learns what a shower of this shape looks like on average.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[lean.Lean]) -> None:
        model, showers, config, workers = run.model, run.showers, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._showers = model, showers
        self._batch_size = min(config.batch_size, len(showers))
        self._mine = workers.rows(self._batch_size)
        self._law = compound_poisson.law(run.survey.deposits)
        self._variables = [*model.network.trainable_variables, model.template, model.log_quantum]
        steps = max(1, self.epochs * (len(showers) // self._batch_size))
        self._optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.shape_rate, steps))
        self._optimizer.build(self._variables)
        self.state = {"shape_optimizer": self._optimizer}
        self._step = workers.step(
            self._differentiate, self._optimizer, self._variables, clip_norm=_CLIP_NORM, compiled=True
        )

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:  # noqa: ARG002 - one interface
        """Take one step per batch, half of them mirrored in x, an exact symmetry; returns the mean loss."""
        losses = []
        for batch in batches(self._showers, self._batch_size, rng):
            mirrored = rng.random() < 0.5
            mine = batch[self._mine]
            showers = np.ascontiguousarray(mine.showers[:, ::-1]) if mirrored else mine.showers
            layer_energies = showers.sum(axis=(1, 2))
            condition, sticks = self._model.scaled_sticks(layer_energies, mine.energy)
            shape = self._model.shape_flow.normalise(shower_shape.measure(showers), mine.energy)
            arrays = (showers, layer_energies, sticks, condition, shape)
            losses.append(self._step(*(tf.constant(array) for array in arrays)))
        return {"cell_loss": float(np.mean(losses))}

    def _differentiate(
        self, showers: tf.Tensor, layer_energies: tf.Tensor, sticks: tf.Tensor, condition: tf.Tensor, shape: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            logits = self._model.network(self._model.features(condition, sticks, shape))
            rate, quantum = self._model.rates(logits, layer_energies)
            density = compound_poisson.log_likelihood(showers, self._model.with_shared(rate), quantum, self._law)
            cells = -tf.reduce_mean(tf.reduce_sum(density, axis=(1, 2, 3)))
            loss = cells / 1000.0
        return cells, tape.gradient(loss, self._variables)
