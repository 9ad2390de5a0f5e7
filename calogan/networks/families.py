"""One name for each generator family."""

from typing import Any

import numpy as np

from calogan.config import Network
from calogan.geometry import CLIC
from calogan.networks.lean import Lean
from calogan.networks.rehm2021 import Rehm2021


def build_generator(network: Network) -> Any:
    """Make an untrained generator with all its variables.

    All families share one interface: `latent_size`, `cell_noise`, `prepare(energy, latent)` -> (features,
    context), `network(features)` -> outputs, `finish(outputs, context, noise)` -> showers, and the model
    itself, which is the three in a row.
    """
    model = Lean(width=network.width) if network.family == "lean" else Rehm2021()
    model(np.ones(1, np.float32), np.zeros((1, model.latent_size), np.float32), np.zeros((1, *CLIC.shape), np.float32))
    return model
