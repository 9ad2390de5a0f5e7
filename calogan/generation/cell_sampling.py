"""The cells of `lean` showers, drawn around their expected energies by compiled code, in one pass per shower.

`networks.lean.Lean.finish` is the same calculation in Keras, differentiable and for every cell. Here only the cells
that are hit, one in ten, are drawn, and a shower stays in the cache of the core from its logits to its energies.
"""

import functools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import special

from calogan.errors import ModelError
from calogan.geometry import CELLS, CLIC
from calogan.networks import compound_poisson as law
from calogan.networks import lean

Floats: TypeAlias = NDArray[np.float32]
# offsets of the showers, cells of their hits, energies of their hits: see `events.Hits`
Arrays: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint16], Floats]
Draw: TypeAlias = Callable[[NDArray[Any], float, Floats, NDArray[np.uint16], int], Arrays]

_CELLS, _LAYERS = CELLS, CLIC.layers
_COLUMNS = _CELLS // _LAYERS
_ROW = CLIC.shape[1] * _LAYERS  # cells of equal x
_CENTRE = (CLIC.entry_cell[0] * CLIC.shape[1] + CLIC.entry_cell[1]) * _LAYERS
_STRIPE = 16 * _LAYERS  # a multiple of both the number of layers and the width of a vector register
_ROOM = 2  # showers of which every cell fits into the first arrays of hits
_GROUP = 8  # cells whose flags fit into one 64-bit word
NORMAL_BITS = 12  # bits of a random number used for a cell: the table of their normal deviates fits into the L1 cache
_UNUSED_BITS = 16 - NORMAL_BITS

# The compiler keeps the type of module constants: float32 here, so that no calculation is widened to float64.
_f = np.float32
_LOGIT_MIN, _LOGIT_MAX, _RATE_MIN = _f(-87), _f(lean.LOGIT_MAX), _f(lean.RATE_MIN)
_RATE_LOW, _RATE_HIGH = _f(law.RATES[0]), _f(law.RATES[-1])
_FIRST_BITS, _ROWS = np.int32(_RATE_LOW.view(np.int32)), _f(law.PER_OCTAVE * 2.0**-23)
_LAST_BITS = np.int32(_RATE_HIGH.view(np.int32))
_LAST_ROW, _LAST_COLUMN = len(law.RATES) - 2, law.NORMAL_STEPS - 2
_NORMAL_MAX, _NORMALS = _f(law.NORMAL_MAX), _f((law.NORMAL_STEPS - 1) / (2 * law.NORMAL_MAX))
_OWN, _NEIGHBOUR = _f(lean.OWN), _f(lean.OWN * lean.NEIGHBOUR)
_BY_CROSSINGS, _FACTOR_MIN = _f(lean.BY_CROSSINGS), _f(lean.FACTOR_MIN)
_THRESHOLD = _f(CLIC.threshold_gev)
_PER_LN2, _LN2_HIGH, _LN2_LOW = _f(1 / math.log(2)), _f(0.693359375), _f(math.log(2) - 0.693359375)
_MANTISSA, _MANTISSA_SLACK = _f(2.0**-23), _f(127 - 0.087)

# A cell with normal deviate z is hit if its rate is above -log(Phi(z)). This cubic in z is a lower bound of the binary
# logarithm of that rate for |z| < 7, low by 0.1 on average where it matters; fitted by linear programming.
HIT_BOUND = (-0.531, -1.67508, -0.354912, -0.0319824)
_B0, _B1, _B2, _B3 = (_f(number) for number in HIT_BOUND)

_SHAPES = {
    "template": (_CELLS,),
    "quantum": (_CELLS,),
    "place": (_COLUMNS,),
    "quantiles": (len(law.RATES), law.NORMAL_STEPS),
}


@dataclass(frozen=True, eq=False)
class CellTables:
    """Constants of the cells, in the order of (x, y, z), z running fastest.

    Attributes:
        template: logarithm of each cell's mean share of its layer, shape (15625,).
        quantum: mean deposit of one crossing, shape (15625,), GeV.
        place: index of the first cell, in a shower, of each run of 25 outputs of the network, which are the layers of
            one column, shape (625,).
        quantiles: see `compound_poisson.Law`.
    """

    template: Floats
    quantum: Floats
    place: NDArray[np.int32]
    quantiles: Floats


