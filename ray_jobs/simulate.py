"""Simulate showers on all cores of a cluster, as shards in a shared folder; an interrupted job resumes.

ray job submit --working-dir . -- python -m ray_jobs.simulate --engine geant4 --n 100000 --out /shared/geant4
"""

from pathlib import Path

import click
import ray

from calogan.cli import options
from calogan.cli.program import run
from calogan.events import parse_energy, productions
from calogan.events.productions import Production, Shard
from calogan.simulation import engines
from calogan.simulation.engines import Engine
from ray_jobs.driver import cancelled_with_driver, join, say


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def make_shard(folder: Path, plan: Production, shard: Shard, engine: Engine) -> Shard:
    """Make one shard on one core; if the worker dies, it leaves no file, and the shard is made again."""
    engines.make_shard(folder, plan, shard, engine)
    return shard


@click.command()
@options.engine
@options.energy
@click.option("--n", type=click.IntRange(1), required=True, help="How many showers.")
@options.seed
@options.written_format
@click.option("--shard-size", type=click.IntRange(1), help="Showers in a file.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the shards, shared by all nodes."
)
def main(
    engine: str,
    energy: str,
    n: int,
    seed: int,
    file_format: str | None,
    tuning: Path | None,
    detector: str,
    field: float,
    cut: float,
    shard_size: int | None,
    out: Path,
) -> None:
    """Simulate showers on a Ray cluster; submit an interrupted job again, finished shards are kept."""
    simulation = engines.load_engine(engine, tuning=tuning, detector=detector, field_tesla=field, cut_mm=cut)
    plan = engines.plan(
        simulation, parse_energy(energy), showers=n, seed=seed, shard_showers=shard_size, format=file_format
    )
    folder = out.resolve()
    missing = productions.begin(folder, plan)
    join()
    count = sum(shard.showers for shard in plan.shards) - sum(shard.showers for shard in missing)
    say("simulate", f"{n} showers, {len(plan.shards)} shards, {len(missing)} of them to make; {plan.generator}")
    tasks = [make_shard.options(num_cpus=1).remote(folder, plan, shard, simulation) for shard in missing]
    with cancelled_with_driver(tasks):
        waiting = tasks
        while waiting:
            ready, waiting = ray.wait(waiting)
            for shard in ray.get(ready):
                count += shard.showers
                say("simulate", f"{shard.file}  {count} of {n} showers, {count / n:.0%}")
    say("done", str(productions.finish(folder, plan)))


if __name__ == "__main__":
    run(main)
