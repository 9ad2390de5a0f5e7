"""Compare the showers per second of a production with those of the kernel alone, for each format, on one core.

python docs/scripts/measure_production.py --n 8192 --rounds 5 --folder /tmp/speed
"""

import json
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click

from calogan import provenance
from calogan.benchmark.cores import one_core
from calogan.events import parse_energy, productions
from calogan.events.productions import Production
from calogan.generation import generator, model_folder, shards

FORMATS = ("arrow", "parquet", "showerdata", "clic")
_PART = 1024


@click.command()
@click.option("--model", default="lean", show_default=True)
@click.option("--precision", default="int8", show_default=True)
@click.option("--n", type=click.IntRange(1), default=8192, show_default=True, help="Showers of a shard.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where the shards are written.")
def main(model: str, precision: str, n: int, rounds: int, folder: Path) -> None:
    """Interleave the kernel and one shard of each format, and print medians as JSON."""
    path, spectrum = model_folder.find(model), parse_energy("2:500")
    loaded = generator.load(path, precision=precision)

    def kernel() -> None:
        for first in range(0, n, _PART):
            energies = spectrum.draw(min(_PART, n - first), 1, first=first)
            loaded.sample(energies, seed=1, first=first, sparse=True)

    def shard(plan: Production) -> Callable[[], None]:
        def make() -> None:
            place = folder / plan.format
            shutil.rmtree(place, ignore_errors=True)
            for one in productions.begin(place, plan):
                shards.make_shard(place, plan, one, model=path)

        return make

    plans = [shards.plan(path, precision, spectrum, showers=n, seed=1, shard_showers=n, format=f) for f in FORMATS]
    ways = {"kernel": kernel} | {plan.format: shard(plan) for plan in plans}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    with one_core():  # shared, if others measure: look at the processor time
        for number in range(rounds + 1):  # the first one warms up
            for name, way in ways.items():
                started, used = time.perf_counter(), time.process_time()
                way()
                if number:
                    wall[name].append(time.perf_counter() - started)
                    processor[name].append(time.process_time() - used)
    rows = {
        name: {
            "showers_per_s": round(n / statistics.median(wall[name])),
            "of_the_kernel": _ratio(wall, name),
            "of_the_kernel_by_processor_time": _ratio(processor, name),
            "bytes_per_shower": 0 if name == "kernel" else _size(folder / name, n),
        }
        for name in ways
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(
        json.dumps({"cpu": provenance.cpu(), "n": n, "peak_memory_mb": round(memory), "formats": rows}, indent=1)
    )


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    """Median over the rounds of the kernel's time over that of a format."""
    pairs = zip(seconds["kernel"], seconds[name], strict=True)
    return round(statistics.median(kernel / own for kernel, own in pairs), 3)


def _size(folder: Path, n: int) -> int:
    return round(sum(file.stat().st_size for file in folder.glob("showers-*")) / n)


if __name__ == "__main__":
    main()
