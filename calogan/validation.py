"""Prove showers right: samples -> a report with metrics, gates, and the shapes that its figures show."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan import metrics, partials, provenance, similarity
from calogan.comparison import METRICS, Curve, compare, curves
from calogan.errors import ConfigError, EventsError, GateError
from calogan.events import EventSource
from calogan.metrics import Estimate
from calogan.partials import Measured, Partial, Plan, merge, observe_part, parts
from calogan.resampling import match_energies

__all__ = [
    "CLASSIFIER_GATE",
    "METRICS",
    "SAMPLES",
    "Curve",
    "Estimate",
    "Gate",
    "GateResult",
    "ValidationReport",
    "Verdict",
    "compare",
    "compare_cells",
    "conclude",
    "curves",
    "failed_gates",
    "judge",
    "load_gates",
    "physics_score",
    "prepare",
    "report_to_dict",
    "validate",
    "write_report",
]

Verdict = Literal["passed", "failed", "undecided", "not measured"]
Progress = Callable[[str], None]

SAMPLES = ("reference", "candidate")
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
    """What a gate says about a report.

    A gate must neither fail by statistics alone nor pass because the errors are large. With the distance d of the
    metric from its best value, the distance allowed D and the error s it is `failed` if d - 2 s > D; `undecided` if it
    is not failed but 2 s > D, so that a candidate at twice the limit could look the same; `passed` otherwise. A metric
    that the samples do not allow (an energy bin without showers) is `not measured`.

    Attributes:
        gate: the limit.
        estimate: the metric with its error, or None when not measured.
        verdict: passed, failed, undecided or not measured.
        explanation: the same in a sentence, with what to do.
    """

    gate: Gate
    estimate: Estimate | None
    verdict: Verdict
    explanation: str


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """What was found out about a candidate.

    Attributes:
        showers: numbers of showers: `reference` and `candidate` as given, `..._used` those with a counterpart in
            energy, `..._empty` those without any energy (they stay in the comparison).
        metrics: every metric, named as in MLflow; the names are the same for every precision.
        floor: the same metrics of the reference against itself, two disjoint halves, so at half its number of showers;
            what no candidate can be expected to go below. Empty when not asked for.
        gates: what each gate says.
        curves: `x`, `y`, `z`: mean profile over Ep against the cell; `cell_energy`: cells per shower against the
            energy of the cell in GeV; `sampling_fraction`, `resolution`: against Ep in GeV.
        provenance: see `provenance.header`.
    """

    showers: Mapping[str, int]
    metrics: Mapping[str, Estimate]
    floor: Mapping[str, Estimate]
    gates: Mapping[str, GateResult]
    curves: Mapping[str, Curve]
    provenance: Mapping[str, str]


def validate(
    reference: EventSource,
    candidate: EventSource,
    *,
    float32: EventSource | None = None,
    floor: bool = True,
    thorough: bool = False,
    cell_trainings: int = 0,
    gates: Mapping[str, Gate] | None = None,
    seed: int = 0,
    inputs: Iterable[Path] = (),
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare a candidate with the reference; showers in files are read once, a block at a time.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator, best at the energies of the reference; other spectra are weighted.
        float32: showers of the float32 model with the latent of the candidate, for the pixel-wise metrics.
        floor: also compare the reference with itself.
        thorough: also compare whole distributions, see `similarity`, which takes half a minute.
        cell_trainings: trainings of a classifier on cells, a quarter of a minute each with 2,000 showers.
        gates: limits by name of the metric; those of the package when not given.
        seed: of the bootstrap replicas, the classifier's halves and the halves of the floor.
        inputs: the files the samples came from, for the provenance.
        progress: called with a line before each step.

    Raises:
        EventsError: too few showers with common energies, or `float32` does not belong to the candidate.
    """
    say = progress if progress is not None else _silent
    gates = load_gates() if gates is None else gates
    _check_names(gates, "gates")
    plan = prepare(reference, candidate, float32=float32, floor=floor, seed=seed)

    def observed(of: int, source: EventSource, beside: EventSource | None) -> Iterator[Partial]:
        for part in parts(plan, of):
            say(f"observing the {SAMPLES[of]}: shower {part.start:,} of {len(source):,}")
            yield observe_part(source, part, beside)

    measured = (
        merge(observed(0, reference, None), len(reference)),
        merge(observed(1, candidate, float32), len(candidate)),
    )
    cells = compare_cells(plan, reference, candidate, trainings=cell_trainings, progress=progress)
    return conclude(plan, *measured, cells=cells, thorough=thorough, gates=gates, inputs=inputs, progress=progress)


def prepare(
    reference: EventSource,
    candidate: EventSource,
    *,
    float32: EventSource | None = None,
    floor: bool = True,
    seed: int = 0,
) -> Plan:
    """Make the plan of a validation from the energies of its samples; arguments as for `validate`.

    Raises:
        EventsError: too few showers with common energies, or `float32` does not belong to the candidate.
    """
    if float32 is not None and not np.array_equal(float32.energy, candidate.energy):
        raise EventsError(
            "the float32 showers and the candidate differ in number or energies; generate both with the same energies and seed"
        )
    return partials.plan(reference.energy, candidate.energy, floor=floor, seed=seed)


