"""Workers in processes of their own, killed and stopped."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from calogan.errors import OutputError, RequestError
from calogan.events import workers
from calogan.events.productions import Shard

SHARDS = [Shard(f"{number}", number, 1) for number in range(5)]
CODE = """
import functools, pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background starts with Ctrl-C ignored
from calogan.events import workers
from test_workers import SHARDS, slowly
if __name__ == "__main__":
    list(workers.make_all(SHARDS, functools.partial(slowly, pathlib.Path(sys.argv[1])), workers=2))
"""


def make(folder: Path, shard: Shard) -> Shard:
    """Write on which core, and by whom; the first try of shard 2 kills its process."""
    tries = folder / f"{shard.file}.tries"
    with tries.open("a") as file:
        file.write("x")
    if shard.file == "2" and len(tries.read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / shard.file).write_text(f"{os.getpid()} {sorted(os.sched_getaffinity(0))}")
    return shard


def die(_: Shard) -> Shard:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fail(shard: Shard) -> Shard:
    raise RequestError(f"shard {shard.file} cannot be made")


def slowly(folder: Path, shard: Shard) -> Shard:
    """Hold a file as long as it is made."""
    place = folder / f"{shard.file}.part"
    place.write_text("half")
    try:
        time.sleep(300)
    finally:
        place.unlink()
    return shard


def test_the_shards_of_a_killed_worker_are_made_by_others(tmp_path: Path) -> None:
    made = list(workers.make_all(SHARDS, functools.partial(make, tmp_path), workers=2))
    assert sorted(shard.file for shard in made) == ["0", "1", "2", "3", "4"]
    assert (tmp_path / "2.tries").read_text() == "xx"
    cores = {(tmp_path / shard.file).read_text().split(maxsplit=1)[1] for shard in SHARDS}
    assert all(len(core.split(",")) == 1 for core in cores)


def test_workers_that_die_one_after_another_are_an_error() -> None:
    with pytest.raises(OutputError, match="4 workers died one after another"):
        list(workers.make_all(SHARDS, die, workers=2))


def test_an_error_of_a_shard_is_that_of_the_whole() -> None:
    with pytest.raises(RequestError, match=r"shard \d cannot be made"):
        list(workers.make_all(SHARDS, fail, workers=2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent_and_remove_their_parts(tmp_path: Path, number: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(CODE)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    folder = tmp_path / "parts"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, program, folder], env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait(60)
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if child.is_running()]
    assert not list(folder.iterdir())
