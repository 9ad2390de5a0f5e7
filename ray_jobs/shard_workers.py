"""What the workers of a production keep from shard to shard: their core and their model."""

import contextlib
import functools
from pathlib import Path

from calogan.benchmark.cores import own_core
from calogan.errors import OutputError, ServiceError
from calogan.events.folders import Folder
from calogan.events.productions import Production, Shard
from calogan.generation import shards
from calogan.tracking.location import locate


def make_shard(folder: Folder, plan: Production, shard: Shard, model: str) -> Shard:
    """Make one shard on one core, see `shards.make_shard`."""
    _pin()
    return shards.make_shard(folder, plan, shard, model=_located(model, plan.settings["precision"]))


def sees(folder: Folder, name: str) -> bool:
    """Whether this node sees a file of the folder."""
    with contextlib.suppress(OutputError):
        return name in folder.sizes()
    return False


@functools.cache
def _pin() -> None:
    """Reserve a core for this worker as long as it lives; without one it runs on any."""
    with contextlib.suppress(ServiceError):
        _reservations.enter_context(own_core(patience=0))


@functools.cache
def _located(model: str, precision: str) -> Path:
    return locate(model, precision)


_reservations = contextlib.ExitStack()
