"""The list of generator families."""

import numpy as np

from calogan.config import Network
from calogan.errors import ConfigError
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork
from calogan.networks.conv3d import Conv3D
from calogan.networks.lean import Lean
from calogan.networks.rehm2021 import Rehm2021

# A new family needs only its own file and an entry here; other packages may append their families.
FAMILIES: list[type[GeneratorNetwork]] = [Lean, Rehm2021, Conv3D]


def find_family(network: Network) -> type[GeneratorNetwork]:
    """Return the family of a generator.

    Raises:
        ConfigError: there is no family of that name.
    """
    families = {family.family: family for family in FAMILIES}
    if network.family not in families:
        raise ConfigError(f"network.family: no generator family {network.family!r}; there are {', '.join(families)}")
    return families[network.family]


def build_generator(network: Network) -> GeneratorNetwork:
    """Make an untrained generator with all its variables.

    Raises:
        ConfigError: there is no family of that name.
    """
    model = find_family(network).create(network)
    model(np.ones(1, np.float32), np.zeros((1, model.latent_size), np.float32), np.zeros((1, *CLIC.shape), np.float32))
    return model
