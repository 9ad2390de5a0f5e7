"""What all generator families have in common."""

import abc
from typing import Any, ClassVar, TypeAlias

import keras
from keras import ops

from calogan.geometry import CLIC

Tensor: TypeAlias = Any  # a tensor of whichever backend Keras runs on


class GeneratorNetwork(keras.Model, abc.ABC):  # type: ignore[misc]  # Keras has no types
    """A generator in three parts, of which only the middle one is quantized.

    Attributes:
        family: name of the family.
        latent_size: standard normal numbers consumed for each shower.
        cell_noise: whether one more standard normal number is consumed for each cell.
        network: the part that is quantized, features -> outputs.
    """

    family: ClassVar[str]
    latent_size: ClassVar[int]
    cell_noise: ClassVar[bool]
    network: keras.Model

    @abc.abstractmethod
    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what stays float32 before the network.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).

        Returns:
            the network's features, shape (n, k), and the context that `finish` needs.
        """

    @abc.abstractmethod
    def finish(self, outputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """Compute what stays float32 after the network.

        Args:
            outputs: of the network.
            context: second result of `prepare`.
            noise: standard normal numbers, shape (n, 25, 25, 25); not looked at without `cell_noise`.

        Returns:
            showers, shape (n, 25, 25, 25), GeV.
        """

    def call(self, energy: Tensor, latent: Tensor, noise: Tensor | None = None) -> Tensor:
        """Showers, shape (n, 25, 25, 25), GeV, of energies and random numbers: the three parts in a row."""
        features, context = self.prepare(energy, latent)
        return self.finish(self.network(features), context, noise)


class LatentNetwork(GeneratorNetwork):
    """A family all of whose randomness enters the network through the latent numbers, as in the published ones.

    Attributes:
        network: features, shape (n, 200) -> showers, shape (n, 25, 25, 25), GeV.
    """

    latent_size = 200
    cell_noise = False

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

    def finish(self, outputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002 - one interface
        """Set cells below the read-out threshold to 0; see `GeneratorNetwork.finish`."""
        return ops.where(outputs < CLIC.threshold_gev, 0.0, outputs)
