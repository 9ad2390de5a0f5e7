"""Load a model of any precision and sample showers from it.

A shower depends on the model's version, its energy, the seed and its index only: not on how many are
asked for at once, nor by whom. Random numbers come from a counter-based generator (Philox; Salmon et
al. 2011) whose key is the seed and whose counter starts at a place fixed by the index.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray
from scipy import special

from calogan import bundle
from calogan.bundle import Bundle
from calogan.errors import ModelError, RequestError
from calogan.events import EnergyRange, Events
from calogan.geometry import CLIC

BATCH = 128  # showers per call of the graph: more gains no speed, and the working memory stays in the cache
# A call starts at an index, and holds a number of showers, that is a multiple of this: a shower then always
# stands at the same place of TensorFlow's vector registers, and not even its last bit depends on its neighbours.
_ALIGNMENT = 16
_CELLS = CLIC.shape[0] * CLIC.shape[1] * CLIC.shape[2]
_WORDS_PER_COUNT = 4  # 64-bit numbers for each step of the Philox counter
SEED_MAX = 2**63

# energies, latent numbers and, for some families, bits of cell noise -> showers
_Run: TypeAlias = Callable[..., NDArray[np.float32]]


class Generator:
    """A model of one precision, ready to sample.

    Attributes:
        name: registered name of the model.
        precision: float32, bfloat16, float16 or int8.
        version: changes whenever the showers of a seed would.
        energy_range: energies the model was trained for, GeV.
    """

    def __init__(self, model: Bundle, precision: str, run: _Run) -> None:
        self.name = model.name
        self.family = model.family
        self.precision = precision
        self.version = model.version(precision)
        self.energy_range = EnergyRange(*model.energy_range)
        self._bundle = model
        self._run = run

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
        showers = np.empty((len(padded), *CLIC.shape), dtype=np.float32)
        for start in range(0, len(padded), BATCH):
            part = padded[start : start + BATCH]
            noise = _noise(len(part), seed, first - lead + start, self._bundle)
            showers[start : start + len(part)] = self._run(part, *noise)
            if progress:
                progress(min(start + len(part), lead + len(energy)) - max(start, lead))
        return Events(showers[lead : lead + len(energy)], energy)


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
    return Generator(description, precision, _assemble(folder, description, precision, threads))


def _assemble(folder: Path, model: Bundle, precision: str, threads: int) -> _Run:
    """Join the three graphs of a model into one call: energies, latent numbers, cell noise -> showers."""
    with tf.Graph().as_default() as graph:
        energy = tf.compat.v1.placeholder(tf.float32, (None,), "energy")
        latent = tf.compat.v1.placeholder(tf.float32, (None, model.latent_size), "latent")
        inputs = [energy, latent]
        features, context = _splice(folder / "prepare.pb", ("features", "context"), energy=energy, latent=latent)
        (outputs,) = _splice(folder / model.network_files[precision], ("outputs",), features=features)
        last = {"outputs": outputs, "context": context}
        if model.cell_noise:
            last["bits"] = tf.compat.v1.placeholder(tf.uint16, (None, *CLIC.shape), "bits")
            inputs.append(last["bits"])
        (showers,) = _splice(folder / "finish.pb", ("showers",), **last)
        session = tf.compat.v1.Session(graph=graph, config=session_config(threads))
        run: _Run = session.make_callable(showers, feed_list=inputs)
        return run


def session_config(threads: int) -> tf.compat.v1.ConfigProto:
    """TensorFlow's settings for a graph that runs one operation at a time."""
    return tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)


def _splice(path: Path, returned: tuple[str, ...], /, **inputs: tf.Tensor) -> list[tf.Tensor]:
    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
        names = [f"out_{name}:0" for name in returned]
        return list(tf.import_graph_def(definition, input_map=inputs, return_elements=names, name=path.name))
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: is not a graph of this package ({error}); make the model again") from error


def _noise(n: int, seed: int, first: int, model: Bundle) -> list[NDArray[Any]]:
    """Normal numbers, shape (n, latent_size), and 16 random bits a cell, (n, 25, 25, 25), of n showers from an index on."""
    noise_words = -(-_CELLS // 4) if model.cell_noise else 0  # four 16-bit numbers in a word
    counts = -(-(model.latent_size + noise_words) // _WORDS_PER_COUNT)
    stream = np.random.Philox(key=seed, counter=first * counts)
    words = stream.random_raw(n * counts * _WORDS_PER_COUNT).reshape(n, -1)
    uniform = ((words[:, : model.latent_size] >> np.uint64(11)) + 0.5) * 2.0**-53
    arrays: list[NDArray[Any]] = [special.ndtri(uniform).astype(np.float32)]
    if model.cell_noise:
        bits = words[:, model.latent_size : model.latent_size + noise_words].view(np.uint16)
        arrays.append(bits[:, :_CELLS].reshape(-1, *CLIC.shape))
    return arrays


def latent_numbers(n: int, *, seed: int, model: Bundle) -> NDArray[np.float32]:
    """The latent numbers of the first n showers of a seed, shape (n, latent_size)."""
    latent: NDArray[np.float32] = _noise(n, seed, 0, model)[0]
    return latent


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
