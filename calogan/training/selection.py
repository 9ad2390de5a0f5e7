"""Choice of the best epoch, early stopping, and errors that end a training.

After every `score_every`-th epoch of a scored stage and after its last, showers are generated at the energies of the
validation split, four for each Geant4 shower, and scored:

1. Losses, weights and generated showers must be finite, and the showers must not have collapsed (`check_*` below);
   otherwise training ends with an error. That epoch is not recorded: the previous checkpoint and best weights remain.
2. The showers get a physics score, see `report.physics_score`. The first epoch with the highest score is the best, and
   its weights are the result.
3. Training ends after `patience` scored epochs in a row without a new best.

All decisions depend only on the recorded epochs, so an interrupted run decides like an uninterrupted one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from calogan.errors import TrainingError
from calogan.events import Events
from calogan.validation.observables import AXES, moments, profile

DRAWS = 4  # showers generated per validation shower: Geant4's showers then dominate the noise of the score
_FEWEST_SHOWERS = 20  # with fewer, the spread of Geant4's showers is too uncertain to compare with
# Fraction of the spread of Geant4's showers. Trained generators have 0.9 to 1.1, an untrained `rehm2021` 0.8, and one
# whose latent numbers vary by only 2 %, so that all showers of an energy look the same, 0.02.
_COLLAPSED = 0.05


@dataclass(frozen=True)
class Scored:
    """Score and metrics of the showers of an epoch.

    Attributes:
        score: physics score, higher is better.
        metrics: the metrics behind the score, by name.
    """

    score: float
    metrics: Mapping[str, float]


def is_best(score: float, earlier: Sequence[float | None]) -> bool:
    """Whether a score is above all earlier ones; None stands for an unscored epoch."""
    return all(score > other for other in earlier if other is not None)


def stop_reason(scores: Sequence[float | None], patience: int) -> str:
    """Return the reason why training ends after epochs with these scores; empty if it continues.

    Args:
        scores: scores of all epochs so far, None for unscored ones.
        patience: number of scored epochs in a row without a new best that ends training; 0 for no limit.
    """
    values = [score for score in scores if score is not None]
    if not patience or not values:
        return ""
    best = values.index(max(values))
    since = len(values) - 1 - best
    if since < patience:
        return ""
    return (
        f"no better physics score than {values[best]:.3f} in {since} scored epochs, the patience of the configuration"
    )


def check_finite(numbers: Mapping[str, float], place: str) -> None:
    """Check that losses and score are finite.

    Args:
        numbers: losses or score, by name.
        place: the epoch, for the message.

    Raises:
        TrainingError: a number is NaN or infinite.
    """
    bad = [f"{name} ({value})" for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(f"{', '.join(bad)} is not a finite number in {place}; try a lower learning rate")


def check_weights(models: Mapping[str, keras.Model], place: str) -> None:
    """Check that all weights are finite; the loss may still be finite when they are not.

    Raises:
        TrainingError: a variable has an element that is NaN or infinite.
    """
    for name, model in models.items():
        for variable in model.variables:
            bad = int(np.count_nonzero(~np.isfinite(keras.ops.convert_to_numpy(variable))))
            if bad:
                raise TrainingError(
                    f"{bad} of {np.prod(variable.shape):.0f} weights of {variable.path} of the {name} are not finite after "
                    f"{place}; try a lower learning rate"
                )


def check_showers(reference: Events, generated: Events, place: str) -> dict[str, float]:
    """Check that generated showers are finite, mostly not empty, and not collapsed.

    Args:
        reference: validation showers.
        generated: showers at their energies, the same number for each, one energy after the other.
        place: the epoch, for the message.

    Returns:
        The metric `relative_spread`, or nothing if there are too few showers.

    Raises:
        TrainingError: cells are not finite, most showers are empty, or those of an energy are nearly equal.
    """
    total = generated.showers.sum(axis=(1, 2, 3), dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(total)))
    if bad:
        raise TrainingError(
            f"{bad} of {len(generated)} generated showers have cells that are not finite after {place}; "
            "try a lower learning rate"
        )
    empty = int(np.count_nonzero(total <= 0))
    if empty > len(generated) / 2:
        raise TrainingError(
            f"{empty} of {len(generated)} generated showers are empty after {place}: the generator is dead; "
            "try a lower generator_rate or another seed"
        )
    if len(reference) < _FEWEST_SHOWERS:
        return {}
    spread = relative_spread(reference, generated)
    if spread < _COLLAPSED:
        raise TrainingError(
            f"the generator has collapsed after {place}: showers of an energy differ from each other by {spread:.2g} of "
            f"what Geant4's do, expected about 1 and at least {_COLLAPSED}; try a lower generator_rate, more "
            "warmup_epochs or another seed"
        )
    return {"relative_spread": spread}


def relative_spread(reference: Events, generated: Events) -> float:
    """Shower-to-shower spread of generated showers at fixed Ep, over that of the reference.

    Spread means the standard deviation of a shower's centre and width along x, y and z; the result is the median of
    the six ratios. As all Geant4 showers have different energies, their dependence on Ep is first removed by fitting a
    parabola in log Ep.

    Args:
        reference: n showers, at least about 20.
        generated: k n showers, k for each of the reference, one energy after the other.

    Returns:
        About 1 for samples of the same kind, 0 if all showers of an energy are equal.
    """
    terms = np.vander(np.log(reference.energy.astype(np.float64)), 3)
    real = _centres_and_widths(reference.showers)
    residuals = real - terms @ np.linalg.lstsq(terms, real, rcond=None)[0]
    expected = np.sqrt((residuals**2).sum(axis=0) / (len(residuals) - terms.shape[1]))
    fake = _centres_and_widths(generated.showers).reshape(len(reference), -1, real.shape[1])
    return float(np.median(np.sqrt(fake.var(axis=1, ddof=1).mean(axis=0)) / expected))


def _centres_and_widths(showers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Centre and width of each shower along x, y and z, shape (n, 6), cells; 0 for an empty one."""
    return np.nan_to_num(np.column_stack([number for axis in AXES for number in moments(profile(showers, axis))]))
