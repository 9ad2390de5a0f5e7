"""Electron showers from the Grindhammer-Peters parametrisation of sampling calorimeters.

A shower is a gamma-shaped longitudinal profile whose depth and shape fluctuate, filled with energy
spots whose distance from the axis follows a core and a tail. It is a thousand times faster than
Geant4, right in its averages and only roughly right in its fluctuations: the baseline that a generator
network has to beat. `profiles` has the formulas; this module draws showers from them.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from calogan.errors import RequestError
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.simulation.medium import THIN
from calogan.simulation.profiles import (
    TUNED,
    Float,
    Tuning,
    deposits,
    longitudinal_profile,
    mean_spots,
    onset_tracks,
    radial_profile,
)

MIN_ENERGY_GEV, MAX_ENERGY_GEV = 0.5, 1000.0

# Showers per chunk, so that the spots fit into the cache. The results do not depend on it.
_CHUNK_SHOWERS, _CHUNK_GEV = 128, 2000.0


def simulate(
    energy: NDArray[np.float32],
    *,
    seed: int,
    first: int = 0,
    tuning: Tuning = TUNED,
    progress: Callable[[int], None] | None = None,
) -> Events:
    """Simulate one shower for each energy.

    Every bit of a shower depends on the seed, its energy and its index only, so a long request can be divided:
    `simulate(e, seed=1)[40:90]` equals `simulate(e[40:90], seed=1, first=40)`.

    Args:
        energy: energy of each primary electron, shape (n,), GeV.
        seed: seed of the showers, not negative.
        first: index of the first shower.
        tuning: the fitted constants; `PUBLISHED` gives the formulas of the paper.
        progress: called from time to time with the number of showers finished since the last call.

    Raises:
        RequestError: an energy is outside the range of the parametrisation, or seed or first is out of range.
    """
    energy = np.asarray(energy, dtype=np.float32)
    _check(energy, seed, first)
    showers = np.zeros((len(energy), *CLIC.shape), dtype=np.float32)
    for part in _chunks(energy):
        _fill(showers[part], energy[part].astype(np.float64)[:, None], seed, first + part.start, tuning)
        if progress is not None:
            progress(part.stop - part.start)
    return Events(showers, energy)


def _check(energy: NDArray[np.float32], seed: int, first: int) -> None:
    if energy.ndim != 1:
        raise RequestError(f"energies have shape {energy.shape}; expected (n,), one number for each shower")
    outside = ~((energy >= MIN_ENERGY_GEV) & (energy <= MAX_ENERGY_GEV))
    if outside.any():
        raise RequestError(
            f"energy {energy[outside][0]} GeV is outside the range of the parametrisation; "
            f"ask for {MIN_ENERGY_GEV:g} to {MAX_ENERGY_GEV:g} GeV"
        )
    if seed < 0:
        raise RequestError(f"seed {seed} is negative; give a whole number of at least 0")
    if not 0 <= first < 2**63 - len(energy):
        raise RequestError(f"the index of the first shower is {first}; give a whole number from 0 to below 2^63")


def _chunks(energy: NDArray[np.float32]) -> Iterator[slice]:
    ends = np.cumsum(energy, dtype=np.float64)
    start = 0
    while start < len(energy):
        offset = ends[start - 1] if start else 0.0
        stop = int(np.searchsorted(ends, offset + _CHUNK_GEV))
        stop = min(max(stop, start + 1), start + _CHUNK_SHOWERS, len(energy))
        yield slice(start, stop)
        start = stop


def _fill(cells: NDArray[np.float32], gev: Float, seed: int, first: int, tuning: Tuning) -> None:
    """Write the showers of energies gev, shape (n, 1), into cells, shape (n, 25, 25, 25), which must be 0."""
    uniform = _uniform(len(gev), seed, first)
    ln_y = np.log(gev * 1000 / THIN.critical_energy)  # y = E/Ec
    profile = longitudinal_profile(ln_y, uniform[:, 0:1], uniform[:, 1:2], tuning)
    onset = onset_tracks(profile, uniform[:, 2:3], tuning)
    # Randomised rounding keeps the mean number of spots. A layer needs at least one spot to hold its energy.
    spots = np.maximum(mean_spots(gev, profile, tuning) + onset + uniform[:, 3:], 1).astype(np.int64)
    mean, variance = deposits(gev, profile, onset, tuning)
    scale = np.maximum(variance, 1e-30) / np.maximum(mean, 1e-30)
    variates, words = _throw(mean / scale, spots.sum(axis=1), seed, first)
    _scatter(cells, spots, radial_profile(gev, profile, tuning), scale * variates, words)
    cells *= cells >= CLIC.threshold_gev


def _uniform(n: int, seed: int, first: int) -> Float:
    """Draw numbers in (0, 1): 3 for each shower as a whole and one for each layer, shape (n, 3 + layers)."""
    numbers = 3 + CLIC.layers
    bits = np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=(0,)))
    bits.advance(numbers * first)
    return np.maximum(np.random.Generator(bits).random((n, numbers)), 1e-16)


def _throw(shape: Float, spots: NDArray[np.int64], seed: int, first: int) -> tuple[Float, NDArray[np.uint64]]:
    """Draw the numbers that use a variable amount of random bits: shower k starts at position k 2^64 of one sequence.

    Args:
        shape: shape parameter of a gamma variate for each layer, shape (n, layers).
        spots: number of spots in each shower, shape (n,).
        seed: seed of the random sequence.
        first: index of the first shower.

    Returns:
        The gamma variates and 64 random bits for each spot, shape (spots,).
    """
    bits = np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=(1,)))
    rng, start = np.random.Generator(bits), bits.state
    gamma, words = np.empty_like(shape), []
    for k, number in enumerate(spots.tolist()):
        bits.state = start
        bits.advance((first + k) << 64)
        gamma[k] = rng.standard_gamma(shape[k])
        words.append(bits.random_raw(number))
    return gamma, np.concatenate(words)


def _scatter(
    cells: NDArray[np.float32],
    spots: NDArray[np.int64],
    radial: tuple[Float, Float, Float],
    visible: Float,
    words: NDArray[np.uint64],
) -> None:
    """Place the spots of each layer at random and add them to the cells.

    Args:
        cells: energy of each cell, shape (n, 25, 25, 25), GeV.
        spots: number of spots, shape (n, layers).
        radial: radius R of core and tail (mm) and weight of the core, each of shape (n, layers).
        visible: energy of each layer, shape (n, layers), GeV; the energy of spots off the grid is lost.
        words: 64 random bits for each spot, shape (spots,).
    """
    n, layers = visible.shape
    nx, ny, _ = CLIC.shape
    number = spots.ravel()

    def of_spots(values: Float) -> NDArray[np.float32]:
        return np.repeat(values.astype(np.float32).ravel(), number)

    # 24 bits for the distance, 16 for the angle, 16 for the energy: each finer than the read-out resolves.
    u = (words.view(np.uint32)[::2] >> 8) * np.float32(2**-24)
    phi = words.view(np.uint16)[2::4] * np.float32(2 * np.pi / 2**16)
    # Spots of equal energy would leave steps in the spectrum of cell energies; an exponential distribution does not.
    energy = -np.log((words.view(np.uint16)[3::4] + np.float32(0.5)) * np.float32(2**-16))

    # Inverse (GP Eq. 28) of the cumulative v = r^2/(r^2 + R^2) (Eq. 27): r = R sqrt(v/(1 - v)). One number u serves
    # to choose the component of Eq. 23 and v, which is u/w in the core and (u - w)/(1 - w) in the tail.
    core, tail, weight = radial
    w = of_spots(weight)
    in_core = (u < w).astype(np.float32)  # used as a factor: np.where suffers from branch mispredictions
    in_tail = 1 - in_core
    r = of_spots(core / CLIC.cell_mm) * in_core + of_spots(tail / CLIC.cell_mm) * in_tail
    r *= np.sqrt((u - w * in_tail) / (w * in_core + in_tail - u))
    x = r * np.cos(phi) + np.float32(CLIC.entry_cell[0] + 0.5)  # cells from the edge of the grid
    y = r * np.sin(phi) + np.float32(CLIC.entry_cell[1] + 0.5)

    energy *= of_spots(visible / np.add.reduceat(energy, np.cumsum(number) - number).reshape(visible.shape))
    energy *= (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    shower, layer = np.divmod(np.arange(n * layers), layers)
    cell = np.repeat(shower * (nx * ny * layers) + layer, number)
    cell += (_nearest_cell(x, nx) * ny + _nearest_cell(y, ny)) * layers
    np.add.at(cells.reshape(-1), cell, energy)


def _nearest_cell(position: NDArray[np.float32], cells: int) -> NDArray[np.int32]:
    """Return the cell that contains a position, or the nearest cell if it is off the grid."""
    return np.clip(position, 0, cells - 1).astype(np.int32)
