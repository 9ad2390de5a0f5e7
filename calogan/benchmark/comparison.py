"""Precisions of a model, and other runtimes for its network, side by side: physics, speed and size in one result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from calogan.benchmark.peers import loading
from calogan.benchmark.precisions import ROUND_SHOWERS, BenchmarkReport, benchmark
from calogan.config import Benchmark, Validation
from calogan.events import Events, EventSource
from calogan.generation import generator, model_folder
from calogan.generation.generator import Generator
from calogan.tracking import runs
from calogan.tracking.candidates import candidate_run
from calogan.validation.gates import load_gates
from calogan.validation.report import ValidationReport
from calogan.validation.validate import validate

COMPARED_SHOWERS = generator.BATCH  # of a whole call: other runtimes compute no smaller batch, and take 40 ms a shower
_SEED = 20_000  # no training or calibration draws showers with it


@dataclass(frozen=True)
class Comparison:
    """Precisions of a model, and other runtimes for its network, side by side.

    Attributes:
        reports: validation of each against the same Geant4 showers, float32 first.
        timed: their speed and size.
    """

    reports: Mapping[str, ValidationReport]
    timed: BenchmarkReport

    def summary(self) -> dict[str, Any]:
        """Metrics, gates and speed of each, JSON-compatible."""
        return {
            "model": self.timed.model,
            "precisions": summarise(self.reports, self.timed),
            "header": dict(self.timed.header),
        }


def measure_speed(
    model: Path,
    names: Sequence[str],
    config: Benchmark,
    *,
    round_showers: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> BenchmarkReport:
    """Time precisions of a model and other runtimes for its network, interleaved on one core, float32 always among them.

    Args:
        model: folder of the model.
        names: precisions, and kinds of `loading.KINDS`; with one of these, batches have the size it is converted for.
        config: batch size and number of rounds.
        round_showers: showers of a whole call in each round; by default fewer with other runtimes.
        progress: called after every round.
    """
    if not set(names) & set(loading.KINDS):
        return benchmark(model, names, config, round_showers=round_showers or ROUND_SHOWERS, progress=progress)
    samplers = {name: loading.sampler(model, name) for name in dict.fromkeys(("float32", *names))}
    return loading.compare_speed(
        model,
        samplers,
        rounds=config.repetitions,
        round_showers=round_showers or COMPARED_SHOWERS,
        progress=progress,
    )


def compare_precisions(
    model: Path,
    names: Sequence[str],
    reference: EventSource,
    *,
    validation: Validation,
    rounds: int,
    others: Mapping[str, Generator] = MappingProxyType({}),
    inputs: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Generate, validate and time precisions of a model and other runtimes for its network, one after the other.

    All have the energies of the reference and the same latent numbers.

    Args:
        model: folder of the model.
        names: precisions, and kinds of `loading.KINDS`; float32 is added.
        reference: Geant4 showers.
        validation: gates, showers for each Geant4 shower, and depth of the validation.
        rounds: interleaved rounds of timing.
        others: further generators by name, which are validated alike and not timed.
        inputs: files of the reference, for the provenance.
        progress: called with a line before each step.

    Raises:
        ModelError: there is no such precision or runtime, or a package for it is missing.
        QuantizationError: a runtime cannot convert the network.
        EventsError: too few showers.
    """
    gates, energy = load_gates(validation.gates), np.repeat(reference.energy, validation.draws)
    samplers = {}
    for name in dict.fromkeys(("float32", *names)):
        progress(f"loading {name}")
        samplers[name] = loading.sampler(model, name)
    reports: dict[str, ValidationReport] = {}
    float32: Events | None = None
    for name, sampler in {**samplers, **others}.items():
        progress(f"generating {len(energy):,} showers in {name}")
        candidate = sampler.sample(energy, seed=_SEED)
        float32 = candidate if float32 is None else float32
        progress(f"validating {name}")
        reports[name] = validate(
            reference,
            candidate,
            float32=float32,
            floor=name == "float32",
            thorough=validation.thorough,
            cell_trainings=validation.cell_trainings,
            gates=gates,
            inputs=inputs,
        )
    progress("timing")
    timed = loading.compare_speed(model, samplers, rounds=rounds, round_showers=COMPARED_SHOWERS)
    return Comparison(reports, timed)


def log_comparison(comparison: Comparison, model: Path, *, figures: Sequence[Path] = ()) -> dict[str, str]:
    """Log a comparison to MLflow as one run with a child for each candidate; returns the ids of the children by name.

    Args:
        comparison: what to log.
        model: folder of the model.
        figures: pictures that show all candidates.

    Raises:
        GateError: no gate was measured, so there is no score.
        ServiceError: MLflow does not answer.
    """
    description = model_folder.read(model)
    parameters = {"model": description.name, "candidates": ", ".join(comparison.reports)}
    children = {}
    with runs.pipeline_run(f"compare {description.name}", parameters, header=comparison.timed.header) as parent:
        for name, report in comparison.reports.items():
            performance = comparison.timed.metrics(name)
            with candidate_run(parent, description, name, report, performance=performance, figures=figures) as run_id:
                children[name] = run_id
    return children


def summarise(reports: Mapping[str, ValidationReport], timed: BenchmarkReport) -> dict[str, dict[str, Any]]:
    """Metrics, gates and speed of each candidate, by name, JSON-compatible."""
    return {
        name: {
            "physics": {metric: asdict(estimate) for metric, estimate in report.metrics.items()},
            "gates": {gate: result.verdict for gate, result in report.gates.items()},
            "performance": timed.metrics(name),
        }
        for name, report in reports.items()
    }
