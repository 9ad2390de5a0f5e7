"""Fit the constants of the parametrisation to Geant4 showers."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calogan.errors import EventsError
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.simulation.parametric import TUNED, Tuning, simulate

# Limits of each fitted constant; the fit starts from `TUNED`.
_LIMITS = {
    "depth": (0.8, 1.3),
    "shape": (0.7, 1.3),
    "core_radius": (0.5, 1.6),
    "tail_radius": (0.6, 1.8),
    "core_weight": (0.7, 1.2),
    "response_thin": (0.7, 1.3),
    "response_thick": (0.7, 1.3),
    "sampling": (0.1, 0.3),
    "spots": (0.7, 2.0),
    "onset": (0.0, 0.4),
    "onset_x0": (0.3, 2.0),
}
_NAMES = tuple(_LIMITS)
_BIN_EDGES_GEV = (0.0, 10.0, 30.0, 100.0, 200.0, 350.0, np.inf)
_MIN_SHOWERS = 20  # fewer in an energy bin tell nothing


def tune(reference: Events, *, seed: int) -> Tuning:
    """Fit the constants by least squares on averages per energy bin.

    Two to five minutes of one core for 1,400 showers of 2-500 GeV. The minimum is flat: fits of equal
    quality differ by several per cent in the radii, which stand in for each other.

    Args:
        reference: Geant4 showers; each energy bin with fewer than 20 of them is left out.
        seed: of the simulated showers, the same ones at every step, so that noise hardly moves the fit.

    Raises:
        EventsError: no energy bin has enough showers.
    """
    target = _features(reference)
    lower, upper = np.array(list(_LIMITS.values())).T
    start = np.array([getattr(TUNED, name) for name in _NAMES])

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        candidate = simulate(reference.energy, seed=seed, tuning=_tuning(values))
        return _features(candidate) - target

    step = np.full(len(start), 0.03)  # the simulation is drawn: smaller steps would differentiate its noise
    fit = least_squares(residuals, start, bounds=(lower, upper), diff_step=step, x_scale=upper - lower, max_nfev=12)
    return _tuning(fit.x)


def _tuning(values: NDArray[np.float64]) -> Tuning:
    return dataclasses.replace(TUNED, **{name: float(value) for name, value in zip(_NAMES, values, strict=True)})


def _features(events: Events) -> NDArray[np.float64]:
    """Return what the fit compares, in units of the agreement asked for, one vector over all energy bins."""
    which = np.digitize(events.energy, _BIN_EDGES_GEV)
    bins = [which == index for index in range(1, len(_BIN_EDGES_GEV))]
    filled = [chosen for chosen in bins if chosen.sum() >= _MIN_SHOWERS]
    if not filled:
        raise EventsError(
            f"{len(events)} showers are too few to fit; give {_MIN_SHOWERS} or more in one range of energy"
        )
    return np.concatenate([_bin_features(events[chosen]) for chosen in filled])


def _bin_features(events: Events) -> NDArray[np.float64]:
    showers, energy = events.showers, events.energy.astype(np.float64)
    x, y = CLIC.entry_cell
    layers = showers.sum(axis=(1, 2), dtype=np.float64)
    ecal = layers.sum(axis=1)
    fraction = ecal / energy
    profile = (layers / ecal[:, None]).mean(axis=0)
    central = (showers[:, x, y].sum(axis=1) / ecal).mean()
    near = (showers[:, x - 1 : x + 2, y - 1 : y + 2].sum(axis=(1, 2, 3)) / ecal).mean()
    wide = (showers[:, x - 4 : x + 5, y - 4 : y + 5].sum(axis=(1, 2, 3)) / ecal).mean()
    full_cells = (showers >= CLIC.threshold_gev).sum(axis=(1, 2, 3)).mean()
    spread = fraction.std() / fraction.mean()
    # A bin of few showers is noise; from 200 on the agreement asked for is what counts.
    weight = min(1.0, np.sqrt(len(events) / 200))
    features = np.concatenate(
        [
            np.log(profile[:3] + 1e-6) / 0.10,  # the first layers hold little, but should hold it
            profile / 0.0015,  # 1.5 % of a peak of about 10 %
            np.log([fraction.mean(), central, near, wide]) / [0.005, 0.01, 0.005, 0.003],
            np.log([full_cells, spread]) / [0.02, 0.05],
        ]
    )
    return np.asarray(weight * features)
