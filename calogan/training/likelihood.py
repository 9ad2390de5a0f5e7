"""Likelihood pre-training of `lean`: both of its parts have a density, so neither needs an adversary to start."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from calogan.config import Training
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks import compound_poisson, flow, lean
from calogan.training.batches import batches

_STICK_NOISE = 0.2  # blurs the few thousand showers the flow learns from; chosen by the held-out likelihood
_MOMENT_FLOOR = 0.05  # cells squared, keeps the logarithm of a width finite where one cell holds a layer
_CLIP_NORM = 1.0


class FlowStage:
    """Fits the flow of the layers' energies by maximum likelihood."""

    name = "flow"

    def __init__(self, model: lean.Lean, showers: Events, config: Training) -> None:
        self.epochs = config.flow_epochs
        self._model = model
        self._batch_size = min(config.batch_size, len(showers))
        sticks = flow.to_sticks(showers.showers.sum(axis=(1, 2)), showers.energy)
        model.flow.fit_scale(sticks, showers.energy)
        self._condition, self._scaled = _scaled_sticks(model, showers, sticks)
        steps = max(1, self.epochs * (len(showers) // self._batch_size))
        rate = keras.optimizers.schedules.CosineDecay(config.flow_rate, steps)
        self._optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)
        model.flow.log_likelihood(self._scaled[:2], self._condition[:2])  # builds the variables
        self._variables = model.flow.trainable_variables
        self._optimizer.build(self._variables)
        self.state = {"flow_optimizer": self._optimizer}
        self._step = tf.function(self._step_eager, jit_compile=True)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:  # noqa: ARG002 - one interface
        """Take one step per batch; returns the mean loss."""
        losses = []
        for rows in batches(len(self._scaled), self._batch_size, rng):
            blurred = self._scaled[rows] + _STICK_NOISE * rng.standard_normal(self._scaled[rows].shape, np.float32)
            losses.append(self._step(tf.constant(blurred), tf.constant(self._condition[rows])))
        return {"flow_loss": float(np.mean(losses))}

    def _step_eager(self, scaled: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self._model.flow.log_likelihood(scaled, condition))
        self._optimizer.apply_gradients(zip(tape.gradient(loss, self._variables), self._variables, strict=True))
        return loss


class ShapeStage:
    """Fits the network of the cells' shares as the decoder of a variational autoencoder.

    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), eq. 3, with the compound Poisson law of
    the cells as likelihood. The encoder, which is dropped afterwards, sees moments of every layer. The
    weight of the divergence rises from 0, else the latent numbers are given up before they are of use.
    """

    name = "shape"

    def __init__(self, model: lean.Lean, showers: Events, config: Training) -> None:
        self.epochs = config.shape_epochs
        self._model = model
        self._showers = showers.showers
        self._batch_size = min(config.batch_size, len(showers))
        self._layer_energies = self._showers.sum(axis=(1, 2))
        sticks = flow.to_sticks(self._layer_energies, showers.energy)
        self._condition, self._scaled = _scaled_sticks(model, showers, sticks)
        self._moments, self._mirrored = _moments(self._showers), _moments(self._showers[:, ::-1])
        centre, spread = self._moments.mean(axis=0), self._moments.std(axis=0) + 1e-6
        self._moments, self._mirrored = (self._moments - centre) / spread, (self._mirrored - centre) / spread
        model.template.assign(lean.mean_template(self._showers))
        self.encoder = _encoder(self._moments.shape[1] + 1 + flow.SIZE)
        self._variables = [
            *model.network.trainable_variables,
            *self.encoder.trainable_variables,
            model.template,
            model.log_quantum,
        ]
        steps = max(1, self.epochs * (len(showers) // self._batch_size))
        self._optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.shape_rate, steps))
        self._optimizer.build(self._variables)
        self.state = {"encoder": self.encoder, "shape_optimizer": self._optimizer}
        self._step = tf.function(self._step_eager, jit_compile=True)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take one step per batch, half of them mirrored in x, an exact symmetry; returns the mean losses."""
        weight = tf.constant(np.clip(2 * epoch / max(1, self.epochs) - 0.5, 0.01, 1), tf.float32)
        losses = []
        for rows in batches(len(self._showers), self._batch_size, rng):
            mirror = rng.random() < 0.5
            showers = self._showers[rows, ::-1] if mirror else self._showers[rows]
            moments = (self._mirrored if mirror else self._moments)[rows]
            normal = rng.standard_normal((len(rows), lean.SHAPE_LATENT), np.float32)
            arrays = (showers, self._layer_energies[rows], self._scaled[rows], self._condition[rows], moments, normal)
            losses.append(self._step(*(tf.constant(array) for array in arrays), weight))
        cells, divergence = np.mean(losses, axis=0)
        return {"cell_loss": float(cells), "divergence": float(divergence)}

    def _step_eager(
        self,
        showers: tf.Tensor,
        layer_energies: tf.Tensor,
        scaled: tf.Tensor,
        condition: tf.Tensor,
        moments: tf.Tensor,
        normal: tf.Tensor,
        weight: tf.Tensor,
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            mean, log_spread = tf.split(self.encoder(tf.concat([moments, condition, scaled], 1)), 2, axis=1)
            log_spread = tf.clip_by_value(log_spread, -5.0, 2.0)
            latent = mean + tf.exp(log_spread) * normal
            logits = self._model.network(self._model.features(condition, scaled, latent))
            rate, quantum = self._model.rates(logits, layer_energies)
            density = compound_poisson.log_likelihood(showers, rate, quantum)
            cells = -tf.reduce_mean(tf.reduce_sum(density, axis=(1, 2, 3)))
            divergence = 0.5 * (tf.square(mean) + tf.exp(2 * log_spread) - 1) - log_spread
            divergence = tf.reduce_mean(tf.reduce_sum(divergence, axis=1))
            loss = (cells + weight * divergence) / 1000.0
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self._variables), _CLIP_NORM)
        self._optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return tf.stack([cells, divergence])


def _scaled_sticks(
    model: lean.Lean, showers: Events, sticks: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    condition = np.asarray(flow.log_energy(showers.energy), dtype=np.float32)
    return condition, np.asarray(model.flow.normalise(sticks.astype(np.float32), condition), dtype=np.float32)


def _encoder(inputs: int) -> keras.Model:
    width = 128
    parts = [keras.Input((inputs,)), layers.Dense(width, "relu"), layers.Dense(width, "relu")]
    return keras.Sequential([*parts, layers.Dense(2 * lean.SHAPE_LATENT)], name="encoder")


def _moments(showers: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the encoder sees of each layer: centres and widths along x and y, hits, central cell; (n, 150)."""
    offset = np.arange(CLIC.shape[0]) - CLIC.entry_cell[0]
    total = showers.sum(axis=(1, 2)) + 1e-9
    columns = []
    for profile in (showers.sum(axis=2), showers.sum(axis=1)):
        centre = np.einsum("nik,i->nk", profile, offset) / total
        square = np.einsum("nik,i->nk", profile, offset**2) / total
        columns += [centre, np.log(square + _MOMENT_FLOOR)]
    columns += [np.log1p((showers > 0).sum(axis=(1, 2))), np.log(showers[:, 12, 12] / total + 1e-3)]
    return np.concatenate(columns, axis=1).astype(np.float32)
