"""The cells of `lean` showers, drawn around their expected energies by compiled code, in one pass per shower.

`networks.lean.Lean.finish` is the same calculation in Keras, differentiable and for every cell. Here only the cells
that are hit, one in ten, are drawn, and a shower stays in the cache of the core from its logits to its energies.
"""

import functools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calogan.generation.cell_tables import LAYERS, ROW, TAIL_BITS, TAIL_OCTAVES, CellTables, Floats, constants
from calogan.generation.compiled import compiled, exp
from calogan.geometry import CELLS, CLIC
from calogan.networks import compound_poisson as law
from calogan.networks import lean

# offsets of the showers, cells of their hits, energies of their hits: see `events.Hits`
Arrays: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint16], Floats]
Draw: TypeAlias = Callable[[NDArray[Any], float, Floats, NDArray[np.uint16], int], Arrays]

_CELLS, _LAYERS, _ROW = CELLS, LAYERS, ROW
_CENTRE = (CLIC.entry_cell[0] * CLIC.shape[1] + CLIC.entry_cell[1]) * _LAYERS
_STRIPE = 16 * _LAYERS  # a multiple of both the number of layers and the width of a vector register
_ROOM = 2  # showers of which every cell fits into the first arrays of hits
_GROUP = 8  # cells whose flags fit into one 64-bit word
_SPACE = _CELLS + 1  # a list of cells is written one place further than it gets
_UNIT, _PER_UNIT = 2**16, np.float32(2.0**-16)  # values of a random number

# The compiler keeps the type of module constants: float32 here, so that no calculation is widened to float64.
_f = np.float32
_LOGIT_MAX, _RATE_MIN = _f(lean.LOGIT_MAX), _f(lean.RATE_MIN)
_RATE_LOW, _RATE_HIGH = _f(law.RATES[0]), _f(law.RATES[-1])
_FIRST_BITS, _ROWS = np.int32(_RATE_LOW.view(np.int32)), _f(law.PER_OCTAVE * 2.0**-23)
_LAST_BITS = np.int32(_RATE_HIGH.view(np.int32))
_LAST_ROW, _LAST_COLUMN = np.int32(len(law.RATES) - 2), np.int32(law.NORMAL_STEPS - 2)
_WIDTH = np.int32(law.NORMAL_STEPS)
# d row / d log(rate), in the middle of an octave: the rows are linear in the rate between powers of two.
_PER_ROW = _f(law.PER_OCTAVE / math.log(2))
_NORMAL_MAX, _NORMALS = _f(law.NORMAL_MAX), _f((law.NORMAL_STEPS - 1) / (2 * law.NORMAL_MAX))
_BY_CROSSINGS, _FACTOR_MIN, _FACTOR_MAX = _f(lean.BY_CROSSINGS), _f(lean.FACTOR_MIN), _f(lean.FACTOR_MAX)
# The upper two bits of a random number give a direction, the others decide whether a track goes there.
_QUARTER_BITS = 14
_QUARTER = np.int64(2**_QUARTER_BITS - 1)
_SHARED = _f(4 * lean.SHARED * 2**_QUARTER_BITS)
_FINE, _DIRECTION, _DEPOSIT = lean.FINE, lean.DIRECTION, lean.DEPOSIT
_THRESHOLD = _f(CLIC.threshold_gev)

# A cell is hit if its random number is below 1 - exp(-rate) < rate / (1 + rate / 2). The rate may still rise.
_MAY_BE_HIT, _HALF_AS_MUCH = _f(lean.FACTOR_MAX), _f(lean.FACTOR_MAX / 2)

# Table of the normal deviates of small probabilities, evenly spaced in the bits of a float.
_TAIL_FIRST = np.int32(np.float32(2.0**-TAIL_OCTAVES).view(np.int32))
_TAIL_LEAST = _f(2.0**-TAIL_OCTAVES)
_TAIL_SHIFT = np.int32(23 - TAIL_BITS)
_TAIL_MASK, _TAIL_STEP = np.int32(2 ** (23 - TAIL_BITS) - 1), _f(2.0 ** (TAIL_BITS - 23))


