"""Productions: large ordered sets of showers, written as shards; a job that stops loses no shard and repeats none.

A production is described by `production.json`, written before its first shard. Each shard depends on the description
and its own number only, and gets its final name once it is complete; a hidden record beside it then says its size and
checksum. So the bytes are the same whichever worker makes a shard and however often the job is interrupted.
`manifest.json`, written last, lists all shards with their checksums and replaces the records.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from calogan import provenance
from calogan.errors import CaloganError, EventsError
from calogan.events import Events, Hits, Spectrum, open_events
from calogan.events.files import read_header
from calogan.events.folders import Folder
from calogan.events.records import described_spectrum
from calogan.events.writing import suffix_of, write_file

PLAN, MANIFEST = "production.json", "manifest.json"
DIGEST = "production_sha256"  # attribute of every shard: hash of the description of its production
# Of `provenance.header`, what may change from worker to worker and while a production rests: not in the shards.
_CIRCUMSTANCES = ("cpu_model", "cpu_isa", "python", "versions", "git_commit")
Place = Folder | str | os.PathLike[str]


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
        energy: spectrum that Ep is drawn from.
        seed: seed of energies and showers.
        settings: everything else that the showers depend on.
        format: format of the files, see `calogan.events`.
    """

    generator: str
    showers: int
    shard_showers: int
    energy: Spectrum
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
        values = {**vars(self), "settings": dict(self.settings), "energy": self.energy.description}
        return json.dumps(values, indent=1, sort_keys=True)


def described(text: str) -> Production:
    """The production that a text of `Production.text` describes.

    Raises:
        EventsError: it describes none, or takes its energies from a file.
    """
    try:
        values = json.loads(text)
        return Production(**values | {"energy": described_spectrum(values["energy"])})
    except (ValueError, KeyError, TypeError) as error:
        raise EventsError(f"{text[:200]!r} is no description of a production ({error})") from error


def folder_of(place: Place) -> Folder:
    """The folder of a path or URL."""
    return place if isinstance(place, Folder) else Folder(os.fspath(place).rstrip("/") or "/")


def begin(place: Place, production: Production) -> tuple[Shard, ...]:
    """Start or resume a production; returns the shards still to be made.

    Args:
        place: path or URL of the folder of the production.
        production: description of the production.

    Raises:
        EventsError: the folder holds another production or files of something else.
        OutputError: the folder cannot be made or written to.
    """
    folder = folder_of(place)
    folder.create()
    sizes = folder.sizes()
    if PLAN in sizes:
        if folder.read_text(PLAN) != production.text:
            raise EventsError(
                f"{folder} holds another production (see {PLAN} there); give the same settings to resume it, or choose "
                "another folder"
            )
    else:
        if any(not name.startswith(".") for name in sizes):
            raise EventsError(f"{folder} holds files, but no {PLAN}; choose an empty or a new folder")
        folder.write_text(PLAN, production.text)
    finished = _finished(folder, production, sizes)
    return tuple(shard for shard in production.shards if shard.file not in finished)


def header(production: Production, *, first: int = 0) -> dict[str, str]:
    """Attributes that say where the showers of a file come from, see `provenance.header`."""
    origin = {"generator": production.generator, "first": str(first)}
    common = provenance.header(seed=production.seed)
    return {
        **{name: value for name, value in common.items() if name not in _CIRCUMSTANCES},
        **origin,
        **production.settings,
        DIGEST: provenance.digest(production.text),
    }


def write_shard(place: Place, production: Production, shard: Shard, events: Iterable[Events | Hits]) -> Shard:
    """Make one shard.

    Args:
        place: folder of the production.
        production: description of the production.
        shard: the shard to make.
        events: its showers, in parts.

    Raises:
        OutputError: the file cannot be written.
    """
    folder = folder_of(place)
    with folder.write(shard.file) as temporary:
        write_file(temporary, events, header=header(production, first=shard.first), format=production.format)
        size, checksum = temporary.stat().st_size, provenance.sha256(temporary)
    made_by = {"git_commit": provenance.git_commit(), "cpu_isa": provenance.cpu()["isa"]}
    record = {**vars(shard), "bytes": size, "sha256": checksum, **made_by}
    folder.write_text(_record(shard.file), json.dumps(record))
    return shard