def compare_cells(
    plan: Plan, reference: EventSource, candidate: EventSource, *, trainings: int, progress: Progress | None = None
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Compare the cells of some showers by a trained classifier, see `similarity.cell_similarity`.

    Returns:
        Metrics of the candidate, and of the reference against itself if the plan has that; empty without trainings.
    """
    if not trainings:
        return {}, {}
    say = progress if progress is not None else _silent
    say(f"training classifiers on cells, {trainings} times")
    weights = plan.weights[0][0], plan.weights[1][0]
    found = similarity.cell_similarity(reference, candidate, weights, trainings=trainings, seed=plan.seed)
    halves = plan.weights[0][1:]
    if not len(halves):
        return found, {}
    say("training them on the reference alone")
    itself = (halves[0], halves[1])
    return found, similarity.cell_similarity(reference, reference, itself, trainings=trainings, seed=plan.seed)


def conclude(
    plan: Plan,
    reference: Measured,
    candidate: Measured,
    *,
    cells: tuple[Mapping[str, Estimate], Mapping[str, Estimate]] = ({}, {}),
    thorough: bool = False,
    gates: Mapping[str, Gate],
    inputs: Iterable[Path] = (),
    progress: Progress | None = None,
) -> ValidationReport:
    """Make the report of two samples that were measured in parts; arguments as for `validate`.

    Raises:
        EventsError: hardly a shower holds any energy.
    """
    say = progress if progress is not None else _silent
    # Equal results need equal threads, on a worker as here.
    with threadpool_limits(1):
        say("comparing them")
        r, c = match_energies(reference.observables, candidate.observables, seed=plan.seed)
        found = compare((r, reference.planes[0]), (c, candidate.planes[0]), seed=plan.seed)
        if candidate.moved.size:
            pixelwise = metrics.pixelwise_difference(candidate.moved)
            found |= {f"physics/pixelwise_{name}": estimate for name, estimate in pixelwise.items()}
        if thorough:
            say("comparing whole distributions")
            found |= similarity.similarity(r, c, seed=plan.seed)
        lowest: dict[str, Estimate] = {}
        if len(plan.weights[0]) > 1:
            say("comparing the reference with itself")
            halves = [dataclasses.replace(r, weight=weight) for weight in plan.weights[0][1:]]
            lowest = compare((halves[0], reference.planes[1]), (halves[1], reference.planes[2]), seed=plan.seed)
            if thorough:
                say("comparing whole distributions of the reference with itself")
                lowest |= similarity.similarity(halves[0], halves[1], seed=plan.seed)
        shapes = curves(r, c)
    return ValidationReport(
        showers={
            name: count
            for label, sample in zip(SAMPLES, (r, c), strict=True)
            for name, count in (
                (label, len(sample)),
                (f"{label}_used", len(sample.used)),
                (f"{label}_empty", int(np.count_nonzero(sample.observables.ecal == 0))),
            )
        },
        metrics=found | dict(cells[0]),
        floor=lowest | dict(cells[1]),
        gates={name: judge(gate, (found | dict(cells[0])).get(name)) for name, gate in gates.items()},
        curves=shapes,
        provenance=provenance.header(seed=plan.seed, inputs=inputs),
    )


def load_gates(name_or_path: str | Path = "gates") -> dict[str, Gate]:
    """Read gates of the package, `gates` or `demo_gates`, or from a TOML file.

    Raises:
        ConfigError: the file cannot be read, names an unknown metric, or has a limit that is not above its best value.
    """
    packaged = resources.files("calogan") / "data" / f"{name_or_path}.toml"
    source = packaged if packaged.is_file() else Path(name_or_path)
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read as TOML ({error})") from error
    _check_names(table, str(source))
    return {name: _gate(f"{source}: {name}", entry) for name, entry in table.items()}


def judge(gate: Gate, estimate: Estimate | None) -> GateResult:
    """Hold a metric against its gate; `GateResult` has the rule."""
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


def failed_gates(report: ValidationReport) -> dict[str, GateResult]:
    """Gates that were measured and not passed: failed or undecided."""
    return {name: result for name, result in report.gates.items() if result.verdict in ("failed", "undecided")}


def physics_score(report: ValidationReport) -> float:
    """One number in (0, 1], higher is better, made from the gates: 1 / (1 + mean excess of the measured metrics).

    1 for a candidate equal to the reference, 0.5 for one that is on average at its limits. Where the classifier has a
    gate it counts as much as all others together: they look at means and spreads, which generators have right long
    before their showers are. A tuner that compares scores by their ratio needs such a number: it misreads a distance,
    which is better when lower and may be 0.

    Raises:
        GateError: no gate was measured.
    """
    excess = {
        name: result.gate.excess(result.estimate.value) for name, result in report.gates.items() if result.estimate
    }
    if not excess:
        raise GateError("no gate of this report was measured, so it has no score; give gates on metrics that it has")
    groups = [[value for name, value in excess.items() if (name == CLASSIFIER_GATE) is own] for own in (False, True)]
    means = [sum(group) / len(group) for group in groups if group]
    return 1 / (1 + sum(means) / len(means))


def report_to_dict(report: ValidationReport) -> dict[str, Any]:
    """Turn a report into what JSON can hold; numbers that are not finite become None."""
    plain = dataclasses.asdict(report)
    return {"physics_score": physics_score(report) if report.gates else None, **_plain(plain)}


def write_report(path: Path, report: ValidationReport) -> Path:
    """Write a report as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(report_to_dict(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the report cannot be written ({error})") from error
    return path


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


def _check_names(names: Iterable[str], place: str) -> None:
    unknown = sorted(set(names) - set(METRICS))
    if unknown:
        raise ConfigError(f"{place}: unknown metrics {', '.join(unknown)}; known are {', '.join(METRICS)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _silent(_: str) -> None:
    """Report no progress."""
