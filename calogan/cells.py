"""The cells of a shower of `lean`, drawn around what the network expects of them: compiled, in one pass per shower.

`networks.lean.Lean.finish` is the same calculation in Keras, differentiable and for every cell. Here only the cells
that are hit, one in ten, are drawn, and a shower stays in the cache of the core from its logits to its energies.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numba
import numpy as np
from numpy.typing import NDArray

from calogan.errors import ModelError
from calogan.geometry import CLIC
from calogan.networks import compound_poisson as law
from calogan.networks import lean

Floats: TypeAlias = NDArray[np.float32]
Draw: TypeAlias = Callable[[NDArray[Any], float, Floats, NDArray[np.uint16], int, Floats], None]

_CELLS, _LAYERS = CLIC.shape[0] * CLIC.shape[1] * CLIC.shape[2], CLIC.layers
_CENTRE = (CLIC.entry_cell[0] * CLIC.shape[1] + CLIC.entry_cell[1]) * _LAYERS
_STRIPE = 16 * _LAYERS  # a whole number of layers and of vector registers
_GROUP = 8  # cells whose flags fit into one 64-bit word
_UNIFORM = 2**16  # values a random number of a cell can have

# The compiler takes module constants for what they are: float32, so that nothing is widened to float64.
_f = np.float32
_LOGIT_MIN, _LOGIT_MAX, _RATE_MIN = _f(-87), _f(lean.LOGIT_MAX), _f(lean.RATE_MIN)
_LOG_RATE_MIN, _LOG_RATE_MAX = _f(law.LOG_RATE_MIN), _f(law.LOG_RATE_MAX)
_ROWS = _f((law.LOG_RATE_STEPS - 1) / (law.LOG_RATE_MAX - law.LOG_RATE_MIN))
_LAST_ROW, _LAST_COLUMN = law.LOG_RATE_STEPS - 2, law.NORMAL_STEPS - 2
_THRESHOLD = _f(CLIC.threshold_gev)
_PER_LN2, _LN2_HIGH, _LN2_LOW = _f(1 / math.log(2)), _f(0.693359375), _f(math.log(2) - 0.693359375)


@dataclass(frozen=True, eq=False)
class CellTables:
    """What is to be known of the cells, in the order of the network's outputs.

    Attributes:
        template: logarithm of each cell's mean share of its layer, shape (15625,).
        quantum: mean deposit of one crossing, shape (15625,), GeV.
        place: where the cell is in a shower, flattened as (x, y, z), shape (15625,).
        quantiles: see `compound_poisson.quantile_table`.
    """

    template: Floats
    quantum: Floats
    place: NDArray[np.int32]
    quantiles: Floats


def tables(model: lean.Lean) -> CellTables:
    """The tables of a trained generator."""
    return CellTables(
        template=lean.to_blocks(np.asarray(model.template)).reshape(-1),
        quantum=lean.to_blocks(np.asarray(model.quantum())).reshape(-1),
        place=lean.to_blocks(np.arange(_CELLS, dtype=np.int32).reshape(CLIC.shape)).reshape(-1),
        quantiles=law.quantile_table(),
    )


def write(path: Path, found: CellTables) -> None:
    """Write tables as a file of plain arrays; the same tables give the same bytes."""
    np.savez(path, **vars(found))


def read(path: Path) -> CellTables:
    """Read tables.

    Raises:
        ModelError: the file does not hold them.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return CellTables(**arrays)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise ModelError(f"{path}: holds no tables of cells ({error}); make the model again") from error


def drawer(found: CellTables) -> Draw:
    """Make the function that draws cells.

    Returns:
        draw(logits, step, layer_energies, bits, first, showers): logits, float32 or int8, shape (n, 15625), in the order
        of the network, and what to multiply them by; energies of the layers, shape (n, 25), GeV; random numbers, 0 to
        65535, shape (n, k), of which those from column `first` on are used; showers, shape (n, 15625), GeV, are
        written. It holds no lock of the interpreter.
    """
    uniform = (np.arange(_UNIFORM) + 0.5) / _UNIFORM
    column = (np.clip(law.normal_table(), -law.NORMAL_MAX, law.NORMAL_MAX) + law.NORMAL_MAX) * (
        (law.NORMAL_STEPS - 1) / (2 * law.NORMAL_MAX)
    )
    # By random number: the rate above which the cell is hit, 1 - exp(-rate) > 1 - u, and its column of the quantiles.
    chances = np.stack([-np.log(uniform), column], axis=1).astype(np.float32)
    constants = (found.template, found.quantum, 1 / found.quantum, found.place, found.quantiles, chances)

    def draw(
        logits: NDArray[Any], step: float, layer_energies: Floats, bits: NDArray[np.uint16], first: int, showers: Floats
    ) -> None:
        _draw(logits, _f(step), layer_energies, bits, first, showers, *constants)

    return draw


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiler(function, cache=True)
    except RuntimeError:  # there is no folder it may keep compiled code in
        return compiler(function)


