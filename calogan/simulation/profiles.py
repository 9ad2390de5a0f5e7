"""The formulas of the Grindhammer-Peters parametrisation, and the constants fitted to Geant4.

They are from G. Grindhammer and S. Peters, hep-ex/0001020 ("GP"). Equation numbers refer to the form of a formula,
appendix A to its parameters: A.1 for homogeneous media, A.2 for the changes in sampling calorimeters. Each quantity
that is fitted to Geant4 instead, or is not in GP at all, depends on a number of `Tuning`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import gammainc, gammaincinv, ndtri

from calogan.geometry import CLIC
from calogan.simulation.medium import ABSORBER, IS_THIN, LAYER_EDGES_X0, MIP_GEV, MOLIERE_MM, THICK, THIN

Float = NDArray[np.float64]

_PER_FS, _ONE_MINUS_E = 1 / THIN.sampling_frequency, 1 - THIN.e_mip


class Tuning(BaseModel):
    """Constants fitted to Geant4; the defaults leave the published formulas unchanged.

    Attributes:
        depth: factor on the depth of the shower maximum.
        depth_offset: offset of the depth of the shower maximum, radiation lengths.
        shape: factor on the shape parameter alpha of the longitudinal profile.
        depth_spread: factor on the spread of ln T from shower to shower.
        shape_spread: factor on the spread of ln alpha.
        skewness: skewness of the common fluctuation of T and alpha. GP draw it from a normal distribution (0), but
            a shower can start late, not early.
        core_radius: factor on the radius of the core.
        tail_radius: factor on the radius of the tail.
        radius_slope: power of Ep/100 GeV with which both radii grow.
        core_weight: factor on the share of the energy in the core.
        scaling: how closely the lateral profile follows the depth of its own shower: 1 as in GP, 0 for a
            dependence on the depth in the calorimeter only.
        response_thin: factor on the visible fraction behind the thin absorber plates.
        response_thick: factor on the visible fraction behind the thick absorber plates.
        sampling: sampling resolution c of the thin section at 1 GeV (an input in GP).
        spots: factor on the number of spots.
        spots_slope: power of Ep/100 GeV with which the number of spots grows.
        onset: number of tracks of the first pairs at depth t, in units of (t T)^2, see `onset_tracks`.
        onset_reach: depth over which these tracks merge into the profile, in units of T.
        onset_spread: relative spread of the number of these tracks from shower to shower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    depth: float = Field(1.0, ge=0.5, le=2)
    depth_offset: float = Field(0.0, ge=-2, le=2)
    shape: float = Field(1.0, ge=0.5, le=2)
    depth_spread: float = Field(1.0, ge=0, le=2)
    shape_spread: float = Field(1.0, ge=0, le=2)
    skewness: float = Field(0.0, ge=0, le=2)
    core_radius: float = Field(1.0, gt=0, le=3)
    tail_radius: float = Field(1.0, gt=0, le=3)
    radius_slope: float = Field(0.0, ge=-0.2, le=0.2)
    core_weight: float = Field(1.0, ge=0, le=2)
    scaling: float = Field(1.0, ge=0, le=1)
    response_thin: float = Field(1.0, gt=0, le=2)
    response_thick: float = Field(1.0, gt=0, le=2)
    sampling: float = Field(0.20, ge=0.05, le=0.5)
    spots: float = Field(1.0, ge=0.1, le=5)
    spots_slope: float = Field(0.0, ge=-0.2, le=0.2)
    onset: float = Field(0.0, ge=0, le=2)
    onset_reach: float = Field(0.2, ge=0.05, le=1)
    onset_spread: float = Field(0.0, ge=0, le=2)


PUBLISHED = Tuning()

