"""One name for each generator family."""

from collections.abc import Callable, Mapping

import numpy as np

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork
from calogan.networks.conv3d import Conv3D
from calogan.networks.lean import Lean
from calogan.networks.rehm2021 import Rehm2021

FAMILIES: Mapping[str, Callable[[Network], GeneratorNetwork]] = {
    "conv3d": lambda _: Conv3D(),
    "rehm2021": lambda _: Rehm2021(),
    "lean": lambda network: Lean(width=network.width, depth=network.depth, kernel=network.kernel),
}


def build_generator(network: Network) -> GeneratorNetwork:
    """Make an untrained generator with all its variables."""
    model = FAMILIES[network.family](network)
    model(np.ones(1, np.float32), np.zeros((1, model.latent_size), np.float32), np.zeros((1, *CLIC.shape), np.float32))
    return model
