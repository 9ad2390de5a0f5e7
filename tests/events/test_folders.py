"""Folders on a disk and in a real S3 server."""

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import httpx
import numpy as np
import pytest

from calogan.errors import EventsError, OutputError
from calogan.events import EnergyRange, Hits, productions
from calogan.events.folders import Folder
from calogan.events.productions import MANIFEST, PLAN, Production, Shard

PLAN_OF_TEN = Production(
    generator="test", showers=10, shard_showers=4, energy=EnergyRange(2, 500), seed=3, settings={}, format="arrow"
)


def events_of(shard: Shard) -> list[Hits]:
    """Showers of one hit, whose energy is their number."""
    numbers = np.arange(shard.first, shard.first + shard.showers)
    energy = np.full(len(numbers), 100, np.float32)
    return [Hits(np.arange(len(numbers) + 1), np.full(len(numbers), 7, np.uint16), 1 + numbers.astype("f4"), energy)]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an empty bucket on a server of its own."""
    pytest.importorskip("s3fs")
    if not importlib.util.find_spec("moto"):
        pytest.skip("moto is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        while True:
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("showers")
        yield "s3://showers"
    server.terminate()
    server.wait(30)


@pytest.fixture(params=["disk", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder of each kind."""
    match request.param:
        case "disk":
            url = str(tmp_path / "p")
        case "file":
            url = (tmp_path / "p").as_uri()
        case _:
            url = f"{request.getfixturevalue('s3')}/{request.node.name}"
    made = Folder(url)
    made.create()
    return made


def test_a_file_is_whole_or_not_there(folder: Folder) -> None:
    assert folder.sizes() == {}
    folder.write_text("a.json", "12345")
    with pytest.raises(KeyboardInterrupt), folder.write("b.json") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert folder.sizes() == {"a.json": 5}
    folder.write_text("a.json", "abc")
    assert folder.sizes() == {"a.json": 3}
    assert folder.read_text("a.json") == "abc"
    assert folder.sha256("a.json") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    folder.remove("a.json")
    assert folder.sizes() == {}


def test_a_production_resumes_and_is_the_same_everywhere(folder: Folder, tmp_path: Path) -> None:
    first, *_ = productions.begin(folder, PLAN_OF_TEN)
    productions.write_shard(folder, PLAN_OF_TEN, first, events_of(first))
    missing = productions.begin(folder, PLAN_OF_TEN)
    assert [shard.first for shard in missing] == [4, 8]
    with pytest.raises(EventsError, match="2 shards are missing"):
        productions.finish(folder, PLAN_OF_TEN)
    for shard in missing:
        productions.write_shard(folder, PLAN_OF_TEN, shard, events_of(shard))
    productions.finish(folder, PLAN_OF_TEN)
    assert set(folder.sizes()) == {PLAN, MANIFEST, *(shard.file for shard in PLAN_OF_TEN.shards)}
    assert productions.begin(folder, PLAN_OF_TEN) == ()
    assert productions.check_manifest(folder) == []

    other = Folder(str(tmp_path / "other"))
    for shard in productions.begin(other, PLAN_OF_TEN):
        productions.write_shard(other, PLAN_OF_TEN, shard, events_of(shard))
    productions.finish(other, PLAN_OF_TEN)
    assert all(folder.sha256(name) == other.sha256(name) for name in other.sizes())

    folder.write_text(PLAN_OF_TEN.shards[1].file, "damaged")
    assert productions.check_manifest(folder) == [
        "showers-00001.arrow has changed: its checksum differs from the manifest"
    ]
    assert [shard.file for shard in productions.begin(folder, PLAN_OF_TEN)] == ["showers-00001.arrow"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://a/b", "nowhere://a/b: cannot be accessed .*Protocol not known"),
        ("s3://no-such-bucket-here/p", "s3://no-such-bucket-here/p: cannot be accessed"),
    ],
)
def test_storage_that_cannot_be_reached_is_one_line(url: str, message: str, s3: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        productions.begin(url, PLAN_OF_TEN)
    assert "\n" not in str(caught.value)


def test_a_name_taken_by_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    with pytest.raises(OutputError, match="cannot be created"):
        Folder(str(tmp_path / "p")).create()
