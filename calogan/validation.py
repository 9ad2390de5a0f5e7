"""Prove showers right: observables x metrics -> a report with gates, and the shapes that its figures show."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from calogan import metrics, provenance
from calogan.errors import ConfigError, GateError
from calogan.events import Events
from calogan.metrics import Estimate
from calogan.observables import AXES, SPECTRUM_EDGES_GEV, Floats, Observables, core_share, moments, observe

Verdict = Literal["passed", "failed", "undecided", "not measured"]
Progress = Callable[[str], None]

# Finer where the shower changes fastest; the bins of the figures, not of the gates.
CURVE_EDGES_GEV: Floats = np.array([2, 10, 25, 50, 100, 150, 200, 300, 400, 500.0])

_WASSERSTEIN: dict[str, Callable[[Observables], Floats]] = {
    "sampling_fraction": lambda s: s.sampling_fraction,
    "depth": lambda s: moments(s.profiles[:, AXES.index("z")])[0],
    "width": lambda s: moments(s.profiles[:, AXES.index("y")])[1],
    "core_share": lambda s: core_share(s.projections[:, 0])[0],
}
_BINS = tuple(f"{low}_{high}gev" for low, high in metrics.ENERGY_BINS_GEV)
_ALWAYS = (
    "composite_mse",
    *(f"{axis}_{name}" for axis in AXES for name in ("mean", "std", "mean_shift", "std_shift")),
    *(f"{axis}_tail_{end}" for axis in ("x", "y") for end in ("first", "last")),
    *("sampling_fraction_shift", "worst_layer", "hits_shift", "empty_showers", "separation_cell_energy"),
    *(f"wasserstein_{name}" for name in _WASSERSTEIN),
    "auc_high_level",
)
_SOMETIMES = (
    *(f"{name}_{label}" for label in _BINS for name in ("sampling_fraction_shift", "resolution_shift")),
    *(f"pixelwise_{name}" for name in ("mean", "std", "relative")),
)
METRICS = tuple(f"physics/{name}" for name in (*_ALWAYS, *_SOMETIMES))


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
class Curve:
    """A quantity of both samples in bins, with errors of one standard deviation; NaN where a bin has too few showers.

    Attributes:
        edges: edges of the k bins, shape (k + 1,).
        reference, reference_error, candidate, candidate_error: shape (k,).
    """

    edges: Floats
    reference: Floats
    reference_error: Floats
    candidate: Floats
    candidate_error: Floats


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
    reference: Events,
    candidate: Events,
    *,
    float32: Events | None = None,
    floor: bool = True,
    gates: Mapping[str, Gate] | None = None,
    seed: int = 0,
    inputs: Iterable[Path] = (),
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare a candidate with the reference.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator, best at the energies of the reference; other spectra are weighted.
        float32: showers of the float32 model with the latent of the candidate, for the pixel-wise metrics.
        floor: also compare the reference with itself.
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
    say(f"observing {len(reference)} reference and {len(candidate)} candidate showers")
    r, c = metrics.match_energies(observe(reference), observe(candidate))
    say("comparing them")
    found = compare(r, c, seed=seed)
    if float32 is not None:
        pixelwise = metrics.pixelwise_difference(float32, candidate)
        found |= {f"physics/pixelwise_{name}": estimate for name, estimate in pixelwise.items()}
    lowest: dict[str, Estimate] = {}
    if floor and len(reference) >= 2 * metrics.FEWEST_SHOWERS:
        say("comparing the reference with itself")
        order = np.random.default_rng(seed).permutation(len(r))
        halves = (r[np.sort(order[::2])], r[np.sort(order[1::2])])
        lowest = compare(*metrics.match_energies(*halves), seed=seed)
    return ValidationReport(
        showers={
            name: count
            for label, sample in (("reference", r), ("candidate", c))
            for name, count in (
                (label, len(sample)),
                (f"{label}_used", int(np.count_nonzero(sample.weight))),
                (f"{label}_empty", int(np.count_nonzero(sample.ecal == 0))),
            )
        },
        metrics=found,
        floor=lowest,
        gates={name: judge(gate, found.get(name)) for name, gate in gates.items()},
        curves=curves(r, c, seed=seed),
        provenance=provenance.header(seed=seed, inputs=inputs),
    )


def compare(reference: Observables, candidate: Observables, *, seed: int = 0) -> dict[str, Estimate]:
    """Compute every metric of two samples whose energies match, see `metrics.match_energies`."""
    r, c = reference, candidate
    found = {
        "composite_mse": metrics.composite_mse(r, c, seed=seed),
        "sampling_fraction_shift": metrics.sampling_fraction_shift(r, c, seed=seed),
        "worst_layer": metrics.worst_layer(r, c, seed=seed),
        "hits_shift": metrics.hits_shift(r, c, seed=seed),
        "empty_showers": metrics.empty_showers(r, c, seed=seed),
        "separation_cell_energy": metrics.separation_cell_energy(r, c, seed=seed),
        "auc_high_level": metrics.auc_high_level(r, c, seed=seed),
    }
    for axis in AXES:
        moments_found = metrics.profile_moments(r, c, axis, seed=seed)
        found |= {f"{axis}_{name}": estimate for name, estimate in moments_found.items()}
    for axis in ("x", "y"):
        found[f"{axis}_tail_first"] = metrics.tail(r, c, axis, last=False, seed=seed)
        found[f"{axis}_tail_last"] = metrics.tail(r, c, axis, last=True, seed=seed)
    for name, quantity in _WASSERSTEIN.items():
        found[f"wasserstein_{name}"] = metrics.wasserstein(r, c, quantity, seed=seed)
    for label, (low, high) in zip(_BINS, metrics.ENERGY_BINS_GEV, strict=True):
        in_bin = [metrics.in_energy_bin(sample, low, high) for sample in (r, c)]
        if min(map(len, in_bin)) >= metrics.FEWEST_SHOWERS:
            found[f"sampling_fraction_shift_{label}"] = metrics.sampling_fraction_shift(*in_bin, seed=seed)
            found[f"resolution_shift_{label}"] = metrics.resolution_shift(*in_bin, seed=seed)
    return {f"physics/{name}": estimate for name, estimate in found.items()}


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

    1 for a candidate equal to the reference, 0.5 for one that is on average at its limits. A tuner that compares
    scores by their ratio needs such a number: it misreads a distance, which is better when lower and may be 0.

    Raises:
        GateError: no gate was measured.
    """
    excess = [result.gate.excess(result.estimate.value) for result in report.gates.values() if result.estimate]
    if not excess:
        raise GateError("no gate of this report was measured, so it has no score; give gates on metrics that it has")
    return 1 / (1 + sum(excess) / len(excess))


