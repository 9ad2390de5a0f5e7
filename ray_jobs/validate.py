"""Compare samples of any size as a job: parts of both are observed on all cores of the cluster.

ray job submit --working-dir . -- python -m ray_jobs.validate --reference g4/ --candidate 'showers-*.h5' --json v.json
"""

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import ray

from calogan.cli import comparisons, options
from calogan.cli.comparisons import Paths
from calogan.cli.program import run
from calogan.events import open_events
from calogan.validation.gates import Gate
from calogan.validation.parts import Part, PartSummary, Plan, divide, merge, observe_part
from calogan.validation.report import ValidationReport
from calogan.validation.validate import SAMPLES, compare_cells, conclude, prepare
from ray_jobs.driver import join, say

BLOCKS = 8  # of 1,024 showers in a task: seconds of work, and 50 MB of results


@ray.remote(num_cpus=1, max_retries=3)  # type: ignore[untyped-decorator]
def observe(part: Part, source: Paths, float32: Paths) -> PartSummary:
    """Observe a part on a worker."""
    return observe_part(open_events(source), part, open_events(float32) if float32 else None)


def validate(
    reference: Paths,
    candidate: Paths,
    float32: Paths = (),
    *,
    gates: Mapping[str, Gate],
    floor: bool = True,
    thorough: bool = False,
    cell_trainings: int = 0,
    seed: int = 0,
    blocks: int = BLOCKS,
    task: Any = observe,
) -> ValidationReport:
    """Compare samples on the cluster; the report equals that of `validate.validate`, bit for bit.

    Args:
        reference: files, folders or patterns of Geant4 showers, which every worker can read.
        candidate: files of showers of any generator.
        float32: files of the float32 model with the latent numbers of the candidate; empty to skip pixel-wise metrics.
        gates: limits by name of the metric.
        floor: also compare the reference with itself.
        thorough: see `validate.validate`.
        cell_trainings: see `validate.validate`.
        seed: see `validate.validate`.
        blocks: blocks of showers in a task.
        task: the remote function that observes a part.

    Raises:
        EventsError: files cannot be read, or the samples cannot be compared.
    """
    named = (reference, candidate)
    sources = [open_events(paths) for paths in named]
    float32_source = open_events(float32) if float32 else None
    inputs = [path for source in (*sources, *([float32_source] if float32_source else [])) for path in source.paths]
    plan = prepare(sources[0], sources[1], float32=float32_source, floor=floor, seed=seed)
    # All parts of both samples are started before waiting for the first.
    started = [
        deque((part, task.remote(part, paths, float32 if of else ())) for part in divide(plan, of, blocks=blocks))
        for of, paths in enumerate(named)
    ]
    summaries = [merge(_finished(tasks, plan), len(source)) for tasks, source in zip(started, sources, strict=True)]
    progress = functools.partial(say, "compare")
    cells = compare_cells(plan, *sources, trainings=cell_trainings, progress=progress)
    return conclude(plan, *summaries, cells=cells, thorough=thorough, gates=gates, inputs=inputs, progress=progress)


def _finished(tasks: deque[tuple[Part, Any]], plan: Plan) -> Iterator[PartSummary]:
    """Results in the order of the showers; each is released before the next is fetched."""
    while tasks:
        part, reference = tasks.popleft()
        summary: PartSummary = ray.get(reference)
        say("observe", f"{SAMPLES[part.of]}: {part.stop:,} of {plan.weights[part.of].shape[1]:,} showers")
        yield summary


@click.command()
@options.comparison
@click.option(
    "--blocks", type=click.IntRange(1), default=BLOCKS, show_default=True, help="1,024 showers each, per task."
)
def main(blocks: int, **options: Any) -> None:
    """Validate on a Ray cluster; exit code 3 if a gate fails. Every worker must have access to the files."""
    comparison = comparisons.parse(**options)
    join()

    def compare(*named: Paths, **settings: Any) -> ValidationReport:
        seen_by_all = (tuple(str(Path(path).absolute()) for path in paths) for paths in named)
        return validate(*seen_by_all, blocks=blocks, **settings)

    comparisons.run(comparison, compare)


if __name__ == "__main__":
    run(main)
