"""Load a model of any precision and sample showers from it.

A shower depends only on the model's version, its energy, the seed and its index, not on the size of the request or the
process. Random numbers come from a counter-based generator, AES in counter mode (Salmon et al. 2011, section 3.1): the
key is the seed, and the index fixes the start of the counter.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from calogan import provenance
from calogan.errors import ModelError, RequestError
from calogan.events import EnergyRange, Events, Hits
from calogan.generation import cell_sampling, cell_tables, model_folder
from calogan.generation.graphs import prepare_graph, session_config, splice, undequantized
from calogan.generation.model_folder import ModelDescription
from calogan.generation.random_numbers import (
    ALIGNMENT,
    NUMBERS_PER_WORD,
    Piece,
    check_seed,
    latent_of_words,
    random_words,
)
from calogan.geometry import CELLS, CLIC

BATCH = 256  # showers per call of the graph: more gains no speed, and the working memory stays in the cache
# A network with bands of energy computes the showers of one band at a time: more are drawn together, so that there are
# enough in each. Few sizes of its batches, because TensorFlow keeps a compiled form of each operation for each size and band.
_BATCH_OF_BANDS, _BATCH_IN_BAND = 4 * BATCH, 64

Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int], None]
_log = logging.getLogger(__name__)
# energies and latent numbers -> outputs of the network, their step, and the context for the tail
Compute: TypeAlias = Callable[[Floats, Floats], tuple[NDArray[Any], float, Floats]]


class Generator:
    """A model of one precision, ready to sample.

    Attributes:
        name: registered name of the model.
        precision: float32, bfloat16, float16 or int8.
        version: changes whenever the showers of a given seed change.
        energy_range: energy range of the training, GeV.
    """

    def __init__(
        self, folder: Path, model: ModelDescription, precision: str, compute: Compute, *, threads: int = 1
    ) -> None:
        self.name = model.name
        self.family = model.family
        self.precision = precision
        self.version = model.version(precision)
        self.energy_range = EnergyRange(*model.energy_range)
        self._description = model
        self._batch = _BATCH_OF_BANDS if model.bands(precision) else BATCH
        self._compute = compute
        self._draw = cell_sampling.drawer(cell_tables.read(folder / model.cells)) if model.cell_noise else None
        self._threads = threads
        self._map = ThreadPoolExecutor(threads).map if threads > 1 else map

    @overload
    def sample(
        self,
        energy: Floats,
        *,
        seed: int,
        first: int = 0,
        progress: Progress | None = None,
        sparse: Literal[False] = False,
    ) -> Events: ...

    @overload
    def sample(
        self, energy: Floats, *, seed: int, first: int = 0, progress: Progress | None = None, sparse: Literal[True]
    ) -> Hits: ...

    def sample(
        self, energy: Floats, *, seed: int, first: int = 0, progress: Progress | None = None, sparse: bool = False
    ) -> Events | Hits:
        """Draw one shower for each energy.

        Args:
            energy: primary energies, shape (n,), GeV.
            seed: 0 to 2^63 - 1.
            first: index of the first shower, so that a sample can be drawn in parts.
            progress: called with the number of showers of each finished batch.
            sparse: whether to return the hits of the same showers, which takes a seventh of the memory and less time.

        Raises:
            RequestError: an energy is outside `energy_range`, or seed or first is out of range.
        """
        energy = check_energies(energy, self.energy_range)
        check_seed(seed, first)
        lead = first % ALIGNMENT
        padded = np.pad(energy, (lead, -(lead + len(energy)) % ALIGNMENT), mode="edge")
        showers = np.empty((0 if sparse else len(padded), CELLS), np.float32)
        hits: list[Hits] = []
        for start in range(0, len(padded), self._batch):
            part = padded[start : start + self._batch]
            words = random_words(len(part), seed, first - lead + start, self._description)
            # Not assigned to a name: a runtime that lends its memory may need it back before the next batch.
            hits += self._finish(
                *self._compute(part, latent_of_words(words, self._description)),
                words,
                part,
                None if sparse else showers[start : start + len(part)],
            )
            if progress:
                progress(min(start + len(part), lead + len(energy)) - max(start, lead))
        asked = slice(lead, lead + len(energy))
        return Hits.concatenate(hits)[asked] if sparse else Events(showers[asked].reshape(-1, *CLIC.shape), energy)

    def sample_together(self, pieces: Sequence[Piece]) -> list[Hits]:
        """Draw the showers of several pieces in one call of the network, the same showers as `sample` draws of each.

        Args:
            pieces: together about as many showers as one call takes, see `BATCH`.

        Raises:
            RequestError: an energy is outside `energy_range`, or a seed or an index is out of range.
        """
        energies, latents, words = [], [], []
        for piece in pieces:
            energy = check_energies(piece.energy, self.energy_range)
            check_seed(piece.seed, piece.first)
            words.append(random_words(len(energy), piece.seed, piece.first, self._description))
            margins = (piece.first % ALIGNMENT, -(piece.first + len(energy)) % ALIGNMENT)
            if self._batch == _BATCH_OF_BANDS:  # showers are aligned within their bands
                margins = (0, 0)
            energies.append(np.pad(energy, margins, mode="edge"))
            latents.append(np.pad(latent_of_words(words[-1], self._description), (margins, (0, 0))))
        outputs, step, context = self._compute(np.concatenate(energies), np.concatenate(latents))
        results, start = [], 0
        for piece, padded, numbers in zip(pieces, energies, words, strict=True):
            lead = piece.first % ALIGNMENT if len(padded) > len(numbers) else 0
            rows = slice(start + lead, start + lead + len(numbers))
            energy = padded[lead : lead + len(numbers)]
            results.append(Hits.concatenate(self._finish(outputs[rows], step, context[rows], numbers, energy, None)))
            start += len(padded)
        return results

    def _finish(
        self,
        outputs: NDArray[Any],
        step: float,
        context: Floats,
        words: NDArray[np.uint64],
        energy: Floats,
        showers: Floats | None,
    ) -> list[Hits]:
        """Compute the steps after the network; writes the showers, shape (n, 15625), GeV, or returns their hits."""
        flat = outputs.reshape(len(outputs), -1)
        if not self._draw:
            dense = np.empty(flat.shape, np.float32) if showers is None else showers
            np.multiply(flat, step, out=dense)
            dense[dense < CLIC.threshold_gev] = 0
            return [] if showers is not None else [Hits.from_dense(Events(dense.reshape(-1, *CLIC.shape), energy))]
        draw, first, bits = self._draw, self._description.latent_size * NUMBERS_PER_WORD, words.view(np.uint16)
        bounds = np.linspace(0, len(flat), self._threads + 1).astype(int)

        def draw_part(k: int) -> list[Hits]:
            rows = slice(bounds[k], bounds[k + 1])
            arrays = draw(flat[rows], step, context[rows], bits[rows], first)
            if showers is None:
                return [Hits(*arrays, energy[rows])]
            cell_sampling.fill(*arrays, showers[rows])
            return []

        return [hits for part in self._map(draw_part, range(self._threads)) for hits in part]


def load(model: str | os.PathLike[str], *, precision: str, threads: int = 1) -> Generator:
    """Load a generator.

    Args:
        model: packaged name or folder.
        precision: a precision of the model.
        threads: number of threads of one operation.

    Raises:
        ModelError: there is no such model or precision, or one of its files is damaged.
    """
    folder = model_folder.find(model)
    description = model_folder.read(folder)
    model_folder.check_files(folder, description, precision)
    compute = _graph(folder, description, precision, threads)
    isa = provenance.cpu()["isa"]
    if description.may_saturate(precision) and not provenance.has_integer_instructions(isa):
        _log.warning(
            "%s: this int8 network was quantized for processors with AVX512_VNNI or AVX_VNNI; on this one (it has %s) "
            "large sums saturate, so showers differ: quantize the model here, or validate it here",
            description.name,
            isa,
        )
    return Generator(folder, description, precision, compute, threads=threads)


def _graph(folder: Path, model: ModelDescription, precision: str, threads: int) -> Compute:
    """Combine the graphs of a model into one call."""
    boundaries = model.bands(precision)
    with tf.Graph().as_default() as graph:
        inputs, features, context = prepare_graph(folder, model)
        tensors = {"features": features}
        if boundaries:
            tensors["band"] = tf.compat.v1.placeholder_with_default(np.int32(len(boundaries)), (), "band")
            inputs.append(tensors["band"])
        (outputs,) = splice(folder / model.network_files[precision], ("outputs",), **tensors)
        integers = outputs if boundaries else undequantized(outputs)
        session = tf.compat.v1.Session(graph=graph, config=session_config(threads, graph))
        # Measured from one shower, because TensorFlow's kernels divide the range by 127 or by 128.
        some = {inputs[0]: model.energy_range[:1], inputs[1]: np.zeros((1, model.latent_size))}  # in the default band
        try:
            whole, exact = (np.ravel(values) for values in session.run([integers, outputs], some))
        except tf.errors.OpError as error:
            raise ModelError(
                f"{folder / model.network_files[precision]}: TensorFlow cannot compute it here "
                f"({error.message.strip().splitlines()[-1]}); {precision} needs oneDNN: import calogan before "
                "tensorflow, or set TF_ENABLE_ONEDNN_OPTS=1"
            ) from error
        largest = np.argmax(np.abs(whole.astype(np.float32)))
        step = float(exact[largest] / whole[largest]) if whole[largest] else 1.0
        run = session.make_callable([integers, context], feed_list=inputs)

    def compute(energy: Floats, latent: Floats) -> tuple[NDArray[Any], float, Floats]:
        outputs, context = _run_bands(run, boundaries, energy, latent) if boundaries else run(energy, latent)
        return outputs, step, context

    return compute


def _run_bands(
    run: Callable[..., tuple[Floats, Floats]], boundaries: tuple[float, ...], energy: Floats, latent: Floats
) -> tuple[Floats, Floats]:
    """Run a network on the showers of each band of energy; returns outputs and context of all in their order."""
    band_of = np.searchsorted(boundaries, energy, side="right")
    parts, places = [], []
    for band in np.unique(band_of):
        (rows,) = np.nonzero(band_of == band)
        for start in range(0, len(rows), _BATCH_IN_BAND):
            part = rows[start : start + _BATCH_IN_BAND]
            padded = np.pad(part, (0, -len(part) % ALIGNMENT), mode="edge")
            parts.append([array[: len(part)] for array in run(energy[padded], latent[padded], np.int32(band))])
            places.append(part)
    order = np.argsort(np.concatenate(places))
    outputs, context = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
    return outputs, context


def check_energies(energy: ArrayLike, allowed: EnergyRange) -> NDArray[np.float32]:
    """Check energies and convert them to float32, shape (n,).

    Raises:
        RequestError: no energies, not a list of numbers, or one outside the range.
    """
    try:
        values = np.asarray(energy, dtype=np.float32)
    except (TypeError, ValueError):
        raise RequestError("energies are not a list of numbers; give GeV") from None
    if values.ndim != 1 or len(values) == 0:
        raise RequestError(f"energies have shape {values.shape}; expected a list of at least one number, in GeV")
    bad = ~((values >= allowed.low) & (values <= allowed.high))  # also catches NaN
    if bad.any():
        which = int(np.argmax(bad))
        raise RequestError(
            f"energy {values[which]:g} GeV (number {which}) is outside the range this model was trained for, "
            f"{allowed.low:g} to {allowed.high:g} GeV"
        )
    return values
