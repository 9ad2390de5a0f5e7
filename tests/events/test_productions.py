import dataclasses
import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from calogan import provenance
from calogan.errors import EventsError, OutputError
from calogan.events import EnergyGaussian, EnergyList, EnergyRange, Events, open_events, productions, read_events
from calogan.events.productions import MANIFEST, PLAN, Production, Shard
from calogan.geometry import CLIC

PLAN_OF_TEN = Production(
    generator="test", showers=10, shard_showers=4, energy=EnergyRange(2, 500), seed=3, settings={"detail": "x"}
)


def events_of(shard: Shard) -> Iterator[Events]:
    """Showers whose energy is their number, in parts of three."""
    for first in range(shard.first, shard.first + shard.showers, 3):
        numbers = np.arange(first, min(first + 3, shard.first + shard.showers))
        showers = np.zeros((len(numbers), *CLIC.shape), np.float32)
        showers[:, 12, 12, 5] = 1 + numbers
        yield Events(showers, np.full(len(numbers), 100, np.float32))


def produce(folder: Path, plan: Production = PLAN_OF_TEN) -> tuple[Shard, ...]:
    missing = productions.begin(folder, plan)
    for shard in missing:
        productions.write_shard(folder, plan, shard, events_of(shard))
    productions.finish(folder, plan)
    return missing


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: provenance.sha256(path) for path in sorted(folder.iterdir())}


def test_shards_cover_the_production_once() -> None:
    assert [(s.file, s.first, s.showers) for s in PLAN_OF_TEN.shards] == [
        ("showers-00000.h5", 0, 4),
        ("showers-00001.h5", 4, 4),
        ("showers-00002.h5", 8, 2),
    ]


def test_a_production_is_read_in_order_and_matches_its_manifest(tmp_path: Path) -> None:
    produce(tmp_path / "p")
    assert read_events(tmp_path / "p").showers[:, 12, 12, 5].tolist() == list(range(1, 11))
    manifest = json.loads((tmp_path / "p" / MANIFEST).read_text())
    assert [shard["showers"] for shard in manifest["shards"]] == [4, 4, 2]
    assert productions.check_manifest(tmp_path / "p") == []


@pytest.mark.parametrize("file", ["showers-00000.h5", "showers-00002.h5", MANIFEST])
def test_only_lost_shards_are_made_again(tmp_path: Path, file: str) -> None:
    produce(tmp_path / "p")
    before = checksums(tmp_path / "p")
    (tmp_path / "p" / file).unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.h5")}
    missing = produce(tmp_path / "p")
    assert [shard.file for shard in missing] == ([file] if file != MANIFEST else [])
    after = checksums(tmp_path / "p")
    assert list(after) == list(before)
    assert {name for name in after if after[name] != before[name]} <= {MANIFEST}
    assert productions.check_manifest(tmp_path / "p") == []
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-100],
    "empty": lambda _: b"",
    "no signature": lambda data: b"\0" * 512 + data[512:],
    "one bit of a cell": lambda data: data[:-2000] + bytes([data[-2000] ^ 1]) + data[-1999:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_shard_of_a_finished_production_is_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    produce(tmp_path / "p")
    before = checksums(tmp_path / "p")
    path = tmp_path / "p" / "showers-00001.h5"
    path.write_bytes(damage(path.read_bytes()))
    assert productions.check_manifest(tmp_path / "p") == [
        "showers-00001.h5 has changed: its checksum differs from the manifest"
    ]
    assert [shard.file for shard in produce(tmp_path / "p")] == ["showers-00001.h5"]
    assert checksums(tmp_path / "p") == before


def test_leftovers_of_a_killed_writer_are_ignored_and_removed(tmp_path: Path) -> None:
    productions.begin(tmp_path / "p", PLAN_OF_TEN)
    leftover = tmp_path / "p" / ".showers-00000.h5.4711.part"
    leftover.mkdir()
    (leftover / "showers-00000.h5").write_bytes(b"half")
    produce(tmp_path / "p")
    assert not leftover.exists()
    assert len(open_events(tmp_path / "p")) == 10


def test_another_production_in_the_folder_is_refused(tmp_path: Path) -> None:
    produce(tmp_path / "p")
    other = Production(**{**vars(PLAN_OF_TEN), "seed": 4})
    with pytest.raises(EventsError, match=r"holds another production .*give the same settings"):
        productions.begin(tmp_path / "p", other)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.h5").write_bytes(b"")
    with pytest.raises(EventsError, match=r"holds files, but no production.json"):
        productions.begin(tmp_path, PLAN_OF_TEN)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be created"):
        productions.begin(tmp_path / "file", PLAN_OF_TEN)


def test_a_production_is_not_finished_without_all_shards(tmp_path: Path) -> None:
    productions.begin(tmp_path / "p", PLAN_OF_TEN)
    with pytest.raises(EventsError, match=r"3 shards are missing, the first is showers-00000\.h5; run the job again"):
        productions.finish(tmp_path / "p", PLAN_OF_TEN)
    assert [path.name for path in (tmp_path / "p").iterdir()] == [PLAN]


def test_a_manifest_reveals_missing_and_additional_files(tmp_path: Path) -> None:
    produce(tmp_path / "p")
    (tmp_path / "p" / "showers-00000.h5").rename(tmp_path / "p" / "other.h5")
    assert productions.check_manifest(tmp_path / "p") == [
        "showers-00000.h5 is missing",
        "other.h5 is not in the manifest",
    ]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"shards": [{"file": 1}]}'])
