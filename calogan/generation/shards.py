"""Productions of a generator: their description, and their shards, one at a time."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from calogan.errors import ModelError
from calogan.events import Hits, Spectrum, require_within
from calogan.events.productions import Place, Production, Shard, write_shard
from calogan.generation import model_folder
from calogan.quiet import load_tensorflow

if TYPE_CHECKING:
    from calogan.generation.generator import Generator

SHARD_SHOWERS = 16384  # seconds of work, which is the most that a killed job loses; 150 MB as an Arrow stream
PART = 1024  # showers in memory at a time


def plan(
    folder: Path,
    precision: str,
    energy: Spectrum,
    *,
    showers: int,
    seed: int,
    shard_showers: int | None = None,
    format: str | None = None,
) -> Production:
    """Plan a production of a model; its shards are Arrow streams by default.

    Raises:
        ModelError: the model is damaged, or does not have the precision.
        RequestError: the energies are outside the range of the model.
    """
    model = model_folder.read(folder)
    model_folder.check_files(folder, model, precision)
    require_within(energy, *model.energy_range, whose="this model")
    return production_of(
        model.name,
        model.version(precision),
        precision,
        energy,
        showers=showers,
        seed=seed,
        shard_showers=shard_showers,
        format=format,
    )


def production_of(
    name: str,
    version: str,
    precision: str,
    energy: Spectrum,
    *,
    showers: int,
    seed: int,
    shard_showers: int | None = None,
    format: str | None = None,
) -> Production:
    """Describe a production of a model that is known to make it, see `plan`."""
    return Production(
        generator=name,
        showers=showers,
        shard_showers=shard_showers or SHARD_SHOWERS,
        energy=energy,
        seed=seed,
        settings={"model_version": version, "precision": precision},
        format=format or "arrow",
    )


def make_shard(place: Place, production: Production, shard: Shard, *, model: Path) -> Shard:
    """Draw and write one shard of a production, on one core; its bytes do not depend on the machine or the order.

    Args:
        place: path or URL of the folder of the production.
        production: description of the production.
        shard: the shard to make.
        model: folder of the model.

    Raises:
        ModelError: the model is not that of the description.
        OutputError: the file cannot be written.
    """
    generator = _generator(model, production.settings["precision"])
    if generator.version != production.settings["model_version"]:
        raise ModelError(
            f"{model}: has version {generator.version}, but the production is of {production.settings['model_version']}; "
            "give the model it was begun with"
        )

    def parts() -> Iterator[Hits]:
        for first in range(shard.first, shard.first + shard.showers, PART):
            n = min(PART, shard.first + shard.showers - first)
            energies = production.energy.draw(n, production.seed, first=first)
            yield generator.sample(energies, seed=production.seed, first=first, sparse=True)

    return write_shard(place, production, shard, parts())


@functools.lru_cache(maxsize=1)
def _generator(model: Path, precision: str) -> "Generator":
    load_tensorflow()
    from calogan.generation.generator import load  # noqa: PLC0415 - takes seconds, and planning does not need it

    return load(model, precision=precision)
