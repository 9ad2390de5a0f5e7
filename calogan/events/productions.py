"""Productions: large ordered sets of showers, written as shards; a job that stops loses no shard and repeats none.

A production is described by `production.json`, written before its first shard. Each shard depends on the description
and its own number only, and gets its final name once it is complete. So the bytes are the same whichever worker makes
a shard and however often the job is interrupted. `manifest.json`, written last, lists all shards with their checksums.
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
from calogan.events.files import open_hdf5
from calogan.events.writing import suffix_of

PLAN, MANIFEST = "production.json", "manifest.json"
DIGEST = "production_sha256"  # attribute of every shard: hash of the description of its production


@dataclass(frozen=True)
class Shard:
    """A stretch of a production.

    Attributes:
        file: name of its file.
        first: number of its first shower in the production.
        showers: number of showers in it.
    """

    file: str
    first: int
    showers: int


@dataclass(frozen=True)
class Production:
    """Description of a production; equal descriptions give equal showers.

    Attributes:
        generator: what makes the showers, such as `parametric simulation`.
        showers: number of showers.
        shard_showers: showers in a shard; the last one holds the remainder.
        energy: range that Ep is drawn from.
        seed: seed of energies and showers.
        settings: everything else that the showers depend on.
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
        starts, suffix = range(0, self.showers, self.shard_showers), suffix_of(self.format)
        return tuple(
            Shard(f"showers-{number:05d}{suffix}", first, min(self.shard_showers, self.showers - first))
            for number, first in enumerate(starts)
        )

    @property
    def text(self) -> str:
        """The description as JSON."""
        energy = [self.energy.low, self.energy.high]
        return json.dumps({**vars(self), "settings": dict(self.settings), "energy": energy}, indent=1, sort_keys=True)


def begin(folder: Path, production: Production) -> tuple[Shard, ...]:
    """Start or resume a production; returns the shards still to be made.

    Raises:
        EventsError: the folder holds another production or files of something else.
        OutputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror})") from error
    plan = folder / PLAN
    if plan.exists():
        if plan.read_text(encoding="utf-8") != production.text:
            raise EventsError(
                f"{folder} holds another production (see {PLAN} there); give the same settings to resume it, or choose "
                "another folder"
            )
    else:
        if any(folder.glob("*.h5")):
            raise EventsError(f"{folder} holds files, but no {PLAN}; choose an empty or a new folder")
        write_text(plan, production.text)
    changed = _changed(folder) if (folder / MANIFEST).exists() else set()
    return tuple(
        shard
        for shard in production.shards
        if shard.file in changed or not _is_complete(folder / shard.file, production, shard)
    )


def header(production: Production, *, first: int = 0) -> dict[str, str]:
    """Attributes that say where the showers of a file come from, see `provenance.header`."""
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
        folder: folder of the production.
        production: description of the production.
        shard: the shard to make.
        events: its showers, in parts.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_events(
        folder / shard.file, events, header=header(production, first=shard.first), format=production.format
    )


def finish(folder: Path, production: Production) -> Path:
    """Check that all shards exist and write the manifest; returns its path.

    Raises:
        EventsError: a shard is missing or damaged.
    """
    gaps = [shard.file for shard in production.shards if not _is_complete(folder / shard.file, production, shard)]
    if gaps:
        raise EventsError(f"{folder}: {len(gaps)} shards are missing, the first is {gaps[0]}; run the job again")
    for leftover in folder.glob(f".*{PART}"):  # of writers that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    shards = [{**vars(shard), "sha256": provenance.sha256(folder / shard.file)} for shard in production.shards]
    write_json(folder / MANIFEST, {"production": json.loads(production.text), "shards": shards})
    return folder / MANIFEST


def check_manifest(folder: Path) -> list[str]:
    """Compare the files of a finished production with its manifest; returns one line for each file that differs.

    Raises:
        EventsError: there is no manifest, or it cannot be read.
    """
    checksums = _read_manifest(folder)
    problems = [f"{name} is missing" for name in checksums if not (folder / name).is_file()]
    problems += [
        f"{path.name} is not in the manifest" for path in sorted(folder.glob("*.h5")) if path.name not in checksums
    ]
    return problems + [
        f"{name} has changed: its checksum differs from the manifest" for name in sorted(_changed(folder))
    ]


def _read_manifest(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return {str(shard["file"]): str(shard["sha256"]) for shard in shards}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EventsError(f"{path}: is not the manifest of a production ({error})") from error


def _changed(folder: Path) -> set[str]:
    """Names of the files whose checksum differs from the manifest."""
    return {
        name
        for name, checksum in _read_manifest(folder).items()
        if (folder / name).is_file() and provenance.sha256(folder / name) != checksum
    }


def _is_complete(path: Path, production: Production, shard: Shard) -> bool:
    """Whether a shard exists and can be read; a damaged one is made again."""
    if not path.exists():
        return False
    try:
        with open_hdf5(path) as file:
            digest = file.attrs.get(DIGEST)
        events = open_events(path, shape=None)
    except EventsError:
        return False
    return digest == provenance.digest(production.text) and len(events) == shard.showers