def drawer(cells: CellTables) -> Draw:
    """Make the function that draws cells.

    Returns:
        draw(logits, step, layer_energies, bits, first), with the arguments of `_draw`; it returns the hits, see
        `events.Hits`, and releases the lock of the interpreter (GIL).
    """
    arrays = tuple(vars(constants(cells)).values())

    def draw(logits: NDArray[Any], step: float, layer_energies: Floats, bits: NDArray[np.uint16], first: int) -> Arrays:
        arguments = (logits, _f(step), layer_energies, bits, first, *arrays)
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


@compiled
def _weigh(logits: Any, step: Any, weight_of: Any, quantum: Any, weights: Any, sums: Any, stripe: Any) -> None:
    """Write exp(logit + template) / quantum of the cells, shape (15625,), and the sum of exp(logit + template) in each layer."""
    for i in range(_CELLS):
        weights[i] = exp(max(min(_f(logits[i]) * step, _LOGIT_MAX), -_LOGIT_MAX)) * weight_of[i]
    stripe[:] = 0
    for base in range(0, _CELLS, _STRIPE):
        for j in range(min(_STRIPE, _CELLS - base)):
            stripe[j] += weights[base + j] * quantum[base + j]
    sums[:] = 0
    for j in range(0, _STRIPE, _LAYERS):
        for layer in range(_LAYERS):
            sums[layer] += stripe[j + layer]


@compiled
def _flag(rates: Any, factors: Any, bits: Any, stripe: Any, flags: Any) -> None:
    """Multiply the weights of each layer by its factor, which gives the rates, and flag the cells that may be hit."""
    for j in range(0, _STRIPE, _LAYERS):
        for layer in range(_LAYERS):
            stripe[j + layer] = factors[layer]
    for base in range(0, _CELLS, _STRIPE):
        for j in range(min(_STRIPE, _CELLS - base)):
            rates[base + j] = rates[base + j] * stripe[j] + _RATE_MIN
    for i in range(_CELLS):
        flags[i] = _f(bits[i]) * _PER_UNIT * (_f(1) + rates[i] * _HALF_AS_MUCH) < rates[i] * _MAY_BE_HIT


@compiled
def _list(flags: Any, listed: Any) -> int:
    """List the flagged cells in order; returns their number."""
    count = 0
    groups = flags.view(np.uint64)
    for group in range(len(groups)):
        if groups[group]:
            for i in range(_GROUP * group, _GROUP * (group + 1)):
                listed[count] = i
                count += flags[i]
    return count


@compiled
def _find_rows(listed: Any, starts: Any) -> None:
    """Write where the cells of each row of a block, `_ROW` consecutive ones, start in the list."""
    starts[0] = 0
    for row in range(1, len(starts)):
        low, high = starts[row - 1], np.int32(min(starts[row - 1] + _ROW, len(listed)))
        while low < high:
            middle = (low + high) >> np.int32(1)
            if listed[middle] < row * _ROW:
                low = middle + np.int32(1)
            else:
                high = middle
        starts[row] = low


@compiled
def _wrap(i: Any) -> Any:
    """The place of a random number, counted on from the first after the last."""
    return i - _CELLS if i >= _CELLS else i


@compiled
def _deviates(tails: Any, table: Any, small: Any, normals: Any) -> None:
    """Write the normal deviates with these upper tails, between 0 and 1."""
    for j in range(len(tails)):
        small[j] = max(min(tails[j], _f(1) - tails[j]), _TAIL_LEAST)
    binary = small.view(np.int32)
    for j in range(len(tails)):
        place = binary[j] - _TAIL_FIRST
        k, rest = place >> _TAIL_SHIFT, _f(place & _TAIL_MASK) * _TAIL_STEP
        normal = table[k] + (table[k + 1] - table[k]) * rest
        normals[j] = normal if tails[j] < _f(0.5) else -normal


