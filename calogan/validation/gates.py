"""Gates: a metric with its limit, and the verdict on a measured value."""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calogan.errors import ConfigError
from calogan.packaged import data_file
from calogan.validation import spreads
from calogan.validation.metrics import Estimate
from calogan.validation.standard import METRICS

Verdict = Literal["passed", "failed", "undecided", "not measured"]


CLASSIFIER_GATE = "physics/auc_high_level"


@dataclass(frozen=True)
class Gate:
    """A metric with its limit.

    Attributes:
        limit: the largest value allowed; the metric may be as far below `best` as above it.
        best: the value of a perfect candidate.
    """

    limit: float
    best: float = 0.0

    def excess(self, value: float) -> float:
        """Distance from the best value as a fraction of the distance allowed; 1 at the limit."""
        return abs(value - self.best) / (self.limit - self.best)


@dataclass(frozen=True)
class GateResult:
    """The verdict of a gate on a report.

    A gate must neither fail by statistics alone nor pass because the errors are large. With the distance d of the
    metric from its best value, the distance allowed D and the error s it is `failed` if d - 2 s > D; `undecided` if it
    is not failed but 2 s > D, so that a candidate at twice the limit could look the same; `passed` otherwise. A metric
    that the samples do not allow (an energy bin without showers) is `not measured`.

    Attributes:
        gate: the limit.
        estimate: the metric with its error, or None when not measured.
        verdict: passed, failed, undecided or not measured.
        explanation: the verdict in words, with advice.
    """

    gate: Gate
    estimate: Estimate | None
    verdict: Verdict
    explanation: str


def load_gates(name_or_path: str | Path = "default") -> dict[str, Gate]:
    """Read gates of the package, `default` or `demo`, or from a TOML file.

    Raises:
        ConfigError: the file cannot be read, names an unknown metric, or has a limit that is not above its best value.
    """
    packaged = data_file("gates", f"{name_or_path}.toml")
    source = packaged if packaged.is_file() else Path(name_or_path)
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read as TOML ({error})") from error
    check_names(table, str(source))
    return {name: _gate(f"{source}: {name}", entry) for name, entry in table.items()}


def judge(gate: Gate, estimate: Estimate | None) -> GateResult:
    """Judge a metric by its gate; see `GateResult` for the rule."""
    if estimate is None:
        return GateResult(gate, None, "not measured", "the samples do not allow this metric")
    allowed = gate.limit - gate.best
    distance = abs(estimate.value - gate.best)
    text = f"{estimate.value:.4g} +- {estimate.error:.2g}, limit {gate.limit:g}"
    error = estimate.error if math.isfinite(estimate.error) else 0.0
    if not distance - 2 * error <= allowed:
        return GateResult(gate, estimate, "failed", f"{text}: beyond the limit")
    if 2 * error > allowed:
        times = max(1.1, (2 * error / allowed) ** 2)
        return GateResult(gate, estimate, "undecided", f"{text}: use about {times:.1f} times as many showers to decide")
    return GateResult(gate, estimate, "passed", text)


def _gate(place: str, entry: object) -> Gate:
    numbers = isinstance(entry, dict) and all(
        type(value) in (int, float) and math.isfinite(value) for value in entry.values()
    )
    if not isinstance(entry, dict) or not numbers or not {"limit"} <= set(entry) <= {"limit", "best"}:
        raise ConfigError(f"{place}: {entry!r} is not a gate; write {{ limit = 0.1 }} or {{ limit = 0.9, best = 0.5 }}")
    gate = Gate(**entry)
    if gate.limit <= gate.best:
        raise ConfigError(f"{place}: limit {gate.limit} must be above the best value {gate.best}")
    return gate


def check_names(names: Iterable[str], place: str) -> None:
    """Refuse gates on metrics that do not exist.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = sorted(name for name in set(names) - set(METRICS) if not spreads.is_binned(name))
    if unknown:
        raise ConfigError(f"{place}: unknown metrics {', '.join(unknown)}; expected some of {', '.join(METRICS)}")