def curves(reference: Observables, candidate: Observables, *, seed: int = 0) -> dict[str, Curve]:
    """Compute what the figures show, see `ValidationReport.curves`."""

    def curve(
        edges: Floats, columns: metrics.Columns, finish: Callable[[Floats], Floats] = lambda means: means
    ) -> Curve:
        both = [finish(metrics.replica_means(s, columns, (seed, i))) for i, s in enumerate((reference, candidate))]
        (r, r_error), (c, c_error) = ((values[0], values[1:].std(axis=0)) for values in both)
        return Curve(edges, r, r_error, c, c_error)

    cells = np.arange(reference.profiles.shape[-1] + 1) - 0.5
    found = {
        axis: curve(cells, lambda s, i=i: s.profiles[:, i] / s.energy[:, None])  # type: ignore[misc]
        for i, axis in enumerate(AXES)
    }
    found["cell_energy"] = curve(SPECTRUM_EDGES_GEV, lambda s: s.spectrum)
    found["sampling_fraction"] = curve(CURVE_EDGES_GEV, _in_bins, lambda means: _bin_moments(means)[0])
    found["resolution"] = curve(CURVE_EDGES_GEV, _in_bins, lambda means: np.divide(*_bin_moments(means)[::-1]))
    return found


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


def _in_bins(sample: Observables) -> Floats:
    """Per shower and bin of `CURVE_EDGES_GEV`: 1, ECAL/Ep and its square if the shower is in the bin, else 0."""
    which = np.searchsorted(CURVE_EDGES_GEV, sample.energy, side="right") - 1
    inside = (which[:, None] == np.arange(len(CURVE_EDGES_GEV) - 1)).astype(np.float64)
    fraction = sample.sampling_fraction[:, None]
    return np.hstack([inside, inside * fraction, inside * fraction**2])


def _bin_moments(means: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of ECAL/Ep in each bin, shape (replicas, bins), of the means of `_in_bins`."""
    share, first, second = np.split(means, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / share
        return mean, np.sqrt(np.maximum(second / share - mean**2, 0))


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