@_compiled
def _exp(x: Any) -> Any:
    """exp(x) to float32 rounding: 2^n times the Taylor series of the rest, which is within +-log(2)/2."""
    n = np.floor(x * _PER_LN2 + _f(0.5))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = _f(1 / 720)
    for factor in (_f(1 / 120), _f(1 / 24), _f(1 / 6), _f(0.5), _f(1), _f(1)):
        series = series * r + factor
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compiled
def _weigh(logits: Any, step: Any, template: Any, weights: Any, sums: Any, stripe: Any) -> None:
    """Weights of the cells, before they are normalised, and their sum in each layer."""
    for i in range(_CELLS):
        weights[i] = _exp(max(min(_f(logits[i]) * step + template[i], _LOGIT_MAX), _LOGIT_MIN))
    stripe[:] = 0
    for base in range(0, _CELLS, _STRIPE):
        for j in range(min(_STRIPE, _CELLS - base)):
            stripe[j] += weights[base + j]
    sums[:] = 0
    for j in range(_STRIPE):
        sums[j % _LAYERS] += stripe[j]


@_compiled
def _select(weights: Any, factors: Any, per_quantum: Any, bits: Any, stripe: Any, flags: Any, hit: Any) -> int:
    """Turn weights into rates, and list the cells that may be hit: a few more than will be; returns how many."""
    for j in range(_STRIPE):
        stripe[j] = factors[j % _LAYERS]
    for base in range(0, _CELLS, _STRIPE):
        for j in range(min(_STRIPE, _CELLS - base)):
            i = base + j
            rate = weights[i] * stripe[j] * per_quantum[i] + _RATE_MIN
            weights[i] = rate
            # 1 - exp(-rate) < rate: whatever fails this is not hit, and no exponential is needed to know.
            flags[i] = rate * _f(_UNIFORM) + _f(bits[i]) > _f(_UNIFORM - 1)
    found = 0
    groups = flags.view(np.uint64)
    for group in range(len(groups)):
        if groups[group]:
            for i in range(_GROUP * group, _GROUP * (group + 1)):
                hit[found] = i
                found += flags[i]
    return found


@_compiled
def _fluctuate(
    rates: Any, hit: Any, bits: Any, quantum: Any, quantiles: Any, chances: Any, out: Any, sums: Any
) -> None:
    """Energies of the listed cells, read from the quantiles of the compound Poisson law, and their sum in each layer."""
    sums[:] = 0
    for j in range(len(hit)):
        i = hit[j]
        rate, bit = rates[i], bits[i]
        out[j] = 0
        if rate <= chances[bit, 0]:
            continue
        row = (min(max(_f(math.log(rate)), _LOG_RATE_MIN), _LOG_RATE_MAX) - _LOG_RATE_MIN) * _ROWS
        column = chances[bit, 1]
        r, c = min(int(row), _LAST_ROW), min(int(column), _LAST_COLUMN)
        v, w = row - _f(r), column - _f(c)
        low = quantiles[r, c] * (_f(1) - w) + quantiles[r, c + 1] * w
        high = quantiles[r + 1, c] * (_f(1) - w) + quantiles[r + 1, c + 1] * w
        out[j] = max(low * (_f(1) - v) + high * v, _f(0)) * (_f(1) + rate) * quantum[i]
        sums[i % _LAYERS] += out[j]


@_compiled
def _draw(
    logits: Any, step: Any, layer_energies: Any, bits: Any, first: int, showers: Any,
    template: Any, quantum: Any, per_quantum: Any, place: Any, quantiles: Any, chances: Any,
) -> None:  # fmt: skip
    weights, stripe = np.empty(_CELLS, np.float32), np.empty(_STRIPE, np.float32)
    sums, factors = np.empty(_LAYERS, np.float32), np.empty(_LAYERS, np.float32)
    flags = np.zeros(-(-_CELLS // _GROUP) * _GROUP, np.uint8)
    hit, energy = np.empty(len(flags) + 1, np.int32), np.empty(_CELLS, np.float32)
    for s in range(len(showers)):
        numbers, shower, wanted = bits[s, first : first + _CELLS], showers[s], layer_energies[s]
        _weigh(logits[s], step, template, weights, sums, stripe)
        for layer in range(_LAYERS):
            factors[layer] = wanted[layer] / sums[layer]
        found = _select(weights, factors, per_quantum, numbers, stripe, flags, hit)
        _fluctuate(weights, hit[:found], numbers, quantum, quantiles, chances, energy, sums)
        shower[:] = 0
        for layer in range(_LAYERS):
            factors[layer] = wanted[layer] / sums[layer] if sums[layer] > 0 else _f(0)
            if sums[layer] <= 0 and wanted[layer] >= _THRESHOLD:
                shower[_CENTRE + layer] = wanted[layer]  # no cell was hit: the central one has it all
        for j in range(found):
            value = energy[j] * factors[hit[j] % _LAYERS]
            if value >= _THRESHOLD:
                shower[place[hit[j]]] = value
