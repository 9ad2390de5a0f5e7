"""Train a generator as a job.

ray job submit --working-dir . -- python -m ray_jobs.train --config tiny --out /shared/calogan/my-model
"""

from pathlib import Path

import click
import ray

from calogan import steps
from calogan.config import Config, load_config
from ray_jobs.cluster import cores, join, run, say, say_epoch


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def train(config: Config, folder: Path) -> float:
    """Train and freeze; a worker that died goes on from its last checkpoint."""
    return steps.train_model(config, folder, on_epoch=say_epoch).best.score or 0.0


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the model, shared by all nodes.")
def main(config_name: str, out: Path) -> None:
    """Train a generator on a Ray cluster; a job that was stopped goes on when it is submitted again."""
    config = load_config(config_name)
    join()
    score = ray.get(train.options(num_cpus=cores()).remote(config, out.resolve()))
    say("done", f"{out.resolve()}, physics score {score:.3f}")


if __name__ == "__main__":
    run(main)
