"""The order in which showers are met."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def batches(n: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each batch of one epoch, shuffled; the rest that fills no batch is left for another epoch."""
    order = rng.permutation(n)
    for start in range(0, n - size + 1, size):
        yield order[start : start + size]
