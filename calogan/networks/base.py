"""What all generator families have in common."""

from typing import Any, ClassVar, TypeAlias

import keras

Tensor: TypeAlias = Any  # a tensor of whichever backend Keras runs on


class GeneratorNetwork(keras.Model):  # type: ignore[misc]  # Keras has no types
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

    def prepare(self, energy: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what stays float32 before the network.

        Args:
            energy: primary energies, shape (n,), GeV.
            latent: standard normal numbers, shape (n, latent_size).

        Returns:
            the network's features, shape (n, k), and the context that `finish` needs.
        """
        raise NotImplementedError

    def finish(self, outputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """Compute what stays float32 after the network.

        Args:
            outputs: of the network, shape (n, 25, 25, 25).
            context: second result of `prepare`.
            noise: standard normal numbers, shape (n, 25, 25, 25); not looked at without `cell_noise`.

        Returns:
            showers, shape (n, 25, 25, 25), GeV.
        """
        raise NotImplementedError

    def call(self, energy: Tensor, latent: Tensor, noise: Tensor | None = None) -> Tensor:
        """Showers, shape (n, 25, 25, 25), GeV, of energies and random numbers: the three parts in a row."""
        features, context = self.prepare(energy, latent)
        return self.finish(self.network(features), context, noise)