def write(path: Path, arrays: CellTables) -> None:
    """Write tables as a file of plain arrays; the same tables give the same bytes."""
    np.savez(path, **vars(arrays))


def read(path: Path) -> CellTables:
    """Read tables.

    Raises:
        ModelError: the file does not contain such tables, or another version of calogan wrote it.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            cells = CellTables(**arrays)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise ModelError(f"{path}: contains no tables of cells ({error}); make the model again") from error
    shapes = {name: array.shape for name, array in vars(cells).items()}
    if shapes != _SHAPES:  # compiled code would read beyond the ends of the arrays
        raise ModelError(f"{path}: was written by another version of calogan; make the model again")
    return cells


def normals() -> Floats:
    """The standard normal deviate of each value of `NORMAL_BITS` random bits, shape (2^NORMAL_BITS,)."""
    return np.asarray(special.ndtri((np.arange(2**NORMAL_BITS) + 0.5) / 2**NORMAL_BITS), np.float32)


def drawer(cells: CellTables) -> Draw:
    """Make the function that draws cells.

    Returns:
        draw(logits, step, layer_energies, bits, first), with the arguments of `_draw`; it returns the hits, see
        `events.Hits`, and releases the lock of the interpreter (GIL).
    """
    constants = (cells.template, cells.quantum, 1 / cells.quantum, cells.place, cells.quantiles, normals())

    def draw(logits: NDArray[Any], step: float, layer_energies: Floats, bits: NDArray[np.uint16], first: int) -> Arrays:
        arguments = (logits, _f(step), layer_energies, bits, first, *constants)
        if threading.current_thread() is not threading.main_thread():
            return _unpacked(*arguments)
        # Python runs the handlers of signals in the main thread, also while numba makes the arrays of a result. If one
        # raises there, as Ctrl-C does, the interpreter crashes.
        return _apart().submit(_unpacked, *arguments).result()

    return draw


def _unpacked(*arguments: Any) -> Arrays:
    offsets, cell, cell_energy = _draw(*arguments)
    return offsets, cell, cell_energy


@functools.cache
def _apart() -> ThreadPoolExecutor:
    """The thread that draws for the main thread."""
    return ThreadPoolExecutor(1, thread_name_prefix="cells")


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiler(function, cache=True)
    except RuntimeError:  # no folder to cache compiled code in can be written to
        return compiler(function)


@_compiled
def _exp(x: Any) -> Any:
    """exp(x) to float32 rounding: 2^n times the Taylor series of the remainder, which is within +-log(2)/2."""
    n = np.floor(x * _PER_LN2 + _f(0.5))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = _f(1 / 720)
    for factor in (_f(1 / 120), _f(1 / 24), _f(1 / 6), _f(0.5), _f(1), _f(1)):
        series = series * r + factor
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compiled
def _weigh(logits: Any, step: Any, place: Any, template: Any, weights: Any, sums: Any, stripe: Any) -> None:
    """Write the weights exp(logit + template) of the cells, shape (15625,), and their sum in each layer, shape (25,)."""
    for column in range(_COLUMNS):
        start, here = column * _LAYERS, place[column]
        for k in range(_LAYERS):
            weights[here + k] = _f(logits[start + k]) * step
    for i in range(_CELLS):
        weights[i] = _exp(max(min(weights[i] + template[i], _LOGIT_MAX), _LOGIT_MIN))
    stripe[:] = 0
    for base in range(0, _CELLS, _STRIPE):
        for j in range(min(_STRIPE, _CELLS - base)):
            stripe[j] += weights[base + j]
    sums[:] = 0
    for j in range(_STRIPE):
        sums[j % _LAYERS] += stripe[j]


@_compiled
def _couple(bits: Any, normal_of: Any, padded: Any, normal: Any) -> None:
    """Write the correlated normal deviates of the cells, shape (15625,), see `Lean.couple`."""
    for i in range(_CELLS):
        padded[_ROW + i] = normal_of[bits[i] >> _UNUSED_BITS]
    for i in range(_ROW):
        padded[i] = padded[_CELLS + i]
        padded[_ROW + _CELLS + i] = padded[_ROW + i]
    for i in range(_CELLS):
        along_y = padded[_ROW + i - _LAYERS] + padded[_ROW + i + _LAYERS]
        normal[i] = _OWN * padded[_ROW + i] + _NEIGHBOUR * (along_y + (padded[i] + padded[i + 2 * _ROW]))


@_compiled
def _scale(rates: Any, factors: Any, stripe: Any) -> None:
    """Multiply the rates of each layer by its factor."""
    for j in range(_STRIPE):
        stripe[j] = factors[j % _LAYERS]
    for base in range(0, _CELLS, _STRIPE):
        for j in range(min(_STRIPE, _CELLS - base)):
            rates[base + j] *= stripe[j]


@_compiled
def _select(rates: Any, normal: Any, flags: Any, hit: Any) -> int:
    """List the cells that may be hit, which includes a few that are not; returns the length of the list."""
    binary = rates.view(np.int32)
    for i in range(_CELLS):
        z = normal[i]
        # The bits of a float approximate its binary logarithm, low by 0.086 at most.
        logarithm = _f(binary[i]) * _MANTISSA - _MANTISSA_SLACK
        flags[i] = logarithm > ((_B3 * z + _B2) * z + _B1) * z + _B0
    count = 0
    groups = flags.view(np.uint64)
    for group in range(len(groups)):
        if groups[group]:
            for i in range(_GROUP * group, _GROUP * (group + 1)):
                hit[count] = i
                count += flags[i]
    return count


@_compiled
def _fluctuate(rates: Any, hit: Any, normal: Any, quantum: Any, quantiles: Any, out: Any, sums: Any) -> None:
    """Write the energies of the listed cells, quantiles of the compound Poisson law, and their sum in each layer."""
    sums[:] = 0
    binary = rates.view(np.int32)
    for j in range(len(hit)):
        i = hit[j]
        rate = rates[i]
        # The rows are evenly spaced in the bits of a float: a logarithm that is linear between the powers of two.
        row = _f(min(max(binary[i], _FIRST_BITS), _LAST_BITS) - _FIRST_BITS) * _ROWS
        column = (min(max(normal[i], -_NORMAL_MAX), _NORMAL_MAX) + _NORMAL_MAX) * _NORMALS
        r, c = min(int(row), _LAST_ROW), min(int(column), _LAST_COLUMN)
        v, w = row - _f(r), column - _f(c)
        low = quantiles[r, c] * (_f(1) - w) + quantiles[r, c + 1] * w
        high = quantiles[r + 1, c] * (_f(1) - w) + quantiles[r + 1, c + 1] * w
        out[j] = max(low * (_f(1) - v) + high * v, _f(0)) * (_f(1) + rate) * quantum[i]
        sums[i % _LAYERS] += out[j]


@_compiled
def _correct(target: Any, sums: Any, factors: Any) -> None:
    """Write the factors on the rates of layers with too much or too little energy, as in `Lean.finish`."""
    for layer in range(_LAYERS):
        excess = sums[layer] / max(target[layer], _f(1e-9)) - _f(1)
        factors[layer] = max(_f(1) - _BY_CROSSINGS * excess, _FACTOR_MIN)


@_compiled
def _finish(hit: Any, energy: Any, target: Any, sums: Any, factors: Any, cell: Any, cell_energy: Any) -> int:
    """Write the hits of a shower, scaled so that each layer sums to its target energy; returns their number."""
    for layer in range(_LAYERS):
        factors[layer] = target[layer] / sums[layer] if sums[layer] > 0 else _f(0)
    count = 0
    for j in range(len(hit)):
        value = energy[j] * factors[hit[j] % _LAYERS]
        if value >= _THRESHOLD:
            cell[count], cell_energy[count] = hit[j], value
            count += 1
    for layer in range(_LAYERS):
        if sums[layer] <= 0 and target[layer] >= _THRESHOLD:  # no cell is hit: the central one gets all the energy
            place = count
            while place > 0 and cell[place - 1] > _CENTRE + layer:
                cell[place], cell_energy[place] = cell[place - 1], cell_energy[place - 1]
                place -= 1
            cell[place], cell_energy[place] = _CENTRE + layer, target[layer]
            count += 1
    return count


@_compiled
def _longer(array: Any, filled: int) -> Any:
    """A copy of the filled part of an array, with as much room again, and for one more shower."""
    longer = np.empty(2 * filled + _CELLS, array.dtype)
    longer[:filled] = array[:filled]
    return longer


@_compiled
def fill(offsets: Any, cell: Any, cell_energy: Any, showers: Any) -> None:
    """Write the cells of showers, shape (n, 15625), from their hits."""
    for s in range(len(showers)):
        shower = showers[s]
        shower[:] = 0
        for j in range(offsets[s], offsets[s + 1]):
            shower[cell[j]] = cell_energy[j]


@_compiled
def _draw(
    logits: Any, step: Any, layer_energies: Any, bits: Any, first: int,
    template: Any, quantum: Any, per_quantum: Any, place: Any, quantiles: Any,
    normal_of: Any,
) -> Any:  # fmt: skip
    """Draw the hits of showers from the output of the network; the hottest function of the package.

    For each shower:

    1. Random bits become normal deviates, correlated between neighbouring cells (`_couple`).
    2. A softmax within each layer turns the logits into expected energies, which divided by the quantum are the rates,
       the expected numbers of crossings (`_weigh`, `_scale`).
    3. The cells that may be hit are listed (`_select`), and their energies drawn (`_fluctuate`).
    4. The rates of a layer with too much or too little energy are corrected (`_correct`), and step 3 is repeated.
    5. Each layer is scaled to its energy; if no cell of it is hit, the central cell gets the energy. Cells below the
       read-out threshold are no hits (`_finish`).

    Args:
        logits: output of the network, float32 or int8, shape (n, 15625), in the order of `lean.to_blocks`.
        step: factor on the logits: the width of a quantization step for int8, 1 for float32.
        layer_energies: energy of each layer, float32, shape (n, 25), GeV.
        bits: uniform random numbers, uint16, shape (n, k) with k >= first + 15625.
        first: column of `bits` with the number of the first cell; the others follow in the order of (x, y, z).
        template: see `CellTables`.
        quantum: see `CellTables`.
        per_quantum: 1 / quantum, shape (15625,), 1/GeV.
        place: see `CellTables`.
        quantiles: see `compound_poisson.Law`.
        normal_of: see `normals`.

    Returns:
        `offsets`, `cell` and `cell_energy` of `events.Hits`.
    """
    rates, stripe = np.empty(_CELLS, np.float32), np.empty(_STRIPE, np.float32)
    padded, normal = np.empty(_CELLS + 2 * _ROW, np.float32), np.empty(_CELLS, np.float32)
    sums, factors = np.empty(_LAYERS, np.float32), np.empty(_LAYERS, np.float32)
    flags = np.zeros(-(-_CELLS // _GROUP) * _GROUP, np.uint8)
    hit, energy = np.empty(len(flags) + 1, np.int32), np.empty(_CELLS, np.float32)
    offsets = np.zeros(len(logits) + 1, np.int64)
    cell, cell_energy = np.empty(_ROOM * _CELLS, np.uint16), np.empty(_ROOM * _CELLS, np.float32)
    for s in range(len(logits)):
        target, filled = layer_energies[s], offsets[s]
        if filled + _CELLS > len(cell):
            cell, cell_energy = _longer(cell, filled), _longer(cell_energy, filled)
        _couple(bits[s, first : first + _CELLS], normal_of, padded, normal)
        _weigh(logits[s], step, place, template, rates, sums, stripe)
        for layer in range(_LAYERS):
            factors[layer] = target[layer] / sums[layer]
        _scale(rates, factors, stripe)
        for i in range(_CELLS):
            rates[i] = rates[i] * per_quantum[i] + _RATE_MIN
        count = _select(rates, normal, flags, hit)
        _fluctuate(rates, hit[:count], normal, quantum, quantiles, energy, sums)
        _correct(target, sums, factors)
        _scale(rates, factors, stripe)
        count = _select(rates, normal, flags, hit)
        _fluctuate(rates, hit[:count], normal, quantum, quantiles, energy, sums)
        count = _finish(hit[:count], energy, target, sums, factors, cell[filled:], cell_energy[filled:])
        offsets[s + 1] = filled + count
    return offsets, cell[: offsets[-1]], cell_energy[: offsets[-1]]
