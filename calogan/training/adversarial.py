"""Adversarial training with the losses and constants of the published network.

Rehm et al. 2021 (arXiv 2103.10142) and the authors' public code (svalleco/3Dgan, branch frehm/Conv2D: `l_dec` of
PTF_k_v6_1_ReLU.py, losses and `func_for_gen` of PTF_m4_1_ReLU.py): discriminator and generator minimise
6 BCE(real or fake) + 0.2 MAPE(estimate of Ep / 100) + 0.1 MAPE(ECAL).
"""

import itertools
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from calogan.events import Events, batches
from calogan.geometry import CLIC
from calogan.networks import rehm2021
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.stages import StagePlan
from calogan.training.run import TrainingRun
from calogan.training.survey import Survey
from calogan.training.workers import Gradients

WEIGHT_REAL, WEIGHT_ENERGY, WEIGHT_ECAL = 6.0, 0.2, 0.1
LABEL_REAL, LABEL_FAKE, FLIPPED = 0.9, 0.0, 0.05
FAKE_EP_EARLY, FAKE_EP = (1.0, 4.0), (0.02, 5.0)  # Ep / 100 GeV, flat; the first holds for two epochs
EARLY_EPOCHS = 2  # in these epochs the output of `rehm2021` has no ReLU
# ECAL in GeV of a fake, e (a4 e^4 + ... + a0) with e = Ep / 100 GeV: `GetEcalFit`, mod=1.
PUBLISHED_ECAL = (0.0018, -0.023, 0.11, -0.28, 2.21)
# An epoch consisted of 20 files. For every file the rates were set and the optimizers created anew.
FILES_PER_EPOCH = 20
DECAY_START, DECAY_RATE = 81, 0.012  # the last file, counted from 0, at the full rate; decay per file from then on
_EPSILON = 2e-7


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


def fit_ecal(survey: Survey) -> NDArray[np.float64]:
    """Fit ECAL = e (a4 e^4 + ... + a0), e = Ep / 100 GeV, the form of the published polynomial.

    `PUBLISHED_ECAL` describes the published showers; other detectors have other coefficients.

    Returns:
        (a4, ..., a0), in the order of `numpy.polyval`.
    """
    e = survey.energy.astype(np.float64) / 100
    return np.polyfit(e, survey.ecal / e, len(PUBLISHED_ECAL) - 1)


def published_rate(initial: float, file: int) -> float:
    """Learning rate for a file of the published training, counted from 0 over all epochs; `l_dec` in the authors' code.

    Args:
        initial: initial rate.
        file: number of the file, 0 to 599 in the published training.
    """
    return initial * math.exp(-DECAY_RATE * max(0, file - DECAY_START))


