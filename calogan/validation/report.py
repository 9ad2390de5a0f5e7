"""The result of a validation: metrics, gates and curves, its physics score, and its JSON file."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calogan.atomic_files import write_json
from calogan.errors import GateError
from calogan.validation.gates import CLASSIFIER_GATE, GateResult, Verdict
from calogan.validation.metrics import Estimate
from calogan.validation.standard import Curve


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """Result of a validation.

    Attributes:
        showers: numbers of showers: `reference` and `candidate` as given, `..._used` those with a counterpart in
            energy, `..._empty` those without any energy (they stay in the comparison), `classifier_each` those of each sample
            that a classifier sees, for the candidate and for the floor.
        metrics: every metric, named as in MLflow; the names are the same for every precision.
        floor: the same metrics between two disjoint halves of the reference, so with half the number of showers; no
            candidate can be expected to be better. Empty if not requested.
        gates: result of each gate.
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

    @property
    def failed(self) -> dict[str, GateResult]:
        """Gates that the candidate has failed."""
        return self._of("failed")

    @property
    def undecided(self) -> dict[str, GateResult]:
        """Gates that were measured with too few showers to decide."""
        return self._of("undecided")

    @property
    def not_measured(self) -> dict[str, GateResult]:
        """Gates on metrics that the samples do not allow, or that were not requested."""
        return self._of("not measured")

    def _of(self, verdict: Verdict) -> dict[str, GateResult]:
        return {name: result for name, result in self.gates.items() if result.verdict == verdict}


def require_no_failure(reports: Mapping[str, ValidationReport]) -> None:
    """Raise an error if a candidate has failed a gate; undecided and unmeasured gates have not failed.

    Args:
        reports: reports by candidate; the message names the candidate if there are several.

    Raises:
        GateError: a gate failed.
    """
    failures = []
    for name, report in reports.items():
        if report.failed:
            candidate = f"{name}: " if len(reports) > 1 else ""
            failures.append(
                f"{candidate}{len(report.failed)} of {len(report.gates)} gates failed: {', '.join(report.failed)}"
            )
    if failures:
        raise GateError("; ".join(failures))


def require_proof(report: ValidationReport) -> None:
    """Raise an error unless the candidate has passed every gate of its report.

    Raises:
        GateError: there is no gate, or one failed, is undecided or was not measured; the message says which and why.
    """
    reasons = [f"{gate} failed: {result.explanation}" for gate, result in report.failed.items()]
    reasons += [f"{gate} is undecided: {result.explanation}" for gate, result in report.undecided.items()]
    reasons += [f"{gate} was not measured" for gate in report.not_measured]
    if report.not_measured:
        reasons[-1] += (
            "; a metric needs enough showers of its energies in both samples: give more of them, or gates without it"
        )
    if reasons or not report.gates:
        raise GateError("; ".join(reasons) or "the report has no gate; give gates on the metrics that matter")


def physics_score(report: ValidationReport) -> float:
    """One number in (0, 1], higher is better, from all gates: 1 / (1 + mean excess of the measured metrics).

    In MLflow it is `physics/score`.

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
    """Convert a report to JSON-compatible values; numbers that are not finite become None."""
    plain = dataclasses.asdict(report)
    return {"physics_score": physics_score(report) if report.gates else None, **_plain(plain)}


def write_report(path: Path, report: ValidationReport) -> Path:
    """Write a report as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    write_json(path, report_to_dict(report))
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
