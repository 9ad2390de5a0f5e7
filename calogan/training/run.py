"""The data shared by the stages of a training, and the interface of a stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import keras
import numpy as np

from calogan.config import Training
from calogan.events import EventSource, load_if_small
from calogan.networks.base import GeneratorNetwork
from calogan.networks.stages import StagePlan
from calogan.training.survey import Survey, survey
from calogan.training.workers import ALONE, Workers

Model = TypeVar("Model", bound=GeneratorNetwork)
Model_co = TypeVar("Model_co", bound=GeneratorNetwork, covariant=True)


@dataclass(frozen=True, eq=False)
class TrainingRun(Generic[Model_co]):
    """The data that the stages of a training share.

    Attributes:
        model: the generator.
        showers: the training split.
        survey: statistics of the training split.
        config: rates, batch size and numbers of epochs.
        workers: the processes that share the batches.
        networks: networks that several stages use in addition to the generator, by name; see `share`.
    """

    model: Model_co
    showers: EventSource
    survey: Survey
    config: Training
    workers: Workers = ALONE
    networks: dict[str, keras.Model] = field(default_factory=dict)

    def share(self, name: str, make: Callable[[], keras.Model]) -> keras.Model:
        """Return a network that stages share; the first call creates it.

        Checkpoints contain it under its name.
        """
        if name not in self.networks:
            self.networks[name] = make()
        return self.networks[name]


class Stage(Protocol):
    """A part of the training with its own loss and optimizers.

    Attributes:
        plan: its description by the family.
        epochs: number of its epochs.
    """

    plan: StagePlan
    epochs: int

    @property
    def state(self) -> Mapping[str, keras.Model | keras.Optimizer]:
        """Contents of a checkpoint in addition to the generator and the shared networks, by name."""
        ...

    def run_epoch(self, epoch: int, rng: np.random.Generator) -> Mapping[str, float]:
        """Train for one epoch; returns the mean of each loss."""
        ...


def start_run(model: Model, showers: EventSource, config: Training, workers: Workers = ALONE) -> TrainingRun[Model]:
    """Survey the training showers in one pass, and adapt the model to them before its first stage."""
    showers = load_if_small(showers)
    surveyed = survey(showers)
    model.adapt(
        energy=surveyed.energy,
        layer_energies=surveyed.layer_energies,
        mean_shower=surveyed.mean_shower,
        deposit_law=surveyed.deposits,
        shape=surveyed.shape,
    )
    return TrainingRun(model, showers, surveyed, config, workers)
