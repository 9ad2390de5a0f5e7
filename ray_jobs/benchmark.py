"""Benchmark a node of the cluster as a job: the largest one, all of whose cores the task takes.

ray job submit --working-dir . -- python -m ray_jobs.benchmark --model lean --mlflow
"""

from pathlib import Path
from typing import Any

import click
import ray

from calogan import quiet
from calogan.benchmark.speed_report import SpeedReport
from calogan.cli import speeds
from calogan.cli.program import run
from calogan.cli.speeds import Request
from calogan.generation import model_folder
from calogan.tracking.location import locate
from ray_jobs.driver import get, join, node_cores, say


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def measure(folder: Path, request: Request) -> SpeedReport:
    """Benchmark the node of this task, and store its best setting there."""
    quiet.load_tensorflow()
    from calogan.benchmark import machine_speed  # noqa: PLC0415

    report = machine_speed.measure(
        folder,
        request.precisions,
        request.settings,
        beside=request.beside,
        progress=lambda line: say("benchmark", line),
    )
    if request.save:
        speeds.save(report)
    return report


@click.command()
@speeds.benchmark_options
def main(**arguments: Any) -> None:
    """Benchmark a model on a node of a Ray cluster; exit code 3 if showers are wrong."""
    request = speeds.parse(**arguments)
    found = locate(request.model, request.precisions[0])
    join()
    cores = max(node_cores(), default=1)
    say("benchmark", f"{model_folder.read(found).name} on a node of {cores} cores")
    report = get(measure.options(num_cpus=cores).remote(found.absolute(), request))
    speeds.finish(request, report)
    say("done", f"{len(report.rows)} contenders")


if __name__ == "__main__":
    run(main)
