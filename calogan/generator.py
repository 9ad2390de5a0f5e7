"""Load a model of any precision and sample showers from it.

A shower depends on the model's version, its energy, the seed and its index only: not on how many are
asked for at once, nor by whom. Random numbers come from a counter-based generator, AES in counter mode (Salmon
et al. 2011, section 3.1), whose key is the seed and whose counter starts at a place fixed by the index.
"""

import collections
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray
from scipy import special

from calogan import bundle, cells
from calogan.bundle import Bundle
from calogan.errors import ModelError, RequestError
from calogan.events import EnergyRange, Events
from calogan.geometry import CLIC

BATCH = 256  # showers per call of the graph: more gains no speed, and the working memory stays in the cache
# A call starts at an index, and holds a number of showers, that is a multiple of this: a shower then always
# stands at the same place of TensorFlow's vector registers, and not even its last bit depends on its neighbours.
_ALIGNMENT = 16
CELLS = CLIC.shape[0] * CLIC.shape[1] * CLIC.shape[2]
_BLOCK_BYTES, _WORDS_PER_BLOCK = 16, 2  # of AES
_NUMBERS_PER_WORD = 4  # 16-bit numbers, one for each cell
SEED_MAX = 2**63

Floats: TypeAlias = NDArray[np.float32]
# energies and latent numbers -> outputs of the network, their step, and what else the tail needs
Compute: TypeAlias = Callable[[Floats, Floats], tuple[NDArray[Any], float, Floats]]


class Generator:
    """A model of one precision, ready to sample.

    Attributes:
        name: registered name of the model.
        precision: float32, bfloat16, float16 or int8.
        version: changes whenever the showers of a seed would.
        energy_range: energies the model was trained for, GeV.
    """

    def __init__(self, folder: Path, model: Bundle, precision: str, compute: Compute, *, threads: int = 1) -> None:
        self.name = model.name
        self.family = model.family
        self.precision = precision
        self.version = model.version(precision)
        self.energy_range = EnergyRange(*model.energy_range)
        self._bundle = model
        self._compute = compute
        self._draw = cells.drawer(cells.read(folder / bundle.CELLS)) if model.cell_noise else None
        self._threads = threads
        self._map = ThreadPoolExecutor(threads).map if threads > 1 else map

    def sample(
        self, energy: NDArray[np.float32], *, seed: int, first: int = 0, progress: Callable[[int], None] | None = None
    ) -> Events:
        """Draw one shower for each energy.

        Args:
            energy: primary energies, shape (n,), GeV.
            seed: 0 to 2^63 - 1.
            first: index of the first shower, so that a sample can be drawn in parts.
            progress: called with the number of showers of each batch that is done.

        Raises:
            RequestError: an energy is outside `energy_range`, or seed or first is out of range.
        """
        energy = check_energies(energy, self.energy_range)
        check_seed(seed, first)
        lead = first % _ALIGNMENT
        padded = np.pad(energy, (lead, -(lead + len(energy)) % _ALIGNMENT), mode="edge")
        showers = np.empty((len(padded), CELLS), dtype=np.float32)
        for start in range(0, len(padded), BATCH):
            part = padded[start : start + BATCH]
            words = random_words(len(part), seed, first - lead + start, self._bundle)
            # Not named: a runtime that lends its memory may want it back before the next batch.
            self._finish(*self._compute(part, _latent(words, self._bundle)), words, showers[start : start + len(part)])
            if progress:
                progress(min(start + len(part), lead + len(energy)) - max(start, lead))
        return Events(showers[lead : lead + len(energy)].reshape(-1, *CLIC.shape), energy)

    def _finish(
        self, outputs: NDArray[Any], step: float, context: Floats, words: NDArray[np.uint64], showers: Floats
    ) -> None:
        """Compute what is behind the network; writes showers, shape (n, 15625), GeV."""
        flat = outputs.reshape(len(outputs), -1)
        if not self._draw:
            np.multiply(flat, step, out=showers)
            showers[showers < CLIC.threshold_gev] = 0
            return
        draw, first, bits = self._draw, self._bundle.latent_size * _NUMBERS_PER_WORD, words.view(np.uint16)
        bounds = np.linspace(0, len(flat), self._threads + 1).astype(int)

        def draw_part(k: int) -> None:
            rows = slice(bounds[k], bounds[k + 1])
            draw(flat[rows], step, context[rows], bits[rows], first, showers[rows])

        collections.deque(self._map(draw_part, range(self._threads)), maxlen=0)


def load(model: str | os.PathLike[str], *, precision: str, threads: int = 1) -> Generator:
    """Load a generator.

    Args:
        model: packaged name or folder.
        precision: one the model has.
        threads: threads of one operation.

    Raises:
        ModelError: there is no such model or precision, or a file of it is damaged.
    """
    folder = bundle.find(model)
    description = bundle.read(folder)
    bundle.check_files(folder, description, precision)
    return Generator(folder, description, precision, _graph(folder, description, precision, threads), threads=threads)


