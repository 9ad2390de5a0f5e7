"""Likelihood pre-training of `lean`: all of its parts have a density, so none needs an adversary at first."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from calogan.events import batches
from calogan.networks import compound_poisson, flow, lean
from calogan.networks.stages import StagePlan
from calogan.simulation import parametric
from calogan.training.run import TrainingRun
from calogan.training.survey import moments
from calogan.training.workers import Gradients

Sample: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

_STICK_NOISE = 0.3  # blurs the few thousand showers the flow learns from; chosen by the held-out likelihood
_CLIP_NORM = 1.0
_DIVERGENCE = 0.3  # weight at the end: below 1, as the prior is learned afterwards
_CHUNK = 512  # showers encoded at a time


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

    return FlowStage(plan, run, parametrised, config.pretraining_showers)


def flow_stage(plan: StagePlan, run: TrainingRun[lean.Lean]) -> "FlowStage":
    """The stage that fits the flow to the showers of the training split."""

    def sample() -> Sample:
        condition, scaled = _scaled_sticks(run.model, run.survey.layer_energies, run.survey.energy)
        return scaled, condition

    return FlowStage(plan, run, sample, len(run.survey.energy))


class FlowStage:
    """Fits the flow of the layers' energies to a sample by maximum likelihood.

    Args:
        plan: description of the stage.
        run: the training it is part of.
        sample: () -> normalised sticks, shape (n, 25), and conditions, shape (n, 1); called when the stage begins.
        n: number of showers of the sample.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[lean.Lean], sample: Callable[[], Sample], n: int) -> None:
        model, config, workers = run.model, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._sample = model, functools.cache(sample)
        self._batch_size = min(config.batch_size, n)
        self._mine = workers.rows(self._batch_size)
        rate = keras.optimizers.schedules.CosineDecay(config.flow_rate, max(1, self.epochs * (n // self._batch_size)))
        self._optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)
        model.flow.log_likelihood(np.zeros((2, flow.SIZE), "f"), np.zeros((2, 1), "f"))  # builds the variables
        self._variables = model.flow.trainable_variables
        self._optimizer.build(self._variables)
        self.state = {f"{plan.name}_optimizer": self._optimizer}
        self._step = workers.step(self._differentiate, self._optimizer, self._variables, compiled=True)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:  # noqa: ARG002 - one interface
        """Take one step per batch; returns the mean loss."""
        scaled, condition = self._sample()
        losses = []
        order = rng.permutation(len(scaled))
        for start in range(0, len(order) - self._batch_size + 1, self._batch_size):
            rows = order[start : start + self._batch_size]
            blurred = scaled[rows] + _STICK_NOISE * rng.standard_normal(scaled[rows].shape, np.float32)
            arrays = (blurred, condition[rows])
            losses.append(self._step(*(tf.constant(array[self._mine]) for array in arrays)))
        return {f"{self.plan.name}_loss": float(np.mean(losses))}

    def _differentiate(self, scaled: tf.Tensor, condition: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self._model.flow.log_likelihood(scaled, condition))
        return loss, tape.gradient(loss, self._variables)


class Encoder:
    """The encoder of the autoencoder: distribution of the latent numbers of a given shower.

    The stages of a training share one encoder.

    Attributes:
        network: moments, condition and scaled sticks, shape (n, 176) -> means and spreads, shape (n, 32).
    """

    def __init__(self, run: TrainingRun[lean.Lean]) -> None:
        survey = run.survey
        self._centre, self._spread = tf.constant(survey.moments_centre), tf.constant(survey.moments_spread)
        self.network = run.share("encoder", lambda: _encoder(len(survey.moments_centre) + 1 + flow.SIZE))

    def __call__(self, showers: tf.Tensor, condition: tf.Tensor, scaled: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and logarithm of the spread of the latent numbers of showers, each of shape (n, 16)."""
        features = (moments(showers) - self._centre) / self._spread
        mean, log_spread = tf.split(self.network(tf.concat([features, condition, scaled], 1)), 2, axis=1)
        return mean, tf.clip_by_value(log_spread, -5.0, 2.0)


class ShapeStage:
    """Fits the network of the cells' shares as the decoder of a variational autoencoder.

    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), eq. 3, with the compound Poisson law of
    the cells as likelihood. The encoder, which is discarded afterwards, sees moments of every layer. The
    weight of the divergence rises from 0; otherwise the latent numbers would collapse before they become useful.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[lean.Lean]) -> None:
        model, showers, config, workers = run.model, run.showers, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._showers = model, showers
        self._batch_size = min(config.batch_size, len(showers))
        self._mine = workers.rows(self._batch_size)
        self._law = compound_poisson.law(run.survey.deposits)
        self._encoder = Encoder(run)
        self._variables = [
            *model.network.trainable_variables,
            *self._encoder.network.trainable_variables,
            model.template,
            model.log_quantum,
        ]
        steps = max(1, self.epochs * (len(showers) // self._batch_size))
        self._optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.shape_rate, steps))
        self._optimizer.build(self._variables)
        self.state = {"shape_optimizer": self._optimizer}
        self._step = workers.step(
            self._differentiate, self._optimizer, self._variables, clip_norm=_CLIP_NORM, compiled=True
        )

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take one step per batch, half of them mirrored in x, an exact symmetry; returns the mean losses."""
        weight = tf.constant(_DIVERGENCE * np.clip(2 * epoch / max(1, self.epochs) - 0.5, 0.01, 1), tf.float32)
        losses = []
        for batch in batches(self._showers, self._batch_size, rng):
            mirrored = rng.random() < 0.5
            normal = rng.standard_normal((len(batch), lean.SHAPE_LATENT), np.float32)[self._mine]
            mine = batch[self._mine]
            showers = mine.showers[:, ::-1] if mirrored else mine.showers
            layer_energies = showers.sum(axis=(1, 2))
            condition, scaled = _scaled_sticks(self._model, layer_energies, mine.energy)
            arrays = (showers, layer_energies, scaled, condition, normal)
            losses.append(self._step(*(tf.constant(array) for array in arrays), weight))
        cells, divergence = np.mean(losses, axis=0)
        return {"cell_loss": float(cells), "divergence": float(divergence)}

    def _differentiate(
        self,
        showers: tf.Tensor,
        layer_energies: tf.Tensor,
        scaled: tf.Tensor,
        condition: tf.Tensor,
        normal: tf.Tensor,
        weight: tf.Tensor,
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            mean, log_spread = self._encoder(showers, condition, scaled)
            latent = mean + tf.exp(log_spread) * normal
            logits = self._model.network(self._model.features(condition, scaled, latent))
            rate, quantum = self._model.rates(logits, layer_energies)
            density = compound_poisson.log_likelihood(showers, rate, quantum, self._law)
            cells = -tf.reduce_mean(tf.reduce_sum(density, axis=(1, 2, 3)))
            divergence = 0.5 * (tf.square(mean) + tf.exp(2 * log_spread) - 1) - log_spread
            divergence = tf.reduce_mean(tf.reduce_sum(divergence, axis=1))
            loss = (cells + weight * divergence) / 1000.0
        return tf.stack([cells, divergence]), tape.gradient(loss, self._variables)


class PriorStage:
    """Fits the flow of the latent numbers to the encoder's output for the training showers.

    The decoder was trained only on these, and they are not quite standard normal: Dai and Wipf, "Diagnosing and
    enhancing VAE models" (2019), section 3. Each shower is used together with its mirror image.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[lean.Lean]) -> None:
        model, showers, config, workers = run.model, run.showers, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._encoder, self._showers = model, Encoder(run), showers
        self._found: tuple[NDArray[np.float32], ...] = ()
        self._batch_size = min(config.batch_size, len(showers))
        self._mine = workers.rows(self._batch_size)
        steps = max(1, self.epochs * (2 * len(showers) // self._batch_size))
        rate = keras.optimizers.schedules.CosineDecay(config.flow_rate, steps)
        self._optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)
        size, condition = lean.SHAPE_LATENT, 1 + flow.SIZE
        model.prior.log_likelihood(np.zeros((2, size), "f"), np.zeros((2, condition), "f"))  # builds the variables
        self._variables = model.prior.trainable_variables
        self._optimizer.build(self._variables)
        self.state = {"prior_optimizer": self._optimizer}
        self._step = workers.step(self._differentiate, self._optimizer, self._variables, compiled=True)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:  # noqa: ARG002 - one interface
        """Take one step per batch, with latent numbers drawn anew; returns the mean loss."""
        # The encoder changes until this stage begins, so it is evaluated then.
        self._found = self._found or self._encoded()
        mean, spread, condition = self._found
        order = rng.permutation(len(mean))
        losses = []
        for start in range(0, len(order) - self._batch_size + 1, self._batch_size):
            rows = order[start : start + self._batch_size]
            latent = mean[rows] + spread[rows] * rng.standard_normal(mean[rows].shape, np.float32)
            losses.append(self._step(tf.constant(latent[self._mine]), tf.constant(condition[rows][self._mine])))
        return {"prior_loss": float(np.mean(losses))}

    def _encoded(self) -> tuple[NDArray[np.float32], ...]:
        """Mean and spread of the latent numbers of each shower and mirrored shower, (2n, 16), and their condition, (2n, 26)."""
        parts = []
        for start in range(0, len(self._showers), _CHUNK):
            some = self._showers[start : start + _CHUNK]
            for showers in (some.showers, some.showers[:, ::-1]):
                condition, scaled = _scaled_sticks(self._model, showers.sum(axis=(1, 2)), some.energy)
                mean, log_spread = self._encoder(showers, condition, scaled)
                parts.append((mean, np.exp(log_spread), np.concatenate([condition, scaled], axis=1)))
        return tuple(np.concatenate(arrays).astype(np.float32) for arrays in zip(*parts, strict=True))

    def _differentiate(self, latent: tf.Tensor, condition: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self._model.prior.log_likelihood(latent, condition))
        return loss, tape.gradient(loss, self._variables)


def _scaled_sticks(
    model: lean.Lean, layer_energies: NDArray[np.float32], energy: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    condition = np.asarray(flow.log_energy(energy), dtype=np.float32)
    sticks = flow.to_sticks(layer_energies, energy).astype(np.float32)
    return condition, np.asarray(model.flow.normalise(sticks, condition), dtype=np.float32)


def _encoder(inputs: int) -> keras.Model:
    width = 128
    parts = [keras.Input((inputs,)), layers.Dense(width, "relu"), layers.Dense(width, "relu")]
    return keras.Sequential([*parts, layers.Dense(2 * lean.SHAPE_LATENT)], name="encoder")
