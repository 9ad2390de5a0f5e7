"""The guided search for a quantization: from the history to the next configurations, and the ranking of trials.

First come the base configuration, the base with a single setting changed, and the base with a single operation kept in
float32, to measure what each gains in physics and costs in speed. Then come combinations of the changes that helped.
Nothing here draws a shower or quantizes a network, so the search can be read, tested and repeated on its own.
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
SMOOTH = 0.5  # recommended by the authors of SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, section 4)
COMBINED = 3  # most operations kept at once, since each of them costs speed

SPEED_RESOLUTION = 0.05  # speeds of two trials that differ by less than this share count as equal


@dataclass(frozen=True)
class Trial:
    """A quantization with its results.

    Attributes:
        quantization: the configuration.
        scores: score without classifier of the int8 showers against Geant4, for each repeat; see
            `steps.score_without_classifier`.
        float32_scores: score of the float32 network, for the same energies and random numbers.
        performance: metrics of the benchmark, under their names in MLflow.
        seconds: duration of the trial, s.
        header: provenance, including the processor of the benchmark.
    """

    quantization: Quantization
    scores: tuple[float, ...]
    float32_scores: tuple[float, ...]
    performance: Mapping[str, float]
    seconds: float
    header: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse scores that cannot be compared, such as those of showers without energy.

        Raises:
            QuantizationError: a score is not positive and finite.
        """
        for name, scores in (("int8", self.scores), ("float32", self.float32_scores)):
            bad = [score for score in scores if not (math.isfinite(score) and score > 0)]
            if bad or not scores:
                raise QuantizationError(
                    f"the {name} showers of a trial have the score {bad[0] if bad else 'none'}; expected "
                    "numbers above 0, higher is better: check the model with calogan validate "
                    f"({describe(self.quantization)})"
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
        """Loss of score by quantization in each repeat; the fluctuation of the showers cancels, as it is common."""
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
        """Speed of the quantized part relative to float32."""
        return self.performance["perf/network_speedup"]

    def metrics(self) -> dict[str, float]:
        """All results, under their names in MLflow."""
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
    """Propose the next configurations; empty at the end of the search.

    Args:
        base: the configuration to start from.
        operations: names of all operations, see `neural_compressor.name_operations`.
        calibration_showers: size of the calibration set.
        history: finished trials and failures, in any order.
    """
    base = base.model_copy(update={"tune": False})  # the same in every record of a trial
    earlier = {attempt.what for attempt in history}
    trials = {attempt.quantization: attempt for attempt in history if isinstance(attempt, Trial)}
    largest = max(base.calibration_showers, calibration_showers)
    changes = [change for change in _changes(base) if change.calibration_showers <= largest]
    exemptions = [_keep(base, (name,), "float32") for name in operations if name not in _float_operations(base)]
    first = [q for q in dict.fromkeys((base, *changes, *exemptions)) if q not in earlier]
    if first or base not in trials:
        return tuple(first)
    combinations = _combinations(
        trials[base], [trials[q] for q in changes if q in trials], [trials[q] for q in exemptions if q in trials]
    )
    return tuple(q for q in dict.fromkeys(combinations) if q not in earlier)


def rank(history: Sequence[Attempt], tolerance: float) -> list[Trial]:
    """Trials whose loss of score stays within the tolerance by two standard deviations; the fastest first.

    Among trials of equal speed, see `SPEED_RESOLUTION`, the one with the smallest loss comes first.

    Args:
        history: finished trials and failures.
        tolerance: largest loss, as a fraction of float32's score.

    Raises:
        QuantizationError: all quantizations failed.
        GateError: no trial is within the tolerance.
    """
    trials = [attempt for attempt in history if isinstance(attempt, Trial)]
    if not trials:
        reasons = "; ".join(dict.fromkeys(attempt.reason for attempt in history if isinstance(attempt, Failure)))
        raise QuantizationError(f"no quantization succeeded: {reasons or 'there was no trial'}")
    good = [trial for trial in trials if trial.loss + 2 * trial.loss_error <= tolerance * trial.float32_score]
    if not good:
        best = min(trials, key=lambda trial: trial.loss)
        raise GateError(
            f"none of {len(trials)} quantizations keeps the score of float32 without the classifier, {best.float32_score:.4f}, within "
            f"{tolerance:.1%}; the closest loses {best.loss:.4f} +- {best.loss_error:.4f} ({describe(best.quantization)}); "
            "increase [tuning] tolerance, or use more showers"
        )
    ranking: list[Trial] = []
    while good:
        fastest = max(trial.speedup for trial in good)
        equals = [trial for trial in good if trial.speedup >= (1 - SPEED_RESOLUTION) * fastest]
        ranking.append(min(equals, key=lambda trial: trial.loss))
        good.remove(ranking[-1])
    return ranking


def describe(quantization: Quantization) -> str:
    """Describe a quantization in one line, for display."""
    q = quantization
    parts = [f"{q.granularity} {q.algorithm}, {q.calibration_showers} showers"]
    parts += [f"SmoothQuant {q.smooth:g}"] if q.smooth is not None else []
    parts += [f"{' + '.join(names)} in {name}" for name, names in _by_float_precision(q).items() if names]
    return "; ".join(parts)


def summary(attempt: Attempt) -> str:
    """Describe the result of a trial in one line, for display."""
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


def _combinations(base: Trial, changes: Sequence[Trial], exemptions: Sequence[Trial]) -> list[Quantization]:
    """Combine the significant improvements: operations kept in float, cheapest gain first, and the best change."""
    useful = sorted(
        (trial for trial in exemptions if _helps(base, trial)), key=lambda trial: -_gain_per_cost(base, trial)
    )
    names = [
        name
        for trial in useful
        for name in _float_operations(trial.quantization)
        if name not in _float_operations(base.quantization)
    ]
    settings = [base.quantization]
    better = [trial for trial in changes if _helps(base, trial)]
    if better:
        settings.append(min(better, key=lambda trial: trial.loss).quantization)
    return [
        _keep(setting, tuple(names[:number]), precision)
        for setting in settings
        for precision in ("float32", "bfloat16")
        for number in range(1, min(len(names), COMBINED) + 1)
    ]


def _helps(base: Trial, trial: Trial) -> bool:
    """Whether a trial loses significantly less than the base, judged by their common repeats."""
    gains = base.losses - trial.losses
    return bool(gains.mean() > 2 * _error(gains))


def _gain_per_cost(base: Trial, trial: Trial) -> float:
    """Gain of score per additional time, in units of the float32 network's time."""
    cost = max(1 / trial.speedup - 1 / base.speedup, 1e-3)  # a lower limit keeps the ratio finite
    return (base.loss - trial.loss) / cost


def _error(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Standard error of a mean; infinite for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.inf


def _by_float_precision(quantization: Quantization) -> dict[str, tuple[str, ...]]:
    return {"float32": quantization.keep_float32, "bfloat16": quantization.keep_bfloat16}


def _float_operations(quantization: Quantization) -> tuple[str, ...]:
    return quantization.keep_float32 + quantization.keep_bfloat16


def _keep(quantization: Quantization, names: tuple[str, ...], precision: str) -> Quantization:
    field = f"keep_{precision}"
    return _with(quantization, **{field: tuple(sorted({*getattr(quantization, field), *names}))})


def _with(quantization: Quantization, **changes: object) -> Quantization:
    return Quantization.model_validate(quantization.model_dump() | changes)
