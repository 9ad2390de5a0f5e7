"""Random numbers of showers: a function of the seed and the index of a shower only.

They come from a counter-based generator, AES in counter mode (Salmon et al. 2011, section 3.1): the key is the seed,
and the index fixes the start of the counter.
"""

import functools
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray
from scipy import special

from calogan.errors import RequestError
from calogan.generation.model_folder import ModelDescription
from calogan.geometry import CELLS

_BLOCK_BYTES, _WORDS_PER_BLOCK = 16, 2  # of AES
# Both the first index and the number of showers of a call are multiples of this: a shower then always has the same
# position in TensorFlow's vector registers, and not even its last bit depends on its neighbours.
ALIGNMENT = 16


NUMBERS_PER_WORD = 4  # 16-bit numbers, one for each cell


SEED_MAX = 2**63


class Piece(NamedTuple):
    """Consecutive showers of one seed.

    Attributes:
        energy: primary energies, shape (n,), GeV.
        seed: 0 to 2^63 - 1.
        first: index of the first shower.
    """

    energy: NDArray[np.float32]
    seed: int
    first: int


def random_words(n: int, seed: int, first: int, model: ModelDescription) -> NDArray[np.uint64]:
    """Random words of n showers from an index on, shape (n, k): one for each latent number, then one for four cells."""
    noise_words = -(-CELLS // NUMBERS_PER_WORD) if model.cell_noise else 0
    blocks = -(-(model.latent_size + noise_words) // _WORDS_PER_BLOCK)
    counter = (first * blocks).to_bytes(_BLOCK_BYTES, "big")
    cipher = Cipher(AES(seed.to_bytes(_BLOCK_BYTES, "little")), CTR(counter)).encryptor()
    stream = np.empty(n * blocks + 1, dtype=(np.void, _BLOCK_BYTES))  # the library requires an extra block
    cipher.update_into(_zeros(n * blocks * _BLOCK_BYTES), stream.view(np.uint8).data)
    return stream[:-1].view("<u8").reshape(n, -1)


@functools.lru_cache(maxsize=4)
def _zeros(n: int) -> bytes:
    return bytes(n)


def latent_of_words(words: NDArray[np.uint64], model: ModelDescription) -> NDArray[np.float32]:
    """Latent numbers of showers, shape (n, latent_size), from their random words."""
    uniform = ((words[:, : model.latent_size] >> np.uint64(11)) + 0.5) * 2.0**-53
    return special.ndtri(uniform).astype(np.float32)


def latent_numbers(n: int, *, seed: int, model: ModelDescription) -> NDArray[np.float32]:
    """The latent numbers of the first n showers of a seed, shape (n, latent_size)."""
    return latent_of_words(random_words(n, seed, 0, model), model)


def check_seed(seed: int, first: int = 0) -> None:
    """Check that seed and index are in range.

    Raises:
        RequestError: one of them is negative or too large.
    """
    if not 0 <= seed < SEED_MAX:
        raise RequestError(f"seed {seed} is out of range; expected 0 to 2^63 - 1")
    if not 0 <= first < 2**48:
        raise RequestError(f"first index {first} is out of range; expected 0 to 2^48 - 1")
