"""What a generator family says about itself: its network, what is around it, and how it is trained."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks.stages import ADVERSARIAL, DISTANCE, WARMUP, StagePlan

Tensor: TypeAlias = Any  # a tensor of whichever backend Keras runs on


class DiscriminatorView(Protocol):
    """Generates showers as the discriminator sees them."""

    def __call__(self, energy: Tensor, latent: Tensor, noise: Tensor, *, early: bool, training: bool) -> Tensor:
        """Generate showers.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).
            noise: standard normal numbers, shape (n, 25, 25, 25); not looked at without `cell_noise`.
            early: whether adversarial training has only begun, see `training.adversarial.EARLY_EPOCHS`.
            training: whether layers behave as in training.

        Returns:
            showers, shape (n, 25, 25, 25), GeV.
        """
        ...


class GeneratorNetwork(keras.Model, abc.ABC):  # type: ignore[misc]  # Keras has no types
    """A generator family: three parts, of which only the middle one is quantized, and how they are trained.

    A new family is a subclass in a file of its own and an entry in `families.FAMILIES`. Training, freezing and
    generation ask it for what is below and do not know which family it is.

    Attributes:
        family: name of the family.
        latent_size: standard normal numbers consumed for each shower.
        cell_noise: whether one more standard normal number is consumed for each cell: showers are then drawn with the
            compiled form of `lean`'s `finish`, from what `tables` gives. Without it the network's outputs are showers.
        stages: stages of training, one after the other.
        network: the part that is quantized, features -> outputs.
    """

    family: ClassVar[str]
    latent_size: ClassVar[int]
    cell_noise: ClassVar[bool]
    stages: ClassVar[tuple[StagePlan, ...]]
    network: keras.Model

    @classmethod
    def create(cls, config: Network) -> Self:  # noqa: ARG003 - for families that have something to choose
        """Make an untrained generator of the family as a configuration describes it."""
        return cls()

    @abc.abstractmethod
    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what stays float32 before the network.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).

        Returns:
            the network's features, shape (n, k), and the context that `finish` needs.
        """

    def finish(self, outputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002 - one interface
        """Compute what stays float32 after the network: set cells below the read-out threshold to 0.

        Generation does the same without Keras, so a family that does something else here has `cell_noise`.

        Args:
            outputs: of the network.
            context: second result of `prepare`.
            noise: standard normal numbers, shape (n, 25, 25, 25); not looked at without `cell_noise`.

        Returns:
            showers, shape (n, 25, 25, 25), GeV.
        """
        return ops.where(outputs < CLIC.threshold_gev, 0.0, outputs)

    def call(self, energy: Tensor, latent: Tensor, noise: Tensor | None = None) -> Tensor:
        """Showers, shape (n, 25, 25, 25), GeV, of energies and random numbers: the three parts in a row."""
        features, context = self.prepare(energy, latent)
        return self.finish(self.network(features), context, noise)

    def adapt(
        self,
        *,
        energy: NDArray[np.float32],
        layer_energies: NDArray[np.float32],
        mean_shower: NDArray[np.float64],
        deposit_law: NDArray[np.float64],
    ) -> None:
        """Take over what a look at the training showers tells, before any stage begins; nothing by default.

        Args:
            energy: primary energies, shape (n,), GeV.
            layer_energies: energy of each layer, shape (n, 25), GeV.
            mean_shower: mean energy of each cell, shape (25, 25, 25), GeV.
            deposit_law: law of a single deposit, see `networks.deposits`.
        """

    def adversarial_variables(self) -> list[keras.Variable]:
        """The variables an adversary may move: by default all that can be trained."""
        return list(self.trainable_variables)

    def discriminator_view(self) -> DiscriminatorView:
        """How the discriminator sees the showers: by default as they are."""

        def view(energy: Tensor, latent: Tensor, noise: Tensor, *, early: bool, training: bool) -> Tensor:  # noqa: ARG001
            return self(energy, latent, noise, training=training)

        return view

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Arrays that freezing writes beside the graphs, the fields of `generation.cell_sampling.CellTables`.

        Empty for a family without `cell_noise`.
        """
        return {}


class LatentNetwork(GeneratorNetwork):
    """A family all of whose randomness enters the network through the latent numbers, as in the published ones.

    Attributes:
        network: features, shape (n, 200) -> showers, shape (n, 25, 25, 25), GeV.
    """

    latent_size = 200
    cell_noise = False
    stages = (DISTANCE, WARMUP, ADVERSARIAL)

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name=self.family)
        self.network = network

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the latent numbers by Ep / 100 GeV, which is how the published networks are conditioned.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, 200).

        Returns:
            the network's features, shape (n, 200), and the energies.
        """
        return latent * (energy / 100.0)[:, None], energy
