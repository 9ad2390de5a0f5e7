"""Kill the driver and the workers of a production again and again, and compare the result with an undisturbed one.

python docs/scripts/disturb_production.py --n 100000 --kills 10 --folder /tmp/disturbed
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil

from calogan.events import open_events, productions
from calogan.events.productions import MANIFEST


@click.command()
@click.option("--n", type=click.IntRange(1), default=100_000, show_default=True, help="How many showers.")
@click.option("--kills", type=click.IntRange(0), default=10, show_default=True, help="How many kills with signal 9.")
@click.option("--shard-size", type=click.IntRange(1), default=8192, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the showers, and of when and what is killed.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="An empty folder, with room for both.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the result here.")
def main(n: int, kills: int, shard_size: int, seed: int, folder: Path, json_file: Path | None) -> None:
    """Make a production twice, once disturbed, and print what they have in common as JSON."""
    arguments = ["--energy", "2:500", "--n", str(n), "--shard-size", str(shard_size), "--seed", str(seed)]
    quiet, disturbed = folder / "undisturbed", folder / "disturbed"
    program = [sys.executable, "-c", "from calogan.cli.main import main; main()"]
    started = time.monotonic()
    subprocess.run([*program, "generate", *arguments, "--workers", "2", "--out", str(quiet)], check=True)  # noqa: S603 - this program
    undisturbed_s = time.monotonic() - started

    started, log = time.monotonic(), list[str]()
    chance = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        command = [sys.executable, "-m", "ray_jobs.generate", *arguments, "--out", str(disturbed)]
        environment = os.environ | {"RAY_TMPDIR": scratch, "RAY_USAGE_STATS_ENABLED": "0"}
        while (code := _run(command, environment, disturbed, chance, kills, log)) != 0:
            click.echo(f"driver ended with {code}, submitted again", err=True)
    shards = [json.loads((place / MANIFEST).read_text())["shards"] for place in (quiet, disturbed)]
    checksums = [[(shard["file"], shard["sha256"]) for shard in some] for some in shards]
    result = {
        "showers": len(open_events(disturbed)),
        "shards": len(checksums[1]),
        "kills_of_workers": log.count("worker"),
        "kills_of_the_driver": log.count("driver"),
        "shards_lost": len(set(checksums[0]) - set(checksums[1])),
        "shards_twice": len(checksums[1]) - len(set(checksums[1])),
        "same_checksums": checksums[0] == checksums[1],
        "problems": productions.check_manifest(disturbed),
        "left_over": sorted(path.name for path in disturbed.iterdir() if path.name.startswith(".")),
        "undisturbed_s": round(undisturbed_s),
        "disturbed_s": round(time.monotonic() - started),
    }
    click.echo(json.dumps(result, indent=1))
    if json_file:
        json_file.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if not (result["same_checksums"] and result["showers"] == n and not result["problems"]):
        raise click.exceptions.Exit(1)


def _run(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    chance: np.random.Generator,
    kills: int,
    log: list[str],
) -> int:
    """Run the driver once, and kill something each time some shards have been finished; returns its exit code."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    goal = _shards(folder) + int(chance.integers(3))
    while process.poll() is None:
        time.sleep(0.05)
        workers = _family(process.pid, "make_shard")
        if len(log) < kills and workers and _shards(folder) >= goal:
            goal = _shards(folder) + int(chance.integers(2))
            time.sleep(chance.uniform(0, 2))  # anywhere in the making of a shard
            if chance.random() < 0.3:
                log.append("driver")
                for member in _family(process.pid, ""):
                    _kill(member)
            else:
                log.append("worker")
                _kill(workers[chance.integers(len(workers))])
    return process.wait()


def _shards(folder: Path) -> int:
    return len(list(folder.glob("showers-*")))


def _family(pid: int, name: str) -> list[psutil.Process]:
    """A process and what it has started, if their command line has this in it."""
    try:
        parent = psutil.Process(pid)
        members = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []
    return [process for process in members if name in _command_line(process)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    main()