def _graph(folder: Path, model: Bundle, precision: str, threads: int) -> Compute:
    """Join the graphs of a model into one call."""
    with tf.Graph().as_default() as graph:
        inputs, features, context = prepare_graph(folder, model)
        (outputs,) = splice(folder / model.network_files[precision], ("outputs",), features=features)
        integers = undequantized(outputs)
        session = tf.compat.v1.Session(graph=graph, config=session_config(threads))
        # Read off one shower: TensorFlow's kernels disagree about it, they divide the range by 127 or by 128.
        some = {inputs[0]: model.energy_range[:1], inputs[1]: np.zeros((1, model.latent_size))}
        whole, exact = (np.ravel(values) for values in session.run([integers, outputs], some))
        largest = np.argmax(np.abs(whole.astype(np.float32)))
        step = float(exact[largest] / whole[largest]) if whole[largest] else 1.0
        run = session.make_callable([integers, context], feed_list=inputs)

    def compute(energy: Floats, latent: Floats) -> tuple[NDArray[Any], float, Floats]:
        found, context = run(energy, latent)
        return found, step, context

    return compute


def prepare_graph(folder: Path, model: Bundle) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Import what is before the network into the current graph.

    Returns:
        placeholders of energies and latent numbers; features; context.
    """
    energy = tf.compat.v1.placeholder(tf.float32, (None,), "energy")
    latent = tf.compat.v1.placeholder(tf.float32, (None, model.latent_size), "latent")
    features, context = splice(folder / "prepare.pb", ("features", "context"), energy=energy, latent=latent)
    return [energy, latent], features, context


def undequantized(outputs: tf.Tensor) -> tf.Tensor:
    """The integers that outputs of a network are made from, int8, or the outputs themselves if it computes in floats.

    To multiply by their step is left to the tail, which looks at every output anyway: a quarter of the bytes is moved.
    """
    source = outputs.op
    while source.type in {"Identity", "Reshape"}:
        source = source.inputs[0].op
    if source.type != "Dequantize" or source.inputs[0].dtype != tf.qint8 or source.get_attr("mode") != b"SCALED":
        return outputs
    return tf.bitcast(source.inputs[0], tf.int8)


def session_config(threads: int) -> tf.compat.v1.ConfigProto:
    """TensorFlow's settings for a graph that runs one operation at a time."""
    return tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)


def splice(path: Path, returned: tuple[str, ...], /, **inputs: tf.Tensor) -> list[tf.Tensor]:
    """Import a frozen graph of a model into the current one; returns the tensors that are asked for by name.

    Raises:
        ModelError: it is not one.
    """
    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
        names = [f"out_{name}:0" for name in returned]
        return list(tf.import_graph_def(definition, input_map=inputs, return_elements=names, name=path.name))
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: is not a graph of this package ({error}); make the model again") from error


def random_words(n: int, seed: int, first: int, model: Bundle) -> NDArray[np.uint64]:
    """Random words of n showers from an index on, shape (n, k): one for a latent number, then four cells to a word."""
    noise_words = -(-CELLS // _NUMBERS_PER_WORD) if model.cell_noise else 0
    blocks = -(-(model.latent_size + noise_words) // _WORDS_PER_BLOCK)
    counter = (first * blocks).to_bytes(_BLOCK_BYTES, "big")
    cipher = Cipher(AES(seed.to_bytes(_BLOCK_BYTES, "little")), CTR(counter)).encryptor()
    stream = np.empty(n * blocks + 1, dtype=(np.void, _BLOCK_BYTES))  # the library asks for a block more
    cipher.update_into(_zeros(n * blocks * _BLOCK_BYTES), stream.view(np.uint8).data)
    return stream[:-1].view("<u8").reshape(n, -1)


@functools.lru_cache(maxsize=4)
def _zeros(n: int) -> bytes:
    return bytes(n)


def _latent(words: NDArray[np.uint64], model: Bundle) -> NDArray[np.float32]:
    uniform = ((words[:, : model.latent_size] >> np.uint64(11)) + 0.5) * 2.0**-53
    return special.ndtri(uniform).astype(np.float32)


def latent_numbers(n: int, *, seed: int, model: Bundle) -> NDArray[np.float32]:
    """The latent numbers of the first n showers of a seed, shape (n, latent_size)."""
    return _latent(random_words(n, seed, 0, model), model)


def check_energies(energy: ArrayLike, allowed: EnergyRange) -> NDArray[np.float32]:
    """Return energies as float32, shape (n,), or say which one cannot be generated.

    Raises:
        RequestError: no energies, not a list of numbers, or one outside the range.
    """
    try:
        values = np.asarray(energy, dtype=np.float32)
    except (TypeError, ValueError):
        raise RequestError("energies are not a list of numbers; give GeV") from None
    if values.ndim != 1 or len(values) == 0:
        raise RequestError(f"energies have shape {values.shape}; expected a list of at least one number, in GeV")
    bad = ~((values >= allowed.low) & (values <= allowed.high))  # also catches a number that is not one
    if bad.any():
        which = int(np.argmax(bad))
        raise RequestError(
            f"energy {values[which]:g} GeV (number {which}) is outside the range this model was trained for, "
            f"{allowed.low:g} to {allowed.high:g} GeV"
        )
    return values


def check_seed(seed: int, first: int = 0) -> None:
    """Make sure that seed and index can be used.

    Raises:
        RequestError: one is negative or too large.
    """
    if not 0 <= seed < SEED_MAX:
        raise RequestError(f"seed {seed} is out of range; expected 0 to 2^63 - 1")
    if not 0 <= first < 2**48:
        raise RequestError(f"first index {first} is out of range; expected 0 to 2^48 - 1")