@compiled
def _collect(
    listed: Any, bits: Any, rates: Any, quantum: Any, layer_of: Any, tails: Any, rate: Any, unit: Any, layers: Any
) -> None:
    """Copy what drawing the listed cells needs; `tails` are uniform numbers, of 32 bits."""
    for j in range(len(listed)):
        i = listed[j]
        layers[j] = layer_of[i]
        tails[j] = (_f(bits[i]) + (_f(bits[_wrap(i + _FINE)]) + _f(0.5)) * _PER_UNIT) * _PER_UNIT
        rate[j], unit[j] = rates[i], quantum[i]


@compiled
def _locate(rate: Any, normals: Any, corners: Any, v: Any, w: Any) -> None:
    """Write the places of rates and normal deviates in the table of quantiles: corners of its cells, and fractions."""
    binary = rate.view(np.int32)
    for j in range(len(rate)):
        # The rows are evenly spaced in the bits of a float: a logarithm that is linear between the powers of two.
        row = _f(min(max(binary[j], _FIRST_BITS), _LAST_BITS) - _FIRST_BITS) * _ROWS
        column = (min(max(normals[j], -_NORMAL_MAX), _NORMAL_MAX) + _NORMAL_MAX) * _NORMALS
        r, c = min(np.int32(row), _LAST_ROW), min(np.int32(column), _LAST_COLUMN)
        v[j], w[j], corners[j] = row - _f(r), column - _f(c), r * _WIDTH + c


@compiled
def _fluctuate(rate: Any, unit: Any, corners: Any, v: Any, w: Any, quantiles: Any, value: Any, slope: Any) -> None:
    """Draw the energies of the listed cells.

    Writes quantiles of the compound Poisson law, GeV, which are negative where a cell is not hit, and how they grow with the
    logarithm of the rate.
    """
    for j in range(len(rate)):
        k = corners[j]
        low = quantiles[k] + (quantiles[k + 1] - quantiles[k]) * w[j]
        high = quantiles[k + _WIDTH] + (quantiles[k + _WIDTH + 1] - quantiles[k + _WIDTH]) * w[j]
        here, scale = low + (high - low) * v[j], (_f(1) + rate[j]) * unit[j]
        value[j] = here * scale
        slope[j] = (high - low) * scale * _PER_ROW + here * rate[j] * unit[j]


