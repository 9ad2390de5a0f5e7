"""The guided search for a quantization: trials so far -> configurations to try next, and which trials are worth judging.

First comes the configuration as it stands, with each of its settings changed alone and each operation alone kept in
float32: what does it gain in physics, what does it cost in speed? Then come combinations of what helped. Nothing here
draws a shower or quantizes a network, so the search can be read, tested and repeated on its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from calogan.config import Quantization
from calogan.errors import GateError, QuantizationError
from calogan.search.records import Failure

SCORE = "physics/score_without_classifier"
SMOOTH = 0.5  # the balance SmoothQuant's authors recommend (Xiao et al. 2023, arXiv 2211.10438, section 4)
COMBINED = 3  # operations kept at once at most: each takes its share of the speed

SPEED_RESOLUTION = 0.05  # two speeds, measured by two trials, that differ less are one


@dataclass(frozen=True)
class Trial:
    """A quantization that was tried.

    Attributes:
        quantization: the configuration.
        scores: score without classifier of the int8 showers against Geant4, of each repeat; see
            `steps.score_without_classifier`.
        float32_scores: the same of the float32 network with the same energies and random numbers.
        performance: metrics of the benchmark, under their names in MLflow.
        seconds: how long it took.
        header: provenance, with the processor that the speed was measured on.
    """

    quantization: Quantization
    scores: tuple[float, ...]
    float32_scores: tuple[float, ...]
    performance: Mapping[str, float]
    seconds: float
    header: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse scores that cannot be compared: those of a distance, or of showers that are no showers.

        Raises:
            QuantizationError: a score is not positive and finite.
        """
        for name, scores in (("int8", self.scores), ("float32", self.float32_scores)):
            bad = [score for score in scores if not (math.isfinite(score) and score > 0)]
            if bad or not scores:
                raise QuantizationError(
                    f"the {name} showers of a trial have the score {bad[0] if bad else 'none'}; expected "
                    f"numbers above 0, higher is better: check the model with calogan validate ({describe(self.quantization)})"
                )

    @property
    def what(self) -> Quantization:
        """What was tried, as a failure calls it."""
        return self.quantization

    @property
    def score(self) -> float:
        """Mean score of the int8 showers."""
        return float(np.mean(self.scores))

    @property
    def float32_score(self) -> float:
        """Mean score of the float32 showers."""
        return float(np.mean(self.float32_scores))

    @property
    def losses(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """What each repeat loses by quantization; the showers' own fluctuation cancels, as both have the same."""
        return np.subtract(self.float32_scores, self.scores)

    @property
    def loss(self) -> float:
        """Mean of the losses."""
        return float(self.losses.mean())

    @property
    def loss_error(self) -> float:
        """Statistical error of the loss."""
        return _error(self.losses)

    @property
    def speedup(self) -> float:
        """Speed of the quantized part in units of float32's."""
        return self.performance["perf/network_speedup"]

    def metrics(self) -> dict[str, float]:
        """Everything measured, under the names of MLflow."""
        return {
            SCORE: self.score,
            f"{SCORE}_float32": self.float32_score,
            f"{SCORE}_loss": self.loss,
            f"{SCORE}_loss_error": self.loss_error,
            **self.performance,
        }


Attempt: TypeAlias = Trial | Failure[Quantization]


def propose(
    base: Quantization, operations: Sequence[str], calibration_showers: int, history: Sequence[Attempt]
) -> tuple[Quantization, ...]:
    """Say what to try next; nothing when the search has ended.

    Args:
        base: the configuration to start from.
        operations: names of all operations, see `neural_compressor.name_operations`.
        calibration_showers: how many there are.
        history: what was tried, in any order.
    """
    base = base.model_copy(update={"tune": False})  # as what was tried is read from its records
    tried = {attempt.what for attempt in history}
    trials = {attempt.quantization: attempt for attempt in history if isinstance(attempt, Trial)}
    largest = max(base.calibration_showers, calibration_showers)
    changed = [change for change in _changes(base) if change.calibration_showers <= largest]
    kept = [_keep(base, (name,), "float32") for name in operations if name not in _kept(base)]
    first = [quantization for quantization in dict.fromkeys((base, *changed, *kept)) if quantization not in tried]
    if first or base not in trials:
        return tuple(first)
    combined = _combinations(
        trials[base], [trials[q] for q in changed if q in trials], [trials[q] for q in kept if q in trials]
    )
    return tuple(quantization for quantization in dict.fromkeys(combined) if quantization not in tried)


def rank(history: Sequence[Attempt], tolerance: float) -> list[Trial]:
    """Trials that lose no more score than tolerated, even by two standard deviations; the fastest first.

    Of trials as fast as each other, as far as that can be told, the one that loses least comes first.

    Args:
        history: what was tried.
        tolerance: as a fraction of float32's score.

    Raises:
        QuantizationError: no configuration could be made.
        GateError: none is within the tolerance.
    """
    trials = [attempt for attempt in history if isinstance(attempt, Trial)]
    if not trials:
        reasons = "; ".join(dict.fromkeys(attempt.reason for attempt in history if isinstance(attempt, Failure)))
        raise QuantizationError(f"no quantization could be made: {reasons or 'nothing was tried'}")
    good = [trial for trial in trials if trial.loss + 2 * trial.loss_error <= tolerance * trial.float32_score]
    if not good:
        best = min(trials, key=lambda trial: trial.loss)
        raise GateError(
            f"none of {len(trials)} quantizations keeps the score of float32 without the classifier, {best.float32_score:.4f}, within "
            f"{tolerance:.1%}; the closest loses {best.loss:.4f} +- {best.loss_error:.4f} ({describe(best.quantization)}); "
            "widen [tuning] tolerance, or give it more showers"
        )
    ranked: list[Trial] = []
    while good:
        fastest = max(trial.speedup for trial in good)
        alike = [trial for trial in good if trial.speedup >= (1 - SPEED_RESOLUTION) * fastest]
        ranked.append(min(alike, key=lambda trial: trial.loss))
        good.remove(ranked[-1])
    return ranked


def describe(quantization: Quantization) -> str:
    """One line for people."""
    q = quantization
    parts = [f"{q.granularity} {q.algorithm}, {q.calibration_showers} showers"]
    parts += [f"SmoothQuant {q.smooth:g}"] if q.smooth is not None else []
    parts += [f"{' + '.join(names)} in {name}" for name, names in _kept_by_precision(q).items() if names]
    return "; ".join(parts)


def summary(attempt: Attempt) -> str:
    """One line for people about what came out."""
    if isinstance(attempt, Failure):
        return f"{describe(attempt.what)}: failed, {attempt.reason}"
    return (
        f"{describe(attempt.quantization)}: score without classifier {attempt.score:.4f} (float32 {attempt.float32_score:.4f}), "
        f"loss {attempt.loss:+.4f} +- {attempt.loss_error:.4f}, network {attempt.speedup:.2f}x"
    )


def _changes(base: Quantization) -> list[Quantization]:
    """The base with one setting changed."""
    return [
        _with(base, granularity="per_tensor" if base.granularity == "per_channel" else "per_channel"),
        _with(base, algorithm="kl" if base.algorithm == "minmax" else "minmax"),
        _with(base, smooth=SMOOTH if base.smooth is None else None),
        _with(base, calibration_showers=max(1, base.calibration_showers // 2)),
        _with(base, calibration_showers=2 * base.calibration_showers),
    ]


def _combinations(base: Trial, changed: Sequence[Trial], kept: Sequence[Trial]) -> list[Quantization]:
    """Combine what was significantly better than the base: operations, cheapest gain first, and the best change."""
    useful = sorted((trial for trial in kept if _helps(base, trial)), key=lambda trial: -_worth(base, trial))
    names = [name for trial in useful for name in _kept(trial.quantization) if name not in _kept(base.quantization)]
    settings = [base.quantization]
    better = [trial for trial in changed if _helps(base, trial)]
    if better:
        settings.append(min(better, key=lambda trial: trial.loss).quantization)
    return [
        _keep(setting, tuple(names[:number]), precision)
        for setting in settings
        for precision in ("float32", "bfloat16")
        for number in range(1, min(len(names), COMBINED) + 1)
    ]


def _helps(base: Trial, trial: Trial) -> bool:
    """Whether a trial loses less than the base beyond the statistics of their common repeats."""
    gains = base.losses - trial.losses
    return bool(gains.mean() > 2 * _error(gains))


def _worth(base: Trial, trial: Trial) -> float:
    """Gain of score for each part of the float32 network's time that it takes."""
    taken = max(1 / trial.speedup - 1 / base.speedup, 1e-3)  # one that takes no time is not worth infinitely much
    return (base.loss - trial.loss) / taken


def _error(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Standard error of a mean; infinite for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.inf


def _kept_by_precision(quantization: Quantization) -> dict[str, tuple[str, ...]]:
    return {"float32": quantization.keep_float32, "bfloat16": quantization.keep_bfloat16}


def _kept(quantization: Quantization) -> tuple[str, ...]:
    return quantization.keep_float32 + quantization.keep_bfloat16


def _keep(quantization: Quantization, names: tuple[str, ...], precision: str) -> Quantization:
    field = f"keep_{precision}"
    return _with(quantization, **{field: tuple(sorted({*getattr(quantization, field), *names}))})


def _with(quantization: Quantization, **changes: object) -> Quantization:
    return Quantization.model_validate(quantization.model_dump() | changes)