def test_an_invalid_manifest_is_reported(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(EventsError, match="is not the manifest of a production"):
        productions.check_manifest(tmp_path)


@pytest.mark.parametrize("file", ["showers-00001.h5", ".showers-00001.h5.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"half"])
def test_a_shard_of_a_stopped_production_is_kept_only_if_it_is_whole(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    for shard in productions.begin(tmp_path, PLAN_OF_TEN):
        productions.write_shard(tmp_path, PLAN_OF_TEN, shard, events_of(shard))
    path = tmp_path / file
    path.unlink() if content is None else path.write_bytes(content)
    lost_record_only = content is None and file.startswith(".")
    missing = [shard.file for shard in productions.begin(tmp_path, PLAN_OF_TEN)]
    assert missing == ([] if lost_record_only else ["showers-00001.h5"])
    produce(tmp_path)
    produce(tmp_path / "other")
    names = {shard.file for shard in PLAN_OF_TEN.shards}
    assert all(provenance.sha256(tmp_path / name) == provenance.sha256(tmp_path / "other" / name) for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {*names, PLAN, MANIFEST, "other"}


@pytest.mark.parametrize("format", ["arrow", "parquet", "npz", "calochallenge"])
def test_shards_have_any_format(tmp_path: Path, format: str) -> None:
    plan = dataclasses.replace(PLAN_OF_TEN, format=format)
    produce(tmp_path, plan)
    assert productions.begin(tmp_path, plan) == ()
    np.testing.assert_allclose(read_events(tmp_path).showers[:, 12, 12, 5], range(1, 11), rtol=1e-6)


def test_the_bytes_of_a_shard_do_not_depend_on_machine_and_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(tmp_path / "here")
    monkeypatch.setattr(provenance, "cpu", lambda: {"model": "another", "isa": "AVX2"})
    monkeypatch.setattr(provenance, "git_commit", lambda: "fedcba987654")
    monkeypatch.setattr(provenance, "_version", lambda _: "0")
    produce(tmp_path / "there")
    here, there = checksums(tmp_path / "here"), checksums(tmp_path / "there")
    assert {name for name in here if here[name] != there[name]} == {MANIFEST}
    (shard, *_) = json.loads((tmp_path / "there" / MANIFEST).read_text())["shards"]
    assert (shard["git_commit"], shard["cpu_isa"]) == ("fedcba987654", "AVX2")


def test_another_spectrum_is_another_production(tmp_path: Path) -> None:
    energies = EnergyList(np.array([10, 20, 30], np.float32), "0" * 64)
    plans = [dataclasses.replace(PLAN_OF_TEN, energy=energy) for energy in (EnergyRange(2, 500, log=True), energies)]
    assert len({plan.text for plan in (PLAN_OF_TEN, *plans)}) == 3
    assert '"law": "log-flat"' in plans[0].text
    assert energies.draw(5, 1, first=2).tolist() == [30, 10, 20, 30, 10]


def test_a_full_disk_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard, *_) = productions.begin(tmp_path, PLAN_OF_TEN)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(productions, "write_file", full)
    with pytest.raises(OutputError, match=r"cannot be written .No space left on device"):
        productions.write_shard(tmp_path, PLAN_OF_TEN, shard, events_of(shard))
    assert [path.name for path in tmp_path.iterdir()] == [PLAN]


@pytest.mark.parametrize(
    "energy", [EnergyRange(2.0, 500.0), EnergyRange(2.0, 500.0, log=True), EnergyGaussian(100.0, 5.0, 2.0, 500.0)]
)
def test_a_description_can_be_read_back(energy: EnergyRange | EnergyGaussian) -> None:
    plan = dataclasses.replace(PLAN_OF_TEN, energy=energy)
    assert productions.described(plan.text) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"energy": [1, "a"]}', '{"energy": {"law": "list"}}'])
def test_what_describes_no_production_is_refused(text: str) -> None:
    with pytest.raises(EventsError, match=r"describes no spectrum|is no description of a production"):
        productions.described(text)


def test_records_are_those_of_finished_shards_before_and_after_the_manifest(tmp_path: Path) -> None:
    first, *others = productions.begin(tmp_path, PLAN_OF_TEN)
    productions.write_shard(tmp_path, PLAN_OF_TEN, first, events_of(first))
    before = list(productions.read_records(tmp_path, PLAN_OF_TEN.shards))
    assert [record["file"] for record in before] == [first.file]
    for shard in others:
        productions.write_shard(tmp_path, PLAN_OF_TEN, shard, events_of(shard))
    productions.finish(tmp_path, PLAN_OF_TEN)
    after = list(productions.read_records(tmp_path, PLAN_OF_TEN.shards))
    assert [record["file"] for record in after] == [shard.file for shard in PLAN_OF_TEN.shards]
    assert after[0] == before[0]


def test_a_gaussian_spectrum_does_not_depend_on_how_it_is_divided() -> None:
    energy = EnergyGaussian(100.0, 10.0, 2.0, 500.0)
    whole = energy.draw(1000, 7)
    np.testing.assert_array_equal(np.concatenate([energy.draw(333, 7), energy.draw(667, 7, first=333)]), whole)
    assert whole.mean() == pytest.approx(100, abs=1.5)
    assert whole.std() == pytest.approx(10, abs=1)