@compiled
def _share(
    listed: Any, layers: Any, value: Any, rate: Any, unit: Any, bits: Any, neighbours: Any,
    energy: Any, flags: Any, shared: Any,
) -> None:  # fmt: skip
    """Let some tracks cross a neighbouring cell too: flag it, and write the energy there and the sum of each layer."""
    shared[:] = 0
    for j in range(len(listed)):
        draw = bits[_wrap(listed[j] + _DIRECTION)]
        track = value[j] / (_f(1) + rate[j])  # GeV
        if _f(draw & _QUARTER) * unit[j] < track * _SHARED:
            layer = layers[j]
            i = neighbours[draw >> _QUARTER_BITS, (listed[j] - layer) // _LAYERS] + layer
            deposit = track * (_f(bits[_wrap(i + _DEPOSIT)]) + _f(0.5)) * _PER_UNIT
            energy[i] += deposit
            flags[i] = 1
            shared[layer] += deposit


@compiled
def _correct(
    listed: Any, layers: Any, value: Any, slope: Any, target: Any, shared: Any, sums: Any, factors: Any, energy: Any
) -> None:
    """Move the rates of layers with too much or too little energy, and write the energies of the cells and their sums."""
    sums[:] = shared
    for j in range(len(listed)):
        sums[layers[j]] += max(value[j], _f(0))
    for layer in range(_LAYERS):
        excess = sums[layer] / max(target[layer], _f(1e-9)) - _f(1)
        factors[layer] = max(min(_f(1) - _BY_CROSSINGS * excess, _FACTOR_MAX), _FACTOR_MIN) - _f(1)
    sums[:] = shared
    for j in range(len(listed)):
        moved = max(value[j] + slope[j] * factors[layers[j]], _f(0))
        energy[listed[j]] += moved
        sums[layers[j]] += moved


@compiled
def _finish(
    listed: Any, starts: Any, rows: Any, layer_of: Any, cell_of: Any, energy: Any, target: Any, sums: Any, factors: Any,
    cell: Any, cell_energy: Any,
) -> int:  # fmt: skip
    """Write the hits of a shower, scaled so that each layer sums to its target energy; returns their number.

    Sets the energies of the listed cells back to 0.
    """
    for layer in range(_LAYERS):
        factors[layer] = target[layer] / sums[layer] if sums[layer] > 0 else _f(0)
    count = 0
    for row in rows:
        for j in range(starts[row], starts[row + 1]):
            i = listed[j]
            cell[count], cell_energy[count] = cell_of[i], energy[i] * factors[layer_of[i]]
            count += cell_energy[count] >= _THRESHOLD
            energy[i] = 0
    for layer in range(_LAYERS):
        if sums[layer] <= 0 and target[layer] >= _THRESHOLD:  # no cell is hit: the central one gets all the energy
            place = count
            while place > 0 and cell[place - 1] > _CENTRE + layer:
                cell[place], cell_energy[place] = cell[place - 1], cell_energy[place - 1]
                place -= 1
            cell[place], cell_energy[place] = _CENTRE + layer, target[layer]
            count += 1
    return count


@compiled
def _longer(array: Any, filled: int) -> Any:
    """A copy of the filled part of an array, with as much room again, and for one more shower."""
    longer = np.empty(2 * filled + _SPACE, array.dtype)
    longer[:filled] = array[:filled]
    return longer


@compiled
def fill(offsets: Any, cell: Any, cell_energy: Any, showers: Any) -> None:
    """Write the cells of showers, shape (n, 15625), from their hits."""
    for s in range(len(showers)):
        shower = showers[s]
        shower[:] = 0
        for j in range(offsets[s], offsets[s + 1]):
            shower[cell[j]] = cell_energy[j]


@compiled
def _draw_shower(
    target: Any, bits: Any, rates: Any, sums: Any, workspace: Any,
    quantum: Any, layer_of: Any, cell_of: Any, rows: Any, neighbours: Any, quantiles: Any, deviates: Any,
    cell: Any, cell_energy: Any,
) -> Any:  # fmt: skip
    """Draw the hits of one shower from what `_weigh` wrote, and write them; returns their number.

    `workspace` comes from `_workspace`; the energies in `target` are those of the layers, and the tables are those of
    `cell_tables.Constants`.
    """
    flags, energy, listed, layers, starts, floats, corners, stripe, factors, shared = workspace
    for layer in range(_LAYERS):
        factors[layer] = target[layer] / sums[layer]
    _flag(rates, factors, bits, stripe, flags)
    n = _list(flags, listed)
    tails, rate, unit, normals = floats[0, :n], floats[1, :n], floats[2, :n], floats[3, :n]
    v, w, value, slope = floats[4, :n], floats[5, :n], floats[6, :n], floats[7, :n]
    _collect(listed[:n], bits, rates, quantum, layer_of, tails, rate, unit, layers)
    _deviates(tails, deviates, v, normals)
    _locate(rate, normals, corners[:n], v, w)
    _fluctuate(rate, unit, corners[:n], v, w, quantiles, value, slope)
    _share(listed[:n], layers[:n], value, rate, unit, bits, neighbours, energy, flags, shared)
    _correct(listed[:n], layers[:n], value, slope, target, shared, sums, factors, energy)
    n = _list(flags, listed)
    _find_rows(listed[:n], starts)
    return _finish(listed[:n], starts, rows, layer_of, cell_of, energy, target, sums, factors, cell, cell_energy)


@compiled
def _workspace() -> Any:
    """Arrays that are used again for each shower: flags, energies, lists, ..., in the order of `_draw_shower`."""
    flags, energy = np.zeros(-(-_CELLS // _GROUP) * _GROUP, np.uint8), np.zeros(_CELLS, np.float32)
    listed, layers = np.empty(len(flags) + 1, np.int32), np.empty(_CELLS, np.int32)
    starts, corners = np.empty(_CELLS // _ROW + 1, np.int32), np.empty(_CELLS, np.int32)
    floats, stripe = np.empty((8, _CELLS), np.float32), np.empty(_STRIPE, np.float32)
    factors, shared = np.empty(_LAYERS, np.float32), np.empty(_LAYERS, np.float32)
    return flags, energy, listed, layers, starts, floats, corners, stripe, factors, shared


@compiled
def _draw(
    logits: Any, step: Any, layer_energies: Any, bits: Any, first: int,
    weight_of: Any, quantum: Any, layer_of: Any, cell_of: Any, rows: Any, neighbours: Any, quantiles: Any, deviates: Any,
) -> Any:  # fmt: skip
    """Draw the hits of showers from the output of the network; the hottest function of the package.

    For each shower:

    1. A softmax within each layer turns the logits into expected energies, which divided by the quantum are the rates,
       the expected numbers of crossings (`_weigh`, `_flag`).
    2. The cells that may be hit are listed (`_list`), and their energies drawn (`_collect` to `_fluctuate`).
    3. Some tracks cross a neighbouring cell as well (`_share`).
    4. The rates of a layer with too much or too little energy are corrected, to first order (`_correct`).
    5. Each layer is scaled to its energy; if no cell of it is hit, the central cell gets the energy. Cells below the
       read-out threshold are no hits (`_finish`).

    Args:
        logits: output of the network, float32 or int8, shape (n, 15625), in the order of `lean.to_blocks`.
        step: factor on the logits: the width of a quantization step for int8, 1 for float32.
        layer_energies: energy of each layer, float32, shape (n, 25), GeV.
        bits: uniform random numbers, uint16, shape (n, k) with k >= first + 15625.
        first: column of `bits` with the number of the first cell; the others follow in the order of the network.
        weight_of: see `cell_tables.Constants`, as all that follow.
        quantum: mean deposits.
        layer_of: layers.
        cell_of: numbers of the cells.
        rows: order of the rows.
        neighbours: columns beside each column.
        quantiles: of the compound Poisson law.
        deviates: normal deviates of upper tails.

    Returns:
        `offsets`, `cell` and `cell_energy` of `events.Hits`.
    """
    rates, sums, stripe = np.empty(_CELLS, np.float32), np.empty(_LAYERS, np.float32), np.empty(_STRIPE, np.float32)
    workspace = _workspace()
    offsets = np.zeros(len(logits) + 1, np.int64)
    cell, cell_energy = np.empty(_ROOM * _CELLS, np.uint16), np.empty(_ROOM * _CELLS, np.float32)
    for s in range(len(logits)):
        filled = offsets[s]
        if filled + _SPACE > len(cell):
            cell, cell_energy = _longer(cell, filled), _longer(cell_energy, filled)
        _weigh(logits[s], step, weight_of, quantum, rates, sums, stripe)
        offsets[s + 1] = filled + _draw_shower(
            layer_energies[s], bits[s, first : first + _CELLS], rates, sums, workspace,
            quantum, layer_of, cell_of, rows, neighbours, quantiles, deviates, cell[filled:], cell_energy[filled:],
        )  # fmt: skip
    return offsets, cell[: offsets[-1]], cell_energy[: offsets[-1]]
