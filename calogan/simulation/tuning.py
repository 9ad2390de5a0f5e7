"""Fit the constants of the parametrisation to Geant4 showers, and store them in a file."""

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.optimize import least_squares

from calogan.atomic_files import write_text
from calogan.errors import ConfigError, EventsError, problems
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.simulation.medium import LAYER_EDGES_X0
from calogan.simulation.parametric import simulate
from calogan.simulation.profiles import PUBLISHED, Tuning

# Lower limit, start and upper limit of each fitted constant.
_FITTED = {
    "depth": (0.8, 1.03, 1.3),
    "depth_offset": (-1.0, 0.2, 1.0),
    "shape": (0.7, 1.14, 1.3),
    "depth_spread": (0.5, 1.0, 1.5),
    "shape_spread": (0.2, 0.6, 1.5),
    "skewness": (0.1, 1.2, 1.8),
    "core_radius": (0.5, 1.04, 1.6),
    "tail_radius": (0.6, 1.0, 1.8),
    "radius_slope": (-0.1, -0.015, 0.1),
    "core_weight": (0.7, 0.9, 1.2),
    "scaling": (0.0, 0.85, 1.0),
    "response_thin": (0.7, 1.06, 1.3),
    "response_thick": (0.7, 0.97, 1.3),
    "sampling": (0.1, 0.18, 0.3),
    "spots": (0.7, 1.6, 3.0),
    "spots_slope": (-0.1, 0.07, 0.2),
    "onset": (0.0, 0.25, 0.6),
    "onset_reach": (0.1, 0.2, 0.4),
    "onset_spread": (0.1, 0.6, 1.2),
}
_LOWER, _START, _UPPER = np.array(list(_FITTED.values())).T
_BIN_EDGES_GEV = (0.0, 10.0, 30.0, 100.0, 200.0, 350.0, np.inf)
_MIN_SHOWERS = 20  # of the reference in an energy bin; fewer say nothing
_MAX_CANDIDATES = 600  # simulated showers for each energy bin
_DECIMALS = 3

Float = NDArray[np.float64]

# Distance of each column of cells from the axis, shape (25, 25), mm.
_X, _Y = np.indices(CLIC.shape[:2])
_RADIUS_MM: Float = CLIC.cell_mm * np.hypot(_X - CLIC.entry_cell[0], _Y - CLIC.entry_cell[1])


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tuning: Tuning
    header: dict[str, str] = {}


