"""Adversarial training with the losses and constants of the published network.

Rehm et al. 2021 (arXiv 2103.10142) and the authors' public code: discriminator and generator minimise
6 BCE(real or fake) + 0.2 MAPE(estimate of Ep / 100) + 0.1 MAPE(ECAL).
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from calogan.config import Training
from calogan.events import EventSource, batches
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.lean import Lean
from calogan.training.survey import Survey

WEIGHT_REAL, WEIGHT_ENERGY, WEIGHT_ECAL = 6.0, 0.2, 0.1
LABEL_REAL, LABEL_FAKE, FLIPPED = 0.9, 0.0, 0.05
FAKE_EP_EARLY, FAKE_EP = (1.0, 4.0), (0.02, 5.0)  # Ep / 100 GeV, flat; the first holds for two epochs
EARLY_EPOCHS = 2
_EPSILON = 2e-7
_ECAL_DEGREE = 4


def mape(truth: Tensor, estimate: Tensor) -> Tensor:
    """Mean absolute percentage error as the published code has it, of two tensors of the same shape."""
    return 100.0 * ops.mean(ops.abs((truth - estimate) / (truth + _EPSILON)))


def binary_crossentropy(label: Tensor, probability: Tensor) -> Tensor:
    """Mean binary cross-entropy of labels in [0, 1], same shape as the probabilities."""
    p = ops.clip(probability, _EPSILON, 1 - _EPSILON)
    return -ops.mean(label * ops.log(p) + (1 - label) * ops.log(1 - p))


def published_loss(label: Tensor, energy: Tensor, ecal: Tensor, answer: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Loss of discriminator and generator.

    Args:
        label: what the discriminator should say, shape (n,).
        energy: primary energies, shape (n,), GeV.
        ecal: expected sum over cells, shape (n,), GeV.
        answer: outputs of the discriminator, each of shape (n, 1).
    """
    real, auxiliary, total = (output[:, 0] for output in answer)
    adversarial = WEIGHT_REAL * binary_crossentropy(label, real)
    return adversarial + WEIGHT_ENERGY * mape(energy / 100.0, auxiliary) + WEIGHT_ECAL * mape(ecal, total)


def fit_ecal(known: Survey) -> NDArray[np.float64]:
    """Fit ECAL = e (a4 e^4 + ... + a0), e = Ep / 100 GeV, the form of the published polynomial.

    The published numbers belong to the published samples; another detector description has others.

    Returns:
        (a4, ..., a0), as `numpy.polyval` takes them.
    """
    e = known.energy.astype(np.float64) / 100
    return np.polyfit(e, known.ecal / e, _ECAL_DEGREE)


class AdversarialStage:
    """One pass over the real showers per epoch: discriminator on real, discriminator on fake, then generator.

    Args:
        model: the generator.
        discriminator: see `rehm2021.discriminator`.
        showers: the training split.
        known: survey of the training split.
        config: rates, batch size and numbers of epochs.
        move_generator: False to train the discriminator alone.
    """

    def __init__(
        self,
        model: GeneratorNetwork,
        discriminator: keras.Model,
        showers: EventSource,
        known: Survey,
        config: Training,
        *,
        move_generator: bool,
    ) -> None:
        self.name = "adversarial" if move_generator else "warmup"
        self.epochs = config.adversarial_epochs if move_generator else config.warmup_epochs
        self._model, self._discriminator, self._showers = model, discriminator, showers
        self._move_generator = move_generator
        self._ecal = fit_ecal(known)
        self._batch_size = min(config.batch_size, len(showers))
        self._generator_variables = adversarial_variables(model)
        self._generator_optimizer = keras.optimizers.Adam(config.generator_rate)
        self._discriminator_optimizer = keras.optimizers.Adam(config.discriminator_rate)
        self._generator_optimizer.build(self._generator_variables)
        self._discriminator_optimizer.build(discriminator.trainable_variables)
        self.state = {
            f"{self.name}_generator_optimizer": self._generator_optimizer,
            f"{self.name}_discriminator_optimizer": self._discriminator_optimizer,
        }
        self._step_discriminator = tf.function(self._discriminator_eager)
        self._step_generator = tf.function(self._generator_eager)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take the three steps for every batch; returns the mean losses."""
        losses = []
        for real in batches(self._showers, self._batch_size, rng):
            ecal = real.showers.sum(axis=(1, 2, 3))
            label = _labels(len(real), LABEL_REAL, LABEL_FAKE, rng)
            on_real = self._discriminate(real.showers, real.energy, ecal, label)
            fake, energy, target = self._draw_fakes(len(real), epoch, rng)
            showers = self._model(*fake, training=False)
            label = _labels(len(real), LABEL_FAKE, 1.0, rng)
            on_fake = self._discriminate(showers, energy, target, label)
            step = {"discriminator_real": float(on_real), "discriminator_fake": float(on_fake)}
            if self._move_generator:
                fake, energy, target = self._draw_fakes(len(real), epoch, rng)
                label = _labels(len(real), LABEL_REAL, LABEL_FAKE, rng)
                step["generator"] = float(self._step_generator(*fake, tf.constant(target), tf.constant(label)))
            losses.append(step)
        return {f"{name}_loss": float(np.mean([step[name] for step in losses])) for name in losses[0]}

    def _discriminate(self, *arrays: Tensor) -> tf.Tensor:
        return self._step_discriminator(*(tf.convert_to_tensor(array, tf.float32) for array in arrays))

    def _draw_fakes(
        self, n: int, epoch: int, rng: np.random.Generator
    ) -> tuple[tuple[tf.Tensor, ...], NDArray[np.float32], NDArray[np.float32]]:
        """Draw the generator's input, the energies in it, shape (n,), GeV, and the ECAL expected of them, (n,), GeV."""
        e = rng.uniform(*(FAKE_EP_EARLY if epoch < EARLY_EPOCHS else FAKE_EP), n)
        energy = (100 * e).astype(np.float32)
        cells = (n, *CLIC.shape) if self._model.cell_noise else (n, 1)
        latent = rng.standard_normal((n, self._model.latent_size), np.float32)
        noise = rng.standard_normal(cells, np.float32)
        target = (e * np.polyval(self._ecal, e)).astype(np.float32)
        return tuple(tf.constant(a) for a in (energy, latent, noise)), energy, target

    def _discriminator_eager(
        self, showers: tf.Tensor, energy: tf.Tensor, ecal: tf.Tensor, label: tf.Tensor
    ) -> tf.Tensor:
        variables = self._discriminator.trainable_variables
        with tf.GradientTape() as tape:
            loss = published_loss(label, energy, ecal, self._discriminator(showers, training=True))
        self._discriminator_optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def _generator_eager(
        self, energy: tf.Tensor, latent: tf.Tensor, noise: tf.Tensor, ecal: tf.Tensor, label: tf.Tensor
    ) -> tf.Tensor:
        variables = self._generator_variables
        with tf.GradientTape() as tape:
            showers = self._model(energy, latent, noise, training=True)
            loss = published_loss(label, energy, ecal, self._discriminator(showers, training=False))
        self._generator_optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss


def adversarial_variables(model: GeneratorNetwork) -> list[keras.Variable]:
    """The variables the adversary may move: all of them, but not the flow of `lean`, whose density is known."""
    if isinstance(model, Lean):
        return [*model.network.trainable_variables, model.template, model.log_quantum]
    return list(model.trainable_variables)


def _labels(n: int, label: float, flipped: float, rng: np.random.Generator) -> NDArray[np.float32]:
    return np.where(rng.random(n) < FLIPPED, flipped, label).astype(np.float32)
