"""Electron showers from the Grindhammer-Peters parametrisation of sampling calorimeters.

A shower is a gamma-shaped longitudinal profile whose depth and shape fluctuate, filled with energy
spots whose distance from the axis follows a core and a tail. It is a thousand times faster than
Geant4, right in its averages and only roughly right in its fluctuations: the peer that a generator
network has to beat.

Every formula is from G. Grindhammer and S. Peters, hep-ex/0001020 ("GP" below): their appendix A
lists the parameters, first for homogeneous media, then the changes for sampling calorimeters. What is
fitted to Geant4 instead is in `Tuning` and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from calogan.errors import RequestError
from calogan.events import Events
from calogan.geometry import CLIC

MIN_ENERGY_GEV, MAX_ENERGY_GEV = 0.5, 1000.0

# A block is what one random stream makes. The size is part of the results: another one gives other
# showers. It bounds memory (about 100 MB at 1 TeV) and lets the cells of a block stay in the cache.
BLOCK_SHOWERS = 32

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Tuning:
    """What is fitted to Geant4; the factors multiply the published formulas.

    Attributes:
        depth: factor on the depth of the shower maximum.
        shape: factor on the shape parameter alpha of the longitudinal profile.
        core_radius: factor on the radius of the core.
        tail_radius: factor on the radius of the tail.
        core_weight: factor on the share of the energy in the core.
        response_thin: factor on the visible fraction behind the thin absorber plates.
        response_thick: factor on the visible fraction behind the thick absorber plates.
        sampling: sampling resolution of the thin section at 1 GeV (GP take it as an input).
        spots: factor on the number of spots.
        onset: tracks of the first pairs at depth t, in units of (t ln(E/Ec))^2, see `_onset_tracks`.
        onset_x0: depth over which these tracks merge into the profile, radiation lengths.
    """

    depth: float = 1.0
    shape: float = 1.0
    core_radius: float = 1.0
    tail_radius: float = 1.0
    core_weight: float = 1.0
    response_thin: float = 1.0
    response_thick: float = 1.0
    sampling: float = 0.20
    spots: float = 1.0
    onset: float = 0.0
    onset_x0: float = 1.0


PUBLISHED = Tuning()

# Fitted with `tuning.tune` (seed 1, restarted once from its own result, rounded) to 1,400 Geant4 showers of
# 2-500 GeV in a field of 4 T, none of them in the packaged sample.
TUNED = Tuning(
    depth=1.053,
    shape=1.094,
    core_radius=1.036,
    tail_radius=1.005,
    core_weight=0.893,
    response_thin=1.060,
    response_thick=0.968,
    sampling=0.178,
    spots=1.240,
    onset=0.250,
    onset_x0=1.136,
)


@dataclass(frozen=True)
class Material:
    """A material of the stack; compounds carry mass-weighted means.

    Attributes:
        density: g/cm3.
        radiation_length: g/cm2.
        atomic_number: Z.
        mass_number: A.
        mip: energy loss of a minimum-ionising particle, MeV cm2/g.
    """

    density: float
    radiation_length: float
    atomic_number: float
    mass_number: float
    mip: float

    @property
    def critical_energy(self) -> float:
        """Critical energy, MeV: GP, section on material dependence, Ec = 2.66 (X0 Z/A)^1.1."""
        return float(2.66 * (self.radiation_length * self.atomic_number / self.mass_number) ** 1.1)


# Tungsten alloy W 93, Cu 6.1, Ni 0.9 %; BOARD is the read-out board and ground plane as one mixture.
TUNGSTEN = Material(density=17.8, radiation_length=6.97, atomic_number=70.8, mass_number=175.4, mip=1.163)
BOARD = Material(density=5.05, radiation_length=14.6, atomic_number=25.9, mass_number=55.8, mip=1.45)
SILICON = Material(density=2.33, radiation_length=21.82, atomic_number=14.0, mass_number=28.09, mip=1.664)
BOARD_MM, SILICON_MM = 1.4, 0.5


@dataclass(frozen=True)
class Medium:
    """The effective homogeneous medium of a section of the stack (GP, section on sampling calorimeters).

    Attributes:
        layer_x0: thickness of one layer, radiation lengths.
        moliere_mm: Moliere radius, mm.
        critical_energy: critical energy, MeV.
        atomic_number: mean Z by mass.
        sampling_frequency: F_S, the effective radiation length over the pitch of the layers.
        e_mip: electron signal over that of a minimum-ionising particle, 1/(1 + 0.007 (Z_passive - Z_active)).
        mip_fraction: share of the energy loss of a minimum-ionising particle that is in silicon.
    """

    layer_x0: float
    moliere_mm: float
    critical_energy: float
    atomic_number: float
    sampling_frequency: float
    e_mip: float
    mip_fraction: float


def effective_medium(absorber_mm: float) -> Medium:
    """Average the materials of one layer, weighted by mass."""
    layers = ((TUNGSTEN, absorber_mm), (BOARD, BOARD_MM), (SILICON, SILICON_MM))
    mass = np.array([material.density * mm / 10 for material, mm in layers])  # g/cm2
    share = mass / mass.sum()
    inverse_x0 = np.array([1 / material.radiation_length for material, _ in layers])
    critical = np.array([material.critical_energy for material, _ in layers])
    mip = mass * [material.mip for material, _ in layers]
    pitch_mm = absorber_mm + CLIC.gap_mm
    x0 = 1 / (share @ inverse_x0)  # g/cm2
    scatter = float(share @ (critical * inverse_x0))  # sum of w Ec/X0, MeV cm2/g
    mm_per_mass = pitch_mm / mass.sum()
    return Medium(
        layer_x0=float(mass @ inverse_x0),
        moliere_mm=float(21.2 / scatter * mm_per_mass),  # Es = 21.2 MeV
        critical_energy=float(x0 * scatter),
        atomic_number=float(share @ [material.atomic_number for material, _ in layers]),
        sampling_frequency=float(x0 * mm_per_mass / pitch_mm),
        e_mip=1 / (1 + 0.007 * (TUNGSTEN.atomic_number - SILICON.atomic_number)),
        mip_fraction=float(mip[2] / mip.sum()),
    )


_ABSORBER_MM = np.array(CLIC.absorber_mm)
_IS_THIN = np.isclose(_ABSORBER_MM, CLIC.absorber_mm[0])
_FRONT, _BACK = effective_medium(CLIC.absorber_mm[0]), effective_medium(CLIC.absorber_mm[-1])
_MOLIERE_MM = np.where(_IS_THIN, _FRONT.moliere_mm, _BACK.moliere_mm)
_MIP_GEV = SILICON.mip * SILICON.density * SILICON_MM / 10 / 1000

# Depth of the boundaries of the layers behind the face, shape (layers + 1,), radiation lengths.
LAYER_EDGES_X0 = np.concatenate([[0.0], np.cumsum(np.where(_IS_THIN, _FRONT.layer_x0, _BACK.layer_x0))])


@dataclass(frozen=True, eq=False)
class _Profile:
    """Longitudinal profile of each shower: depth T of the maximum (X0), shape alpha, median of alpha; shape (n, 1)."""

    depth: Float
    shape: Float
    median_shape: Float


def simulate(
    energy: NDArray[np.float32],
    *,
    seed: int,
    tuning: Tuning = TUNED,
    progress: Callable[[int], None] | None = None,
) -> Events:
    """Simulate one shower for each energy.

    Shower k depends on the seed, on k and on the energies of its block of `BLOCK_SHOWERS` only, so a
    longer request begins with the showers of a shorter one that ends with a block.

    Args:
        energy: energy of each primary electron, shape (n,), GeV.
        seed: not negative; the same seed and energies give the same bytes.
        tuning: the fitted constants; `PUBLISHED` gives the formulas as they were printed.
        progress: called after each block with the number of showers in it.

    Raises:
        RequestError: an energy is outside the range of the parametrisation, or the seed is negative.
    """
    energy = np.asarray(energy, dtype=np.float32)
    _check(energy, seed)
    showers = np.empty((len(energy), *CLIC.shape), dtype=np.float32)
    for block, start in enumerate(range(0, len(energy), BLOCK_SHOWERS)):
        part = slice(start, start + BLOCK_SHOWERS)
        # Not Philox(key=seed): that is the stream which drew the energies.
        stream = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(block,)))
        showers[part] = _simulate_block(energy[part], np.random.Generator(stream), tuning)
        if progress is not None:
            progress(len(energy[part]))
    return Events(showers, energy)


def _check(energy: NDArray[np.float32], seed: int) -> None:
    if energy.ndim != 1:
        raise RequestError(f"energies have shape {energy.shape}; expected (n,), one number for each shower")
    outside = ~((energy >= MIN_ENERGY_GEV) & (energy <= MAX_ENERGY_GEV))
    if outside.any():
        raise RequestError(
            f"energy {energy[outside][0]} GeV is outside the range of the parametrisation; "
            f"ask for {MIN_ENERGY_GEV:g} to {MAX_ENERGY_GEV:g} GeV"
        )
    if seed < 0:
        raise RequestError(f"seed {seed} is negative; give a whole number from 0 on")


def _simulate_block(energy: NDArray[np.float32], rng: np.random.Generator, tuning: Tuning) -> NDArray[np.float32]:
    gev = energy.astype(np.float64)[:, None]
    ln_y = np.log(gev * 1000 / _FRONT.critical_energy)
    profile = _longitudinal_profile(ln_y, rng, tuning)
    onset = _onset_tracks(ln_y, tuning)
    visible = _visible_energy(gev, profile, onset, rng, tuning)
    spots = rng.poisson(_mean_spots(gev, profile, tuning) + onset)
    spots = np.where(visible > 0, np.maximum(spots, 1), 0)
    core, tail, weight = _radial_profile(gev, profile, tuning)
    in_core = rng.binomial(spots, weight)
    counts = np.stack([in_core, spots - in_core], axis=-1)
    cells = _scatter(counts, np.stack([core, tail], axis=-1), visible, rng)
    cells[cells < CLIC.threshold_gev] = 0
    return cells


def _longitudinal_profile(ln_y: Float, rng: np.random.Generator, tuning: Tuning) -> _Profile:
    """Draw correlated ln T and ln alpha (GP, appendix A, fluctuated longitudinal profiles, homogeneous then sampling)."""
    per_fs, one_minus_e = 1 / _FRONT.sampling_frequency, 1 - _FRONT.e_mip
    depth = (ln_y - 0.812 - 0.55 * per_fs - 0.69 * one_minus_e) * tuning.depth
    shape = (0.81 + (0.458 + 2.26 / _FRONT.atomic_number) * ln_y - 0.476 * per_fs) * tuning.shape
    sigma_depth = np.clip(1 / (-2.5 + 1.25 * ln_y), 0, 0.5)
    sigma_shape = np.clip(1 / (-0.82 + 0.79 * ln_y), 0, 0.5)
    correlation = 0.784 - 0.023 * ln_y
    normal = rng.standard_normal((2, *ln_y.shape))
    common = np.sqrt((1 + correlation) / 2) * normal[0]
    opposite = np.sqrt((1 - correlation) / 2) * normal[1]
    return _Profile(
        depth=depth * np.exp(sigma_depth * (common + opposite)),
        shape=np.maximum(shape * np.exp(sigma_shape * (common - opposite)), 1.05),
        median_shape=shape,
    )


def _layer_shares(depth: Float, shape: Float) -> Float:
    """Integrate the gamma profile f(t) = beta (beta t)^(alpha-1) exp(-beta t)/Gamma(alpha) over each layer (GP, longitudinal profiles)."""
    beta = (shape - 1) / depth
    return np.diff(gammainc(shape, beta * LAYER_EDGES_X0), axis=1)


def _onset_tracks(ln_y: Float, tuning: Tuning) -> Float:
    """Return the mean number of tracks that the gamma profile lacks in each layer, shape (n, layers).

    The profile starts from zero like t^(alpha-1), but the primary electron crosses the first layers, and
    so do the pairs of its first photons: t ln y photons radiated, each converted within the next t. The
    term is not in GP; it is absent when `onset` is 0.
    """
    if tuning.onset == 0:
        return np.zeros((len(ln_y), CLIC.layers))
    t = LAYER_EDGES_X0[1:]
    return (1 + tuning.onset * (t * ln_y) ** 2) * np.exp(-t / tuning.onset_x0)


def _visible_energy(gev: Float, profile: _Profile, onset: Float, rng: np.random.Generator, tuning: Tuning) -> Float:
    """Draw the energy in the silicon of each layer, shape (n, layers), GeV.

    The absorbed energy dE of a layer fluctuates as a gamma variate of variance c^2 dE (GP, section on
    sampling fluctuations); c grows with the root of the absorber thickness.
    """
    fraction = _FRONT.e_mip * np.where(
        _IS_THIN, _FRONT.mip_fraction * tuning.response_thin, _BACK.mip_fraction * tuning.response_thick
    )
    # What the tracks of the onset deposit is taken from the profile: the shower has one energy only.
    left = gev - _MIP_GEV * (onset / fraction).sum(axis=1, keepdims=True)
    absorbed = left * _layer_shares(profile.depth, profile.shape)
    variance = tuning.sampling**2 * _ABSORBER_MM / _ABSORBER_MM[0]
    fluctuated = rng.gamma(np.maximum(absorbed / variance, 1e-12)) * variance
    # The tracks come in pairs, which is why half as many, twice as large, fluctuate.
    visible: Float = fluctuated * fraction + 2 * _MIP_GEV * rng.gamma(onset / 2)
    return visible


def _mean_spots(gev: Float, profile: _Profile, tuning: Tuning) -> Float:
    """Return the mean number of spots of each layer, shape (n, layers) (GP, appendix A, sampling, number of spots)."""
    z = _FRONT.atomic_number
    depth = np.maximum(profile.depth * (0.813 + 0.0019 * z), 0.5)
    shape = profile.shape * (0.844 + 0.0026 * z)
    spots: Float = tuning.spots * 10.3 / tuning.sampling * gev**0.959 * _layer_shares(depth, shape)
    return spots


def _radial_profile(gev: Float, profile: _Profile, tuning: Tuning) -> tuple[Float, Float, Float]:
    """Return radius of the core (mm), radius of the tail (mm) and weight of the core, each of shape (n, layers).

    GP, appendix A, average radial profiles, homogeneous (first lines) and sampling (last line of each).
    """
    z, per_fs, one_minus_e = _FRONT.atomic_number, 1 / _FRONT.sampling_frequency, 1 - _FRONT.e_mip
    ln_e = np.log(gev)
    t = 0.5 * (LAYER_EDGES_X0[1:] + LAYER_EDGES_X0[:-1])
    # Depth in units of the shower's own centre of gravity.
    median = profile.median_shape
    tau = t / profile.depth * (profile.shape - 1) / profile.shape * median / (median - 1)

    core = 0.0251 + 0.00319 * ln_e + (0.1162 - 0.000381 * z) * tau
    core += -0.0203 * one_minus_e + 0.0397 * per_fs * np.exp(-tau)

    tail = np.exp(-2.59 * (tau - 0.645)) + np.exp((0.3585 + 0.0421 * ln_e) * (tau - 0.645))
    tail *= 0.659 - 0.00309 * z
    tail += -0.14 * one_minus_e - 0.495 * per_fs * np.exp(-tau)

    u = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * ln_e)
    weight = (2.632 - 0.00094 * z) * np.exp(u - np.exp(u))
    weight += one_minus_e * (0.348 - 0.642 * per_fs * np.exp(-((tau - 1) ** 2)))

    return (
        np.maximum(core, 1e-3) * _MOLIERE_MM * tuning.core_radius,
        np.maximum(tail, 1e-2) * _MOLIERE_MM * tuning.tail_radius,
        np.clip(weight * tuning.core_weight, 0, 1),
    )


def _scatter(
    counts: NDArray[np.int64], radius_mm: Float, visible: Float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Throw the spots of each layer and fill the cells.

    Args:
        counts: number of spots in core and tail, shape (n, layers, 2).
        radius_mm: radius R of core and tail, same shape, mm.
        visible: energy of each layer, shape (n, layers), GeV; spots off the grid take their part with them.
        rng: random stream of the block.

    Returns:
        Energy of each cell, shape (n, 25, 25, 25), GeV.
    """
    n, layers = visible.shape
    nx, ny, _ = CLIC.shape
    total = int(counts.sum())
    # Inverse of the cumulative r^2/(r^2 + R^2) of f(r) = 2 r R^2/(r^2 + R^2)^2 (GP, section on radial profiles).
    v = rng.random(total, dtype=np.float32)
    r = np.repeat((radius_mm / CLIC.cell_mm).astype(np.float32).ravel(), counts.ravel()) * np.sqrt(v / (1 - v))
    phi = rng.random(total, dtype=np.float32) * np.float32(2 * np.pi)
    ix = _cell_index(r * np.cos(phi), CLIC.entry_cell[0])
    iy = _cell_index(r * np.sin(phi), CLIC.entry_cell[1])
    inside = (ix >= 0) & (ix < nx) & (iy >= 0) & (iy < ny)

    # Spots of one energy would leave steps in the spectrum of cell energies; exponential ones do not.
    energy = rng.standard_exponential(total, dtype=np.float32)
    spots = counts.sum(axis=2).ravel()
    filled = np.flatnonzero(spots)
    drawn = np.add.reduceat(energy, (np.cumsum(spots) - spots)[filled])
    energy *= np.repeat((visible.ravel()[filled] / drawn).astype(np.float32), spots[filled])

    shower, layer = np.divmod(np.arange(n * layers), layers)
    first_cell = np.repeat(shower * nx * ny * layers + layer, spots)
    flat = first_cell[inside] + (ix[inside] * ny + iy[inside]) * layers
    cells = np.bincount(flat, energy[inside], n * nx * ny * layers)
    return cells.astype(np.float32).reshape(n, nx, ny, layers)


def _cell_index(offset: NDArray[np.float32], entry_cell: int) -> NDArray[np.int32]:
    """Return the cell at an offset, in cells, from the centre of the entry cell."""
    index: NDArray[np.int32] = np.floor(offset + np.float32(entry_cell + 0.5)).astype(np.int32)
    return index