# Fitted to 3,000 Geant4 showers of 2-500 GeV in a field of 4 T, none of them in the packaged sample, with
#   calogan tune-parametric --reference geant4_electrons_train.h5 --seed 1 --out tuning.toml
TUNED = Tuning(
    depth=1.061,
    depth_offset=0.038,
    shape=1.147,
    depth_spread=1.002,
    shape_spread=0.736,
    skewness=0.821,
    core_radius=1.074,
    tail_radius=1.053,
    radius_slope=-0.021,
    core_weight=0.907,
    scaling=0.868,
    response_thin=1.055,
    response_thick=0.971,
    sampling=0.181,
    spots=1.56,
    spots_slope=0.077,
    onset=0.239,
    onset_reach=0.251,
    onset_spread=0.69,
)


@dataclass(frozen=True, eq=False)
class Profile:
    """Longitudinal profile of each shower; every array has shape (n, 1).

    Attributes:
        depth: T, depth of the maximum, radiation lengths.
        shape: shape parameter alpha.
        median_depth, median_shape: medians of T and alpha over showers of this energy.
    """

    depth: Float
    shape: Float
    median_depth: Float
    median_shape: Float


def longitudinal_profile(ln_y: Float, common: Float, opposite: Float, tuning: Tuning) -> Profile:
    """Draw correlated ln T and ln alpha (GP Eq. 11).

    Args:
        ln_y: ln(E/Ec) of each shower, shape (n, 1).
        common: uniform numbers in (0, 1) that move T and alpha together, shape (n, 1).
        opposite: uniform numbers in (0, 1) that move them in opposite directions, shape (n, 1).
        tuning: the fitted constants.
    """
    # GP Eq. 7 and 8 with A.1.2, then the changes of Eq. 16 to 21 with A.2.3.
    depth = (ln_y - 0.812 - 0.55 * _PER_FS - 0.69 * _ONE_MINUS_E) * tuning.depth + tuning.depth_offset
    depth = np.maximum(depth, 0.5)
    shape = (0.81 + (0.458 + 2.26 / THIN.atomic_number) * ln_y - 0.476 * _PER_FS) * tuning.shape
    sigma_depth = np.clip(1 / (-2.5 + 1.25 * ln_y), 0, 0.5) * tuning.depth_spread  # A.2.3
    sigma_shape = np.clip(1 / (-0.82 + 0.79 * ln_y), 0, 0.5) * tuning.shape_spread  # A.2.3
    correlation = 0.784 - 0.023 * ln_y  # A.2.3
    together = np.sqrt((1 + correlation) / 2) * _skewed(common, tuning.skewness)
    against = np.sqrt((1 - correlation) / 2) * ndtri(opposite)
    return Profile(
        depth=depth * np.exp(sigma_depth * (together + against)),
        shape=np.maximum(shape * np.exp(sigma_shape * (together - against)), 1.05),
        median_depth=depth,
        median_shape=shape,
    )


def _skewed(uniform: Float, skewness: float) -> Float:
    """Return variates of mean 0, variance 1 and this skewness: normal, or gamma shifted to mean 0."""
    if skewness < 1e-3:
        return np.asarray(ndtri(uniform))
    k = 4 / skewness**2
    return np.asarray((gammaincinv(k, uniform) - k) / np.sqrt(k))


def layer_shares(depth: Float, shape: Float) -> Float:
    """Integrate the gamma profile, GP Eq. 2 with beta = (alpha-1)/T (Eq. 4), over each layer, shape (n, layers)."""
    beta = (shape - 1) / depth
    return np.diff(gammainc(shape, beta * LAYER_EDGES_X0), axis=1)


def onset_tracks(profile: Profile, uniform: Float, tuning: Tuning) -> Float:
    """Return the number of tracks that the gamma profile misses in each layer, shape (n, layers).

    The profile starts from zero like t^(alpha-1), but the primary electron crosses the first layers, and
    so do the pairs of its first photons: photons are radiated in proportion to t and to the number of later
    generations, which grows with T, and convert within the next t. The term is not in GP; `onset` = 0 removes it.
    """
    if tuning.onset == 0:
        return np.zeros((len(uniform), CLIC.layers))
    t, depth = LAYER_EDGES_X0[1:], profile.median_depth
    early = 1 + tuning.onset_spread * _skewed(uniform, 2 * tuning.onset_spread)  # a gamma variate of mean 1
    return np.asarray((1 + tuning.onset * early * (t * depth) ** 2) * np.exp(-t / (tuning.onset_reach * depth)))


