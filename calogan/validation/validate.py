"""Validate showers: samples -> a report with metrics, gates, and the curves of its figures."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan import provenance
from calogan.errors import EventsError
from calogan.events import EventSource
from calogan.validation import metrics, parts, spreads, tree_classifier
from calogan.validation.gates import Gate, check_names, judge, load_gates
from calogan.validation.metrics import Estimate
from calogan.validation.parts import PartSummary, Plan, SampleSummary, divide, merge, observe_part
from calogan.validation.report import ValidationReport
from calogan.validation.resampling import match_energies
from calogan.validation.standard import compare, curves
from calogan.validation.thorough import cell_floor, cell_similarity, similarity

Progress = Callable[[str], None]

SAMPLES = ("reference", "candidate")


def validate(
    reference: EventSource,
    candidate: EventSource,
    *,
    float32: EventSource | None = None,
    floor: bool = True,
    thorough: bool = False,
    cell_trainings: int = 0,
    trees: bool = True,
    gates: Mapping[str, Gate] | None = None,
    seed: int = 0,
    inputs: Iterable[Path] = (),
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare a candidate with the reference; showers in files are read once, a block at a time.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator, ideally at the energies of the reference; other spectra are weighted.
        float32: showers of the float32 model with the latent of the candidate, for the pixel-wise metrics.
        floor: also compare the reference with itself.
        thorough: also compare whole distributions, see `similarity`, which takes half a minute.
        cell_trainings: number of trainings of the cell classifier, 15 s each with 2,000 showers.
        trees: also train `tree_classifier`, seconds for each thousand showers.
        gates: limits by name of the metric; the packaged ones by default.
        seed: seed of the bootstrap replicas, the classifier and the halves of the floor.
        inputs: the files of the samples, for the provenance.
        progress: called with a line before each step.

    Raises:
        EventsError: too few showers with common energies, or `float32` does not belong to the candidate.
    """
    say = progress if progress is not None else _silent
    gates = load_gates() if gates is None else gates
    check_names(gates, "gates")
    plan = prepare(reference, candidate, float32=float32, floor=floor, seed=seed)

    def observed(of: int, source: EventSource, float32_source: EventSource | None) -> Iterator[PartSummary]:
        for part in divide(plan, of):
            say(f"observing the {SAMPLES[of]}: shower {part.start:,} of {len(source):,}")
            yield observe_part(source, part, float32_source)

    summaries = (
        merge(observed(0, reference, None), len(reference)),
        merge(observed(1, candidate, float32), len(candidate)),
    )
    cells = compare_cells(plan, reference, candidate, trainings=cell_trainings, progress=progress)
    settings: dict[str, Any] = {"thorough": thorough, "trees": trees, "gates": gates, "inputs": inputs}
    return conclude(plan, *summaries, cells=cells, progress=progress, **settings)


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
    return parts.plan(reference.energy, candidate.energy, floor=floor, seed=seed)


def compare_cells(
    plan: Plan, reference: EventSource, candidate: EventSource, *, trainings: int, progress: Progress | None = None
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Compare the cells of some showers by a trained classifier, see `thorough.cell_similarity`.

    Returns:
        Metrics of the candidate, and the floor if the plan includes it; empty without trainings.
    """
    if not trainings:
        return {}, {}
    say = progress if progress is not None else _silent
    say(f"training classifiers on cells, {trainings} times")
    weights = plan.weights[0][0], plan.weights[1][0]
    settings: dict[str, Any] = {"trainings": trainings, "seed": plan.seed}
    similarities = cell_similarity(reference, candidate, weights, **settings)
    if len(plan.weights[0]) == 1:
        return similarities, {}
    say("training them on the reference alone")
    return similarities, cell_floor(reference, weights, **settings)


def conclude(
    plan: Plan,
    reference: SampleSummary,
    candidate: SampleSummary,
    *,
    cells: tuple[Mapping[str, Estimate], Mapping[str, Estimate]] = ({}, {}),
    thorough: bool = False,
    trees: bool = True,
    gates: Mapping[str, Gate],
    inputs: Iterable[Path] = (),
    progress: Progress | None = None,
) -> ValidationReport:
    """Make the report of two samples that were observed in parts; arguments as for `validate`.

    Raises:
        EventsError: hardly any shower contains energy.
    """
    say = progress if progress is not None else _silent
    # The number of threads is fixed, so that a worker gets the same results.
    with threadpool_limits(1):
        say("comparing them")
        r, c = match_energies(reference.observables, candidate.observables, seed=plan.seed)
        bins = spreads.energy_bins(r, c)
        estimates = compare((r, reference.planes[0]), (c, candidate.planes[0]), bins)
        separability, classified = tree_classifier.compare(r, c, seed=plan.seed) if trees else ({}, 0)
        estimates |= separability
        if candidate.difference.size:
            pixelwise = metrics.pixelwise_difference(candidate.difference)
            estimates |= {f"physics/pixelwise_{name}": estimate for name, estimate in pixelwise.items()}
        if thorough:
            say("comparing whole distributions")
            estimates |= similarity(r, c, seed=plan.seed)
        lowest: dict[str, Estimate] = {}
        if len(plan.weights[0]) > 1:
            say("comparing the reference with itself")
            halves = [dataclasses.replace(r, weight=weight) for weight in plan.weights[0][1:]]
            lowest = compare((halves[0], reference.planes[1]), (halves[1], reference.planes[2]), bins)
            lowest |= tree_classifier.floor(r, classified, seed=plan.seed)
            if thorough:
                say("comparing whole distributions of the reference with itself")
                lowest |= similarity(halves[0], halves[1], seed=plan.seed)
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
        }
        | {"classifier_each": classified},
        metrics=estimates | dict(cells[0]),
        floor=lowest | dict(cells[1]),
        gates={name: judge(gate, (estimates | dict(cells[0])).get(name)) for name, gate in gates.items()},
        curves=shapes,
        provenance=provenance.header(seed=plan.seed, inputs=inputs),
    )


def _silent(_: str) -> None:
    """Report no progress."""
