"""Simulate showers on all cores of a cluster, as shards in a shared folder; a job that was stopped goes on.

ray job submit --working-dir . -- python -m ray_jobs.simulate --engine geant4 --n 100000 --out /shared/geant4
"""

from pathlib import Path

import click
import ray

from calogan import production
from calogan.events import WRITTEN_FORMATS, parse_energy
from calogan.production import Production, Shard
from calogan.simulation import engines
from calogan.simulation.engines import Engine
from ray_jobs.cluster import join, run, say


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def make_shard(folder: Path, plan: Production, shard: Shard, engine: Engine) -> Shard:
    """Make one shard on one core; a worker that dies leaves nothing, and its shard is made again."""
    engines.make_shard(folder, plan, shard, engine)
    return shard


@click.command()
@click.option("--engine", "name", type=click.Choice(engines.ENGINES), default="parametric", show_default=True)
@click.option("--energy", default="2:500", show_default=True, help="Ep in GeV: 200, or 2:500 for a flat range.")
@click.option("--n", type=click.IntRange(1), required=True, help="How many showers.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Equal seeds, equal bytes."
)
@click.option("--shard-size", type=click.IntRange(1), help="Showers in a file.")
@click.option("--format", "file_format", type=click.Choice(WRITTEN_FORMATS), default="clic", show_default=True)
@click.option(
    "--tuning", type=click.Path(path_type=Path), help="Constants of the parametrisation, see tune-parametric."
)
@click.option("--detector", default="clic", show_default=True, help="Geant4: packaged detector or TOML file.")
@click.option("--field", type=float, default=4.0, show_default=True, help="Geant4: magnetic field, T.")
@click.option("--cut", type=float, default=0.7, show_default=True, help="Geant4: production cut, mm.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the shards, shared by all nodes."
)
def main(
    name: str,
    energy: str,
    n: int,
    seed: int,
    shard_size: int | None,
    file_format: str,
    tuning: Path | None,
    detector: str,
    field: float,
    cut: float,
    out: Path,
) -> None:
    """Simulate showers on a Ray cluster; submit again what was stopped, finished shards are kept."""
    engine = engines.load_engine(name, tuning=tuning, detector=detector, field_tesla=field, cut_mm=cut)
    plan = engines.plan(
        engine, parse_energy(energy), showers=n, seed=seed, shard_showers=shard_size, format=file_format
    )
    folder = out.resolve()
    missing = production.begin(folder, plan)
    join()
    done = sum(shard.showers for shard in plan.shards) - sum(shard.showers for shard in missing)
    say("simulate", f"{n} showers, {len(plan.shards)} shards, {len(missing)} of them to make; {plan.generator}")
    waiting = [make_shard.options(num_cpus=1).remote(folder, plan, shard, engine) for shard in missing]
    while waiting:
        ready, waiting = ray.wait(waiting)
        for shard in ray.get(ready):
            done += shard.showers
            say("simulate", f"{shard.file}  {done} of {n} showers, {done / n:.0%}")
    say("done", str(production.finish(folder, plan)))


if __name__ == "__main__":
    run(main)
