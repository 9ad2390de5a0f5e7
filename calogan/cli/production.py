"""Productions from the command line: shards in a folder, made on all cores of this machine."""

import functools
import time
from collections.abc import Callable

from calogan.cli.screen import rate_bar, screen
from calogan.events import productions, workers
from calogan.events.files import SUFFIXES
from calogan.events.productions import Production, Shard


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
