"""Adversarial training with the losses and constants of the published network.

Rehm et al. 2021 (arXiv 2103.10142) and the authors' public code (svalleco/3Dgan, branch frehm/Conv2D: `l_dec` of
PTF_k_v6_1_ReLU.py, losses and `func_for_gen` of PTF_m4_1_ReLU.py): discriminator and generator minimise
6 BCE(real or fake) + 0.2 MAPE(estimate of Ep / 100) + 0.1 MAPE(ECAL).

On thousands of showers instead of the published 200,000 that spoils a generator whose means are right. `energy_score_weight`
holds it to the showers of each energy, and `critic_weight` adds a discriminator that sees what the published one cannot.
"""

import functools
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
from calogan.networks.base import GeneratorNetwork, Tensor
from calogan.networks.stages import StagePlan
from calogan.training.discriminators import SURVEYED, Discriminator, critic, published
from calogan.training.energy_score import EnergyScore
from calogan.training.optimizers import FanInAdam, rise_and_fall, scale_output
from calogan.training.run import TrainingRun
from calogan.training.survey import Survey
from calogan.training.workers import Gradients

LABEL_REAL, LABEL_FAKE, FLIPPED = 0.9, 0.0, 0.05
FAKE_EP_EARLY, FAKE_EP = (1.0, 4.0), (0.02, 5.0)  # Ep / 100 GeV, flat; the first holds for two epochs
EARLY_EPOCHS = 2  # in these epochs the output of `rehm2021` has no ReLU
# ECAL in GeV of a fake, e (a4 e^4 + ... + a0) with e = Ep / 100 GeV: `GetEcalFit`, mod=1.
PUBLISHED_ECAL = (0.0018, -0.023, 0.11, -0.28, 2.21)
# An epoch consisted of 20 files. For every file the rates were set and the optimizers created anew.
FILES_PER_EPOCH = 20
DECAY_START, DECAY_RATE = 81, 0.012  # the last file, counted from 0, at the full rate; decay per file from then on
_CLIP_NORM, _NUMBERS_SHARE = 1.0, 1.0  # of the energy score, as in the stage `refinement`


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
    """One pass over the real showers per epoch: discriminators on real, discriminators on fake, then generator.

    The stage `warmup` takes only the first two steps; both stages train the same discriminators.
    """

    def __init__(self, plan: StagePlan, run: TrainingRun[GeneratorNetwork]) -> None:
        model, showers, config, workers = run.model, run.showers, run.config, run.workers
        self.plan, self.epochs = plan, plan.epochs(config)
        self._model, self._showers, self._config, self._workers = model, showers, config, workers
        self._move_generator, self._guided = plan.trains_network, config.energy_score_weight > 0
        self._ecal = np.array(PUBLISHED_ECAL) if config.ecal == "published" else fit_ecal(run.survey)
        self._batch_size = min(config.batch_size, len(showers))
        self._steps = config.steps_per_epoch or len(showers) // self._batch_size
        self._discriminators = [published(run), *([critic(run)] if config.critic_weight else [])]
        self._generate = model.discriminator_view()
        self._generator_variables = model.adversarial_variables()
        some = showers[:SURVEYED]
        # A network that is followed by the drawing of cells does not output GeV.
        self._unit = float(some.showers.mean()) if self._guided and not model.cell_noise else 1.0
        self._score = EnergyScore.of(some) if self._guided else None
        self._generator_optimizer = self._optimizer()
        self._optimizers = {judge.name: keras.optimizers.Adam(judge.rate) for judge in self._discriminators}
        for judge in self._discriminators:
            self._optimizers[judge.name].build(judge.network.trainable_variables)
        named = {"generator": self._generator_optimizer, **self._optimizers}
        self.state = {f"{plan.name}_{name}_optimizer": optimizer for name, optimizer in named.items()}
        self._step_discriminators = {
            judge.name: workers.step(
                functools.partial(self._differentiate_discriminator, judge),
                self._optimizers[judge.name],
                judge.network.trainable_variables,
            )
            for judge in self._discriminators
        }
        self._step_generator = workers.step(
            self._differentiate_generator,
            self._generator_optimizer,
            self._generator_variables,
            clip_norm=_CLIP_NORM if self._guided else None,
        )

    def _optimizer(self) -> keras.optimizers.Adam:
        """The published optimizer of the generator, or that of the stages before if the energy score guides it."""
        rate, variables = self._config.generator_rate, self._generator_variables
        if not self._guided:
            optimizer = keras.optimizers.Adam(rate)
            optimizer.build(variables)
            return optimizer
        model = self._model
        schedule = rise_and_fall(rate, steps=self.epochs * self._steps)
        return FanInAdam(schedule, model.network, variables, bias=model.bias_rate, factors=model.rate_factors)

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Take the three steps for every batch; returns the mean losses."""
        losses = []
        n, early = self._batch_size, epoch < EARLY_EPOCHS and not self._guided
        if self._guided:
            scale_output(self._generator_variables, 1 / self._unit)
        for step, real in enumerate(self._batches(rng)):
            self._set_rates(epoch, step)
            ecal = real.showers.sum(axis=(1, 2, 3))
            label = self._draw_labels(LABEL_REAL, LABEL_FAKE, rng)
            step_losses = self._discriminate("real", real.showers, real.energy, ecal, label)
            fake, energy, target = self._draw_fakes(n, early, rng)
            showers = self._unit * self._generate(*fake, early=early, training=False)
            label = self._draw_labels(LABEL_FAKE, 1.0, rng)
            step_losses |= self._discriminate("fake", showers, energy, target, label)
            if self._move_generator:
                fake, energy, target = self._draw_fakes(n, early, rng, at=real.energy if self._guided else None)
                label = self._draw_labels(LABEL_REAL, LABEL_FAKE, rng)
                arrays = (*fake, tf.constant(target), tf.constant(label), tf.constant(real.showers))
                step_losses["generator"] = float(self._step_generator(*arrays, early))
            losses.append(step_losses)
        if self._guided:
            if self._move_generator:
                self._generator_optimizer.finalize_variable_values(self._generator_variables)
            scale_output(self._generator_variables, self._unit)
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
        rates = {judge.name: judge.rate for judge in self._discriminators}
        for optimizer, rate in (
            (self._generator_optimizer, self._config.generator_rate),
            *((self._optimizers[name], rate) for name, rate in rates.items()),
        ):
            for variable in optimizer.variables:
                variable.assign(ops.zeros_like(variable))
            optimizer.learning_rate = published_rate(rate, file)

    def _discriminate(self, kind: str, *arrays: Tensor) -> dict[str, float]:
        tensors = [tf.convert_to_tensor(array, tf.float32) for array in arrays]
        return {f"{name}_{kind}": float(step(*tensors)) for name, step in self._step_discriminators.items()}

    def _draw_fakes(
        self, n: int, early: bool, rng: np.random.Generator, *, at: NDArray[np.float32] | None = None
    ) -> tuple[tuple[tf.Tensor, ...], NDArray[np.float32], NDArray[np.float32]]:
        """Draw inputs of the generator for the rows of this worker.

        Args:
            n: number of showers, of all workers together.
            early: whether they have the energies of the first epochs.
            rng: random numbers.
            at: energies of the rows of this worker, GeV, for two showers each, first all the first ones; drawn if None.

        Returns:
            Inputs of the generator; energies, GeV, and expected ECAL, GeV, of the first shower of each.
        """
        draws = 1 if at is None else 2
        cells = CLIC.shape if self._model.cell_noise else (1,)
        mine = self._workers.rows(n)
        if at is None:
            at = (100 * rng.uniform(*(FAKE_EP_EARLY if early else FAKE_EP), n)).astype(np.float32)[mine]
        e = at.astype(np.float64) / 100
        latent = rng.standard_normal((draws, n, self._model.latent_size), np.float32)[:, mine]
        noise = rng.standard_normal((draws, n, *cells), np.float32)[:, mine]
        target = (e * np.polyval(self._ecal, e)).astype(np.float32)
        inputs = np.tile(at, draws), np.concatenate(latent), np.concatenate(noise)
        return tuple(map(tf.constant, inputs)), at, target

    def _draw_labels(self, label: float, flipped: float, rng: np.random.Generator) -> NDArray[np.float32]:
        return _labels(self._batch_size, label, flipped, rng)[self._workers.rows(self._batch_size)]

    def _differentiate_discriminator(
        self, judge: Discriminator, showers: tf.Tensor, energy: tf.Tensor, ecal: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, Gradients]:
        with tf.GradientTape() as tape:
            loss = judge.loss_of(showers, energy, ecal, label, training=not self._config.inference_mode)
        return loss, tape.gradient(loss, judge.network.trainable_variables)

    def _differentiate_generator(
        self,
        energy: tf.Tensor,
        latent: tf.Tensor,
        noise: tf.Tensor,
        ecal: tf.Tensor,
        label: tf.Tensor,
        real: tf.Tensor,
        early: bool,
    ) -> tuple[tf.Tensor, Gradients]:
        n = len(label)
        with tf.GradientTape() as tape:
            training = not self._config.inference_mode
            showers = self._unit * self._generate(energy, latent, noise, early=early, training=training)
            first = showers[:n], energy[:n], ecal, label
            loss = tf.add_n([judge.loss_of(*first, training=False) for judge in self._discriminators])
            if self._score:
                score = self._score.loss(real, showers, energy[:n], numbers_share=_NUMBERS_SHARE)
                loss += self._config.energy_score_weight * score
        return loss, tape.gradient(loss, self._generator_variables)


def _labels(n: int, label: float, flipped: float, rng: np.random.Generator) -> NDArray[np.float32]:
    return np.where(rng.random(n) < FLIPPED, flipped, label).astype(np.float32)
