"""Productions: large ordered sets of showers, written as shards that a stopped job neither loses nor makes twice.

A production is described by `productions.json`, written before its first shard. Each shard is made from the description
and its own number alone, and takes its name when it is whole; so whoever makes which shard, and however often the work
is stopped, the bytes are the same. `manifest.json`, written last, lists all shards with their checksums.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from calogan import provenance
from calogan.atomic_files import PART, write_json, write_text
from calogan.errors import EventsError, OutputError
from calogan.events import EnergyRange, Events, open_events, write_events
from calogan.events.files import opened

PLAN, MANIFEST = "production.json", "manifest.json"
DIGEST = "production_sha256"  # attribute of every shard: the description it was made from


@dataclass(frozen=True)
class Shard:
    """A stretch of a production.

    Attributes:
        file: name of its file.
        first: number of its first shower in the production.
        showers: how many it holds.
    """

    file: str
    first: int
    showers: int


@dataclass(frozen=True)
class Production:
    """Description of a production; equal descriptions give equal showers.

    Attributes:
        generator: what makes the showers, such as `parametric simulation`.
        showers: how many.
        shard_showers: showers in a shard; the last one holds what is left.
        energy: range Ep is drawn from.
        seed: seed of energies and showers.
        settings: whatever else decides about the showers.
        format: format of the files, see `calogan.events`.
    """

    generator: str
    showers: int
    shard_showers: int
    energy: EnergyRange
    seed: int
    settings: Mapping[str, str]
    format: str = "clic"

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in order."""
        starts = range(0, self.showers, self.shard_showers)
        return tuple(
            Shard(f"showers-{number:05d}.h5", first, min(self.shard_showers, self.showers - first))
            for number, first in enumerate(starts)
        )

    @property
    def text(self) -> str:
        """The description as JSON."""
        energy = [self.energy.low, self.energy.high]
        return json.dumps({**vars(self), "settings": dict(self.settings), "energy": energy}, indent=1, sort_keys=True)


def begin(folder: Path, production: Production) -> tuple[Shard, ...]:
    """Start or take up a production; returns the shards that are not there yet.

    Raises:
        EventsError: the folder holds another production or files of something else.
        OutputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    plan = folder / PLAN
    if plan.exists():
        if plan.read_text(encoding="utf-8") != production.text:
            raise EventsError(
                f"{folder} holds another production (see {PLAN} there); give the same settings to go on with it, or "
                "another folder"
            )
    else:
        if any(folder.glob("*.h5")):
            raise EventsError(f"{folder} holds files, but no {PLAN}; name an empty or a new folder")
        write_text(plan, production.text)
    changed = _changed(folder) if (folder / MANIFEST).exists() else set()
    return tuple(
        shard
        for shard in production.shards
        if shard.file in changed or not _is_whole(folder / shard.file, production, shard)
    )


def header(production: Production, *, first: int = 0) -> dict[str, str]:
    """Say of a file where its showers come from, see `provenance.header`."""
    origin = {"generator": production.generator, "first": str(first)}
    return {
        **provenance.header(seed=production.seed),
        **origin,
        **production.settings,
        DIGEST: provenance.digest(production.text),
    }


def write_shard(
    folder: Path,
    production: Production,
    shard: Shard,
    events: Iterable[Events],
) -> Path:
    """Make one shard.

    Args:
        folder: of the production.
        production: its description.
        shard: which one.
        events: its showers, in parts.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_events(
        folder / shard.file, events, header=header(production, first=shard.first), format=production.format
    )


def finish(folder: Path, production: Production) -> Path:
    """Check that all shards are there and write the manifest; returns its path.

    Raises:
        EventsError: a shard is missing or damaged.
    """
    missing = [shard.file for shard in production.shards if not _is_whole(folder / shard.file, production, shard)]
    if missing:
        raise EventsError(f"{folder}: {len(missing)} shards are not there, {missing[0]} first; run the job again")
    for leftover in folder.glob(f".*{PART}"):  # of writers that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    shards = [{**vars(shard), "sha256": provenance.sha256(folder / shard.file)} for shard in production.shards]
    write_json(folder / MANIFEST, {"production": json.loads(production.text), "shards": shards})
    return folder / MANIFEST


def check_manifest(folder: Path) -> list[str]:
    """Compare the files of a finished production with its manifest; returns what is wrong, a line for each file.

    Raises:
        EventsError: there is no manifest, or it cannot be read.
    """
    listed = _read_manifest(folder)
    problems = [f"{name} is missing" for name in listed if not (folder / name).is_file()]
    problems += [
        f"{path.name} is not in the manifest" for path in sorted(folder.glob("*.h5")) if path.name not in listed
    ]
    return problems + [f"{name} is not what was written: its checksum differs" for name in sorted(_changed(folder))]


def _read_manifest(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return {str(shard["file"]): str(shard["sha256"]) for shard in shards}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EventsError(f"{path}: is not the manifest of a production ({error})") from error


def _changed(folder: Path) -> set[str]:
    """Names of files whose bytes are not those the manifest knows."""
    listed = _read_manifest(folder)
    return {
        name
        for name, checksum in listed.items()
        if (folder / name).is_file() and provenance.sha256(folder / name) != checksum
    }


def _is_whole(path: Path, production: Production, shard: Shard) -> bool:
    """Whether a shard is there as it was written; one that is damaged is made anew."""
    if not path.exists():
        return False
    try:
        with opened(path) as file:
            made_of = file.attrs.get(DIGEST)
        found = open_events(path, shape=None)
    except EventsError:
        return False
    return made_of == provenance.digest(production.text) and len(found) == shard.showers
