"""The interface of a generator family: its network, the float32 steps around it, and its training."""

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks.stages import ADVERSARIAL, DISTANCE, REFINEMENT, WARMUP, StagePlan

Tensor: TypeAlias = Any  # a tensor of whichever backend Keras runs on


class DiscriminatorView(Protocol):
    """Generates showers as the discriminator sees them."""

    def __call__(self, energy: Tensor, latent: Tensor, noise: Tensor, *, early: bool, training: bool) -> Tensor:
        """Generate showers.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).
            noise: standard normal numbers, shape (n, 25, 25, 25); ignored without `cell_noise`.
            early: whether this is one of the first adversarial epochs, see `training.adversarial.EARLY_EPOCHS`.
            training: whether layers behave as in training.

        Returns:
            Showers, shape (n, 25, 25, 25), GeV.
        """
        ...


class GeneratorNetwork(keras.Model, abc.ABC):  # type: ignore[misc]  # Keras has no types
    """A generator family: three parts, of which only the middle one is quantized, and their training.

    A new family is a subclass in its own file and an entry in `families.FAMILIES`. Training, freezing and generation
    only use the interface below and do not depend on the family.

    Attributes:
        family: name of the family.
        latent_size: number of standard normal numbers for each shower.
        cell_noise: whether each cell needs another standard normal number: showers are then drawn with the compiled
            form of `lean`'s `finish`, using `tables`. Without it the network's outputs are showers.
        stages: stages of training, in order.
        network: the part that is quantized, features -> outputs.
        bfloat16: whether its networks may be trained in bfloat16 arithmetic.
        bias_rate: what the learning rate of biases is multiplied by in the refinement stage.
        rate_factors: what the learning rates of the kernels of some layers of `network` are multiplied by in it, by layer.
        energy_bands: energies, GeV, between bands in which an integer network has its own ranges of activations. Empty if
            activations do not grow with the energy.
    """

    family: ClassVar[str]
    latent_size: ClassVar[int]
    cell_noise: ClassVar[bool]
    stages: ClassVar[tuple[StagePlan, ...]]
    bfloat16: ClassVar[bool] = False
    bias_rate: ClassVar[float] = 10.0
    rate_factors: ClassVar[Mapping[str, float]] = MappingProxyType({})
    energy_bands: ClassVar[tuple[float, ...]] = ()
    network: keras.Model

    @classmethod
    def create(cls, config: Network) -> Self:  # noqa: ARG003 - for families with settings
        """Make an untrained generator of the family for a configuration."""
        return cls()

    @abc.abstractmethod
    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the float32 steps before the network.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).

        Returns:
            Features of the network, shape (n, k), and the context that `finish` needs.
        """

    def finish(self, outputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002 - one interface
        """Compute the float32 steps after the network: set cells below the read-out threshold to 0.

        Generation does the same without Keras; a family that overrides this method must set `cell_noise`.

        Args:
            outputs: outputs of the network.
            context: second result of `prepare`.
            noise: standard normal numbers, shape (n, 25, 25, 25); ignored without `cell_noise`.

        Returns:
            Showers, shape (n, 25, 25, 25), GeV.
        """
        return ops.where(outputs < CLIC.threshold_gev, 0.0, outputs)

    def call(self, energy: Tensor, latent: Tensor, noise: Tensor | None = None) -> Tensor:
        """Showers, shape (n, 25, 25, 25), GeV, for energies and random numbers: runs the three parts in order."""
        features, context = self.prepare(energy, latent)
        return self.finish(self.network(features), context, noise)

    def adapt(
        self,
        *,
        energy: NDArray[np.float32],
        layer_energies: NDArray[np.float32],
        mean_shower: NDArray[np.float64],
        deposit_law: NDArray[np.float64],
        shape: NDArray[np.float32],
    ) -> None:
        """Adopt statistics of the training showers before the first stage; does nothing by default.

        Args:
            energy: primary energies, shape (n,), GeV.
            layer_energies: energy of each layer, shape (n, 25), GeV.
            mean_shower: mean energy of each cell, shape (25, 25, 25), GeV.
            deposit_law: law of a single deposit, see `networks.deposits`.
            shape: shower-shape variables, see `networks.shower_shape`, shape (n, 10).
        """

    def sketch(self, mean_shower: NDArray[np.float64], energy: float) -> None:
        """Set weights with which the network outputs rough showers, before the distance stage; by default keep them.

        Args:
            mean_shower: mean energy of each cell, shape (25, 25, 25), GeV.
            energy: mean energy of the primary particles, GeV. At this energy, the mean cell of the output is to be 1.
        """

    def adversarial_variables(self) -> list[keras.Variable]:
        """The variables that adversarial training may change: by default all trainable ones."""
        return list(self.trainable_variables)

    def discriminator_view(self) -> DiscriminatorView:
        """The discriminator's view of the showers: by default the showers themselves."""

        def view(energy: Tensor, latent: Tensor, noise: Tensor, *, early: bool, training: bool) -> Tensor:  # noqa: ARG001
            return self(energy, latent, noise, training=training)

        return view

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Arrays that are stored next to the frozen graphs, the fields of `generation.cell_sampling.CellTables`.

        Empty for a family without `cell_noise`.
        """
        return {}


class LatentNetwork(GeneratorNetwork):
    """A family whose randomness enters only through the latent numbers, as in the published networks.

    Attributes:
        network: features, shape (n, 200) -> showers, shape (n, 25, 25, 25), GeV.
    """

    latent_size = 200
    cell_noise = False
    stages = (DISTANCE, REFINEMENT, WARMUP, ADVERSARIAL)
    bfloat16 = True
    energy_bands = (5.0, 12.5, 31.0, 78.0, 200.0)  # activations grow like the energy: by 2.5 in each

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name=self.family, dtype="float32")  # energies keep their precision
        self.network = network

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the latent numbers by Ep / 100 GeV, which conditions the published networks on the energy.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, 200).

        Returns:
            Features of the network, shape (n, 200), and the energies.
        """
        return latent * (energy / 100.0)[:, None], energy
