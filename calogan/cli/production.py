"""Productions from the command line: shards in a folder, made on all cores of this machine."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from calogan import provenance
from calogan.cli.loading import api_key
from calogan.cli.screen import rate_bar, screen
from calogan.errors import RequestError
from calogan.events import parse_energy, productions, read_spectrum, workers
from calogan.events.files import SUFFIXES
from calogan.events.productions import Production, Shard
from calogan.generation import shards
from calogan.tracking.location import locate


def is_file(out: str) -> bool:
    """Whether the showers go into one file, by its name; anything else is a folder of shards."""
    return out.endswith(SUFFIXES) and "://" not in out


def produce(out: str, plan: Production, make: Callable[..., Shard], *, processes: int | None) -> None:
    """Make the missing shards of a production and its manifest.

    Args:
        out: path or URL of the folder.
        plan: description of the production.
        make: makes one shard: (place, production, shard).
        processes: number of worker processes; None for one on each core.
    """
    folder = productions.folder_of(out)
    missing = productions.begin(folder, plan)
    existing = plan.showers - sum(shard.showers for shard in missing)
    if existing:
        screen.print(f"{existing} of {plan.showers} showers already exist")
    started = time.monotonic()
    with rate_bar("generating", plan.showers) as advance:
        advance(existing)
        count = processes or workers.cores()
        for shard in workers.make_all(missing, functools.partial(make, folder, plan), workers=count):
            advance(shard.showers)
    seconds = time.monotonic() - started
    made = plan.showers - existing
    rate = f", {made / seconds:.0f} showers/s" if missing else ""
    screen.print(f"wrote {productions.finish(folder, plan)}: {plan.showers} showers in {len(plan.shards)} files{rate}")


@dataclass(frozen=True)
class Order:
    """A production as the options of a command describe it.

    Attributes:
        model: packaged name, folder, or address in the registry.
        precision: its precision.
        energy: text of a spectrum.
        n: number of showers.
        seed: their seed.
        format: format of the shards; None for the usual one.
        shard_showers: showers in a shard; None for the usual number.
    """

    model: str
    precision: str
    energy: str
    n: int
    seed: int
    format: str | None
    shard_showers: int | None


def generate(out: str, order: Order, *, url: str | None, processes: int | None) -> None:
    """Generate a production with a model, here or at an endpoint.

    Args:
        out: path or URL of the folder.
        order: the production.
        url: address of the endpoint that makes it; None to make it here.
        processes: number of worker processes here; None for one on each core.
    """
    if url:
        if processes or "://" in out:
            raise RequestError("with --url, the endpoint makes the shards (no --workers), and --out is a folder here")
        _fetch(url, Path(out), order)
        return
    path = locate(order.model, order.precision)
    plan = shards.plan(
        path,
        order.precision,
        read_spectrum(order.energy),
        showers=order.n,
        seed=order.seed,
        shard_showers=order.shard_showers,
        format=order.format,
    )
    produce(out, plan, functools.partial(shards.make_shard, model=path), processes=processes)


def _fetch(url: str, out: Path, order: Order) -> None:
    """Let an endpoint make a production, and fetch its shards; the endpoint's copy is removed at the end."""
    from calogan.serving.client import Client  # noqa: PLC0415 - httpx takes a while

    with Client(url, api_key()) as client:
        model = client.describe(order.precision)
        plan = shards.production_of(
            model["generator"],
            model["model_version"],
            order.precision,
            parse_energy(order.energy),
            showers=order.n,
            seed=order.seed,
            shard_showers=order.shard_showers,
            format=order.format,
        )
        if not productions.begin(out, plan):
            screen.print(f"all {order.n} showers already exist: {productions.finish(out, plan)}")
            return
        remote = client.production(
            energy=order.energy,
            n=order.n,
            seed=order.seed,
            precision=order.precision,
            format=plan.format,
            shard_showers=plan.shard_showers,
            # The same command finds the production of its first run again.
            key=provenance.digest(f"{out.resolve()}\n{plan.text}"),
        )
        with rate_bar(f"receiving from {url}", order.n) as advance:
            manifest = remote.download(out, advance)
        remote.cancel()
    screen.print(f"wrote {manifest}: {order.n} showers in {len(plan.shards)} files")