def tune(reference: Events, *, seed: int, progress: Callable[[str], None] | None = None) -> Tuning:
    """Fit the constants by least squares on averages and spreads per energy bin.

    Takes two to five minutes on one core for 3,000 showers of 2-500 GeV. The minimum is flat: fits of equal
    quality differ by several per cent in the radii, which can compensate for each other.

    Args:
        reference: Geant4 showers; energy bins with fewer than 20 of them are left out.
        seed: seed of the simulated showers, the same at every step, so that noise hardly affects the fit.
        progress: called after each step with a line of progress.

    Raises:
        EventsError: no energy bin has enough showers.
    """
    bins = _filled_bins(reference)
    target = np.concatenate([_features(part) for part in bins])
    # A bin of few showers is noisy and counts less; from 200 showers on, the required agreement sets the weight.
    weight = np.concatenate([np.full(len(target) // len(bins), min(1, np.sqrt(len(part) / 200))) for part in bins])
    energies = [np.resize(part.energy, min(2 * len(part), _MAX_CANDIDATES)) for part in bins]
    energy, ends = np.concatenate(energies), np.cumsum([len(part) for part in energies])
    calls = 0

    def residuals(values: Float) -> Float:
        nonlocal calls
        showers = simulate(energy, seed=seed, tuning=_tuning(values))
        candidates = (showers[end - len(part) : end] for end, part in zip(ends, energies, strict=True))
        difference = weight * (np.concatenate([_features(part) for part in candidates]) - target)
        calls += 1
        if progress is not None:
            progress(f"simulation {calls}, distance {difference @ difference:.0f}")
        return np.asarray(difference)

    # The simulation is random: smaller steps would differentiate its noise.
    step = 0.05 * (_UPPER - _LOWER) / np.maximum(np.abs(_START), 1e-3)
    fit = least_squares(residuals, _START, bounds=(_LOWER, _UPPER), diff_step=step, x_scale=_UPPER - _LOWER, max_nfev=4)
    return _tuning(np.round(fit.x, _DECIMALS))


def _tuning(values: Float) -> Tuning:
    return PUBLISHED.model_copy(update=dict(zip(_FITTED, values.tolist(), strict=True)))


def _filled_bins(events: Events) -> list[Events]:
    which = np.digitize(events.energy, _BIN_EDGES_GEV)
    masks = [which == index for index in range(1, len(_BIN_EDGES_GEV))]
    filled = [events[mask] for mask in masks if mask.sum() >= _MIN_SHOWERS]
    if not filled:
        raise EventsError(
            f"{len(events)} showers are too few to fit; give {_MIN_SHOWERS} or more in one range of energy"
        )
    return filled


def _features(events: Events) -> Float:
    """Return the quantities that the fit compares, in units of the required agreement."""
    showers, ln_e = events.showers, np.log(events.energy.astype(np.float64))
    x, y = CLIC.entry_cell
    layers = showers.sum(axis=(1, 2), dtype=np.float64)
    columns = showers.sum(axis=3, dtype=np.float64)
    ecal = layers.sum(axis=1)
    profile = layers / ecal[:, None]
    depth = profile @ (0.5 * (LAYER_EDGES_X0[1:] + LAYER_EDGES_X0[:-1]))
    radius = np.tensordot(columns, _RADIUS_MM, axes=2) / ecal
    central = columns[:, x, y] / ecal
    near = columns[:, x - 1 : x + 2, y - 1 : y + 2].sum(axis=(1, 2)) / ecal
    wide = columns[:, x - 4 : x + 5, y - 4 : y + 5].sum(axis=(1, 2)) / ecal
    filled = (showers >= CLIC.threshold_gev).sum(axis=(1, 2, 3)).astype(np.float64)
    fraction = ecal / np.exp(ln_e)

    averages = np.array([value.mean() for value in (fraction, depth, central, near, wide, radius, filled)])
    around = [_around_trend(value, ln_e) for value in (fraction, depth, radius, central, filled)]
    spreads = np.array([value.std() for value in around])
    late = around[1] / spreads[1]
    front = layers[:, :3] / np.exp(ln_e)[:, None]
    mean_profile = profile.mean(axis=0)
    return np.concatenate(
        [
            mean_profile / 0.0015,  # 1.5 % of a peak of about 10 %
            np.log(mean_profile[:3] + 1e-6) / 0.05,  # the first layers hold little energy, but it should be right
            np.log(front.std(axis=0) / front.mean(axis=0)) / 0.2,
            np.log(averages) / [0.005, 0.005, 0.01, 0.005, 0.003, 0.01, 0.02],
            np.log(spreads) / 0.05,
            [(late**3).mean() / 0.3],
        ]
    )


def _around_trend(values: Float, ln_e: Float) -> Float:
    """Return values minus their linear trend in ln E: the fluctuations of the showers themselves."""
    return np.asarray(values - np.polynomial.Polynomial.fit(ln_e, values, 1)(ln_e))


def write_tuning(path: str | os.PathLike[str], tuning: Tuning, header: Mapping[str, str]) -> Path:
    """Write constants as TOML, atomically.

    Args:
        path: the file to write; an existing file is replaced.
        tuning: the constants.
        header: origin of the constants, see `provenance.header`.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    lines = ["[tuning]", *(f"{name} = {value!r}" for name, value in tuning.model_dump().items())]
    lines += ["", "[header]", *(f"{_quoted(key)} = {_quoted(value)}" for key, value in header.items())]
    write_text(path, "\n".join(lines) + "\n")
    return path


def _quoted(text: str) -> str:
    # A TOML string is a JSON string, except for surrogate pairs and the character DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_tuning(path: str | os.PathLike[str]) -> Tuning:
    """Read constants; those missing in the file keep their published values.

    Raises:
        ConfigError: the file is missing or not TOML, or it has an unknown key or an invalid value.
    """
    try:
        return _File.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8"))).tuning
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); make it with `calogan tune-parametric`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error)}") from error
