"""One name for each generator family."""

import numpy as np

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks.base import GeneratorNetwork
from calogan.networks.lean import Lean
from calogan.networks.rehm2021 import Rehm2021


def build_generator(network: Network) -> GeneratorNetwork:
    """Make an untrained generator with all its variables."""
    model = Lean(width=network.width) if network.family == "lean" else Rehm2021()
    model(np.ones(1, np.float32), np.zeros((1, model.latent_size), np.float32), np.zeros((1, *CLIC.shape), np.float32))
    return model
