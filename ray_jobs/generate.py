"""Generate showers with a model on all cores of a cluster, as shards in a shared folder or an object store.

ray job submit --working-dir . -- python -m ray_jobs.generate --precision int8 --n 1000000 --out /shared/showers
"""

import time
import uuid
from pathlib import Path
from typing import Any

import click
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from calogan.cli import options
from calogan.cli.production import is_file
from calogan.cli.program import run
from calogan.errors import OutputError, RequestError
from calogan.events import productions, read_spectrum
from calogan.events.folders import Folder
from calogan.events.productions import Production, Shard
from calogan.generation import shards
from calogan.tracking.location import locate
from ray_jobs import shard_workers
from ray_jobs.driver import cancelled_with_driver, join, node_cores, say, threads

_AHEAD = 2  # shards handed out for each core


# A worker that dies leaves no file, and its shard is made again; an error of the shard itself ends the job.
make_shard = ray.remote(max_retries=20, num_cpus=1, scheduling_strategy="SPREAD")(shard_workers.make_shard)
sees = ray.remote(num_cpus=0)(shard_workers.sees)


def check_shared(folder: Folder) -> None:
    """Check that all nodes see the files that the driver writes.

    Raises:
        OutputError: one does not.
    """
    token = f".{uuid.uuid4().hex}.check"
    folder.write_text(token, "")
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        affinities = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = ray.get([sees.options(scheduling_strategy=place).remote(folder, token) for place in affinities])
    finally:
        folder.remove(token)
    blind = [node["NodeManagerAddress"] for node, answer in zip(nodes, answers, strict=True) if not answer]
    if blind:
        raise OutputError(
            f"{folder}: is not shared by all nodes of the cluster, {len(blind)} of {len(nodes)} do not see it (the first "
            f"is {blind[0]}); give a folder on storage that all of them mount, or a URL such as s3://bucket/folder"
        )


@click.command()
@options.model
@options.precision
@options.energy
@click.option("--n", type=click.IntRange(1), required=True, help="How many showers.")
@options.seed
@options.written_format
@options.shard_size
@click.option("--out", required=True, help="Folder of the shards, shared by all nodes, or a URL such as s3://...")
def main(
    model: str,
    precision: str,
    energy: str,
    n: int,
    seed: int,
    file_format: str | None,
    shard_size: int | None,
    out: str,
) -> None:
    """Generate showers on a Ray cluster; submit an interrupted job again, finished shards are kept."""
    if is_file(out):
        raise RequestError(f"{out} is the name of a file; name a folder for the shards")
    folder = productions.folder_of(out if "://" in out else Path(out).resolve())
    where = model if ":" in model or not Path(model).exists() else str(Path(model).resolve())
    plan = shards.plan(
        locate(where, precision),
        precision,
        read_spectrum(energy),
        showers=n,
        seed=seed,
        shard_showers=shard_size,
        format=file_format,
    )
    missing = productions.begin(folder, plan)
    join()
    check_shared(folder)
    say("generate", f"{n} showers of {plan.generator} {precision}, {len(plan.shards)} shards, {len(missing)} to make")
    make_all(folder, plan, missing, where)
    say("done", productions.finish(folder, plan))


def make_all(folder: Folder, plan: Production, missing: tuple[Shard, ...], model: str) -> None:
    """Make the missing shards on all cores of the cluster, and print the progress."""
    shared, remaining = ray.put(plan), list(reversed(missing))
    submit = make_shard.options(runtime_env={"env_vars": threads(1)}).remote
    started, made = time.monotonic(), 0
    running: list[Any] = []
    with cancelled_with_driver(running):
        while remaining or running:
            while remaining and len(running) < _AHEAD * max(1, sum(node_cores())):
                running.append(submit(folder, shared, remaining.pop(), model))
            ready, _ = ray.wait(running)
            for task in ready:
                running.remove(task)
                shard = ray.get(task)
                made += shard.showers
                rate = made / (time.monotonic() - started)
                left = sum(shard.showers for shard in missing) - made
                done = plan.showers - left
                say(
                    "generate",
                    f"{shard.file}  {done} of {plan.showers} showers, {done / plan.showers:.0%}  {rate:.0f} showers/s  "
                    f"{left / rate:.0f} s left",
                )


if __name__ == "__main__":
    run(main)