def read_records(place: Place, shards: Iterable[Shard]) -> Iterator[dict[str, Any]]:
    """What is known of shards that are there, finished or not: as in the manifest.

    Raises:
        EventsError: the manifest cannot be read.
    """
    folder = folder_of(place)
    sizes = folder.sizes()
    listed = _read_manifest(folder) if MANIFEST in sizes else {}
    for shard in shards:
        if shard.file in listed:
            yield listed[shard.file]
        elif shard.file in sizes and _record(shard.file) in sizes:
            entry = _read_record(folder, shard)
            if entry.get("bytes") == sizes[shard.file]:
                yield entry


def finish(place: Place, production: Production) -> str:
    """Check that all shards exist and write the manifest; returns its path or URL.

    Raises:
        EventsError: a shard is missing or damaged.
    """
    folder = folder_of(place)
    sizes = folder.sizes()
    finished = _finished(folder, production, sizes)
    gaps = [shard.file for shard in production.shards if shard.file not in finished]
    if gaps:
        raise EventsError(f"{folder}: {len(gaps)} shards are missing, the first is {gaps[0]}; run the job again")
    content = {
        "production": json.loads(production.text),
        "provenance": provenance.header(seed=production.seed),
        "shards": [finished[shard.file] for shard in production.shards],
    }
    folder.write_text(MANIFEST, json.dumps(content, indent=1) + "\n")
    for shard in production.shards:
        if _record(shard.file) in sizes:
            folder.remove(_record(shard.file))
    folder.remove_leftovers()
    return f"{folder}/{MANIFEST}"


def check_manifest(place: Place) -> list[str]:
    """Compare the files of a finished production with its manifest; returns one line for each file that differs.

    Raises:
        EventsError: there is no manifest, or it cannot be read.
    """
    folder = folder_of(place)
    shards, sizes = _read_manifest(folder), folder.sizes()
    unknown = sorted(name for name in sizes if name not in (*shards, PLAN, MANIFEST) and not name.startswith("."))
    return [
        *(f"{name} is missing" for name in shards if name not in sizes),
        *(f"{name} is not in the manifest" for name in unknown),
        *(
            f"{name} has changed: its checksum differs from the manifest"
            for name, shard in sorted(shards.items())
            if name in sizes and folder.sha256(name) != shard["sha256"]
        ),
    ]


def _record(file: str) -> str:
    return f".{file}.json"


def _finished(folder: Folder, production: Production, sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """What the manifest lists of each shard that is there and whole."""
    listed = _read_manifest(folder) if MANIFEST in sizes else {}
    finished: dict[str, dict[str, Any]] = {}
    for shard in production.shards:
        if shard.file not in sizes:
            continue
        if _record(shard.file) in sizes:
            entry = _read_record(folder, shard)
        elif shard.file in listed:
            entry = listed[shard.file]
            if folder.sha256(shard.file) != entry["sha256"]:
                continue
        else:
            entry = _recovered(folder, production, shard)
        if entry.get("bytes") == sizes[shard.file]:
            finished[shard.file] = entry
    return finished


def _read_record(folder: Folder, shard: Shard) -> dict[str, Any]:
    try:
        entry = json.loads(folder.read_text(_record(shard.file)))
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and vars(shard).items() <= entry.items() else {}


def _recovered(folder: Folder, production: Production, shard: Shard) -> dict[str, Any]:
    """What the record of a shard would say that has none, because its writer or the manifest was lost."""
    if folder.path is None:
        return {}
    path = folder.path / shard.file
    try:
        digest, showers = read_header(path).get(DIGEST), len(open_events(path, shape=None))
    except EventsError:
        return {}
    if (digest, showers) != (provenance.digest(production.text), shard.showers):
        return {}
    return {**vars(shard), "bytes": path.stat().st_size, "sha256": provenance.sha256(path)}


def _read_manifest(folder: Folder) -> dict[str, dict[str, Any]]:
    try:
        shards = json.loads(folder.read_text(MANIFEST))["shards"]
        return {str(shard["file"]): {**shard, "sha256": str(shard["sha256"])} for shard in shards}
    except (CaloganError, ValueError, KeyError, TypeError) as error:
        raise EventsError(f"{folder}/{MANIFEST}: is not the manifest of a production ({error})") from error