class AdversarialStage:
    """One pass over the real showers per epoch: discriminator on real, discriminator on fake, then generator.

    The stage `warmup` takes only the first two steps; both stages train the same discriminator.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[GeneratorNetwork]) -> None:
        model, showers, config, workers = run.model, run.showers, run.config, run.workers
        discriminator = run.share("discriminator", rehm2021.discriminator)
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._discriminator, self._showers = model, discriminator, showers
        self._move_generator, self._config, self._workers = plan.trains_network, config, workers
        self._ecal = np.array(PUBLISHED_ECAL) if config.ecal == "published" else fit_ecal(run.survey)
        self._batch_size = min(config.batch_size, len(showers))
        self._steps = config.steps_per_epoch or len(showers) // self._batch_size
        self._generate = model.discriminator_view()
        self._generator_variables = model.adversarial_variables()
        self._generator_optimizer = keras.optimizers.Adam(config.generator_rate)
        self._discriminator_optimizer = keras.optimizers.Adam(config.discriminator_rate)
        self._generator_optimizer.build(self._generator_variables)
        self._discriminator_optimizer.build(discriminator.trainable_variables)
        self.state = {
            f"{plan.name}_generator_optimizer": self._generator_optimizer,
            f"{plan.name}_discriminator_optimizer": self._discriminator_optimizer,
        }
        self._step_discriminator = workers.step(
            self._differentiate_discriminator, self._discriminator_optimizer, discriminator.trainable_variables
        )
        self._step_generator = workers.step(
            self._differentiate_generator, self._generator_optimizer, self._generator_variables
        )

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take the three steps for every batch; returns the mean losses."""
        losses = []
        n, early = self._batch_size, epoch < EARLY_EPOCHS
        for step, real in enumerate(self._batches(rng)):
            self._set_rates(epoch, step)
            ecal = real.showers.sum(axis=(1, 2, 3))
            label = self._draw_labels(LABEL_REAL, LABEL_FAKE, rng)
            on_real = self._discriminate(real.showers, real.energy, ecal, label)
            fake, energy, target = self._draw_fakes(n, early, rng)
            showers = self._generate(*fake, early=early, training=False)
            label = self._draw_labels(LABEL_FAKE, 1.0, rng)
            on_fake = self._discriminate(showers, energy, target, label)
            step_losses = {"discriminator_real": float(on_real), "discriminator_fake": float(on_fake)}
            if self._move_generator:
                fake, energy, target = self._draw_fakes(n, early, rng)
                label = self._draw_labels(LABEL_REAL, LABEL_FAKE, rng)
                step_losses["generator"] = float(
                    self._step_generator(*fake, tf.constant(target), tf.constant(label), early)
                )
            losses.append(step_losses)
        return {f"{name}_loss": float(np.mean([step_losses[name] for step_losses in losses])) for name in losses[0]}

    def _batches(self, rng: np.random.Generator) -> Iterator[Events]:
        passes = (batches(self._showers, self._batch_size, rng) for _ in itertools.count())
        whole = itertools.islice(itertools.chain.from_iterable(passes), self._steps)
        return (batch[self._workers.rows(len(batch))] for batch in whole)

    def _set_rates(self, epoch: int, step: int) -> None:
        """At the first step of a file of the published training, set new rates and reset the optimizers."""
        file, before = ((epoch * self._steps + number) * FILES_PER_EPOCH // self._steps for number in (step, step - 1))
        if self._config.schedule == "constant" or file == before:
            return
        for optimizer, rate in (
            (self._generator_optimizer, self._config.generator_rate),
            (self._discriminator_optimizer, self._config.discriminator_rate),
        ):
            for variable in optimizer.variables:
                variable.assign(ops.zeros_like(variable))
            optimizer.learning_rate = published_rate(rate, file)

    def _discriminate(self, *arrays: Tensor) -> tf.Tensor:
        return self._step_discriminator(*(tf.convert_to_tensor(array, tf.float32) for array in arrays))

    def _draw_fakes(
        self, n: int, early: bool, rng: np.random.Generator
    ) -> tuple[tuple[tf.Tensor, ...], NDArray[np.float32], NDArray[np.float32]]:
        """Draw inputs of the generator, their energies, shape (n,), GeV, and the expected ECAL, shape (n,), GeV."""
        e = rng.uniform(*(FAKE_EP_EARLY if early else FAKE_EP), n)
        energy = (100 * e).astype(np.float32)
        cells = (n, *CLIC.shape) if self._model.cell_noise else (n, 1)
        latent = rng.standard_normal((n, self._model.latent_size), np.float32)
        noise = rng.standard_normal(cells, np.float32)
        target = (e * np.polyval(self._ecal, e)).astype(np.float32)
        mine = self._workers.rows(n)
        return tuple(tf.constant(a[mine]) for a in (energy, latent, noise)), energy[mine], target[mine]

    def _draw_labels(self, label: float, flipped: float, rng: np.random.Generator) -> NDArray[np.float32]:
        return _labels(self._batch_size, label, flipped, rng)[self._workers.rows(self._batch_size)]

    def _differentiate_discriminator(
        self, showers: tf.Tensor, energy: tf.Tensor, ecal: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        variables = self._discriminator.trainable_variables
        with tf.GradientTape() as tape:
            answer = self._discriminator(showers, training=not self._config.inference_mode)
            loss = published_loss(label, energy, ecal, answer)
        return loss, tape.gradient(loss, variables)

    def _differentiate_generator(
        self, energy: tf.Tensor, latent: tf.Tensor, noise: tf.Tensor, ecal: tf.Tensor, label: tf.Tensor, early: bool
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            training = not self._config.inference_mode
            showers = self._generate(energy, latent, noise, early=early, training=training)
            loss = published_loss(label, energy, ecal, self._discriminator(showers, training=False))
        return loss, tape.gradient(loss, self._generator_variables)


def _labels(n: int, label: float, flipped: float, rng: np.random.Generator) -> NDArray[np.float32]:
    return np.where(rng.random(n) < FLIPPED, flipped, label).astype(np.float32)