def deposits(gev: Float, profile: Profile, onset: Float, tuning: Tuning) -> tuple[Float, Float]:
    """Return mean (GeV) and variance (GeV^2) of the energy in the silicon of each layer, shape (n, layers).

    The absorbed energy dE of a layer fluctuates with variance c^2 dE (GP, section on sampling fluctuations), where
    c grows with the square root of the absorber thickness.
    """
    fraction = THIN.e_mip * np.where(
        IS_THIN, THIN.mip_fraction * tuning.response_thin, THICK.mip_fraction * tuning.response_thick
    )
    # The energy of the onset tracks is subtracted from the profile, to conserve the energy of the shower.
    rest = gev - MIP_GEV * (onset / fraction).sum(axis=1, keepdims=True)
    absorbed = np.maximum(rest, 0) * layer_shares(profile.depth, profile.shape)
    mean = absorbed * fraction + onset * MIP_GEV
    # The tracks come in pairs: half as many independent contributions, each twice as large.
    variance = tuning.sampling**2 * ABSORBER * absorbed * fraction**2 + 2 * onset * MIP_GEV**2
    return mean, variance


def mean_spots(gev: Float, profile: Profile, tuning: Tuning) -> Float:
    """Return the mean number of spots of each layer, shape (n, layers) (GP A.2, fluctuated radial profiles)."""
    # Not in GP: a spot represents tracks in silicon, and a thicker plate does not add tracks to a silicon layer.
    depth = np.maximum(profile.depth * (0.813 + 0.0019 * THIN.atomic_number), 0.5)
    shape = profile.shape * (0.844 + 0.0026 * THIN.atomic_number)
    number = 10.3 / tuning.sampling * gev**0.959 / ABSORBER * tuning.spots * (gev / 100) ** tuning.spots_slope
    return np.asarray(number * layer_shares(depth, shape))


def radial_profile(gev: Float, profile: Profile, tuning: Tuning) -> tuple[Float, Float, Float]:
    """Return radius of the core (mm), radius of the tail (mm) and weight of the core, each of shape (n, layers)."""
    z = THIN.atomic_number
    ln_e = np.log(gev)
    t = 0.5 * (LAYER_EDGES_X0[1:] + LAYER_EDGES_X0[:-1])
    median = profile.median_depth, profile.median_shape
    ratio = _centre(*median) / _centre(profile.depth, profile.shape)
    tau = t / profile.median_depth * ratio**tuning.scaling

    # GP Eq. 24 with A.1.3; the second line of each is its change in A.2.
    core = 0.0251 + 0.00319 * ln_e + (0.1162 - 0.000381 * z) * tau
    core += -0.0203 * _ONE_MINUS_E + 0.0397 * _PER_FS * np.exp(-tau)

    # GP Eq. 25 with A.1.3.
    tail = np.exp(-2.59 * (tau - 0.645)) + np.exp((0.3585 + 0.0421 * ln_e) * (tau - 0.645))
    tail = (0.659 - 0.00309 * z) * tail
    tail += -0.14 * _ONE_MINUS_E - 0.495 * _PER_FS * np.exp(-tau)

    # GP Eq. 26 with A.1.3.
    u = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * ln_e)
    weight = (2.632 - 0.00094 * z) * np.exp(u - np.exp(u))
    weight += _ONE_MINUS_E * (0.348 - 0.642 * _PER_FS * np.exp(-((tau - 1) ** 2)))

    radius_mm = MOLIERE_MM * (gev / 100) ** tuning.radius_slope
    return (
        np.maximum(core, 1e-3) * radius_mm * tuning.core_radius,
        np.maximum(tail, 1e-2) * radius_mm * tuning.tail_radius,
        np.clip(weight * tuning.core_weight, 0, 1),
    )


def _centre(depth: Float, shape: Float) -> Float:
    """Return the depth of the centre of gravity, alpha/beta (GP Eq. 3 and 4), radiation lengths."""
    return depth * shape / (shape - 1)
