"""Commands about showers that need no network: simulate, inspect, convert."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click

from calogan.atomic_files import write_json
from calogan.cli import options
from calogan.cli.screen import bar, examples, screen, write_showers
from calogan.errors import RequestError
from calogan.events import FORMATS, Events, open_events, parse_energy, productions
from calogan.reporting import terminal

_SUFFIXES = (".h5", ".hdf5", ".hdf")
_INPUT = click.argument("files", nargs=-1, required=True)


@click.command(
    epilog=examples(
        "calogan simulate --engine parametric --energy 2:500 --n 5000 --seed 1 --out p.h5",
        "calogan simulate --engine geant4 --energy 100 --n 20 --out g4.h5",
        "calogan simulate --engine geant4 --n 10000 --out g4/  # a folder: shards, resumes after a stop",
        "calogan simulate --engine geant4 --detector mine.toml --field 0 --n 100 --out other.h5",
    )
)
@options.engine
@options.energy
@options.n
@options.seed
@options.written_format
@click.option("--shard-size", type=click.IntRange(1), help="Showers in each file, when --out is a folder.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="File (.h5), or folder for shards of files."
)
def simulate(
    engine: str,
    energy: str,
    n: int,
    seed: int,
    file_format: str | None,
    tuning: Path | None,
    detector: str,
    field: float,
    cut: float,
    shard_size: int | None,
    out: Path,
) -> None:
    """Simulate showers without a network, by a parametrisation or by Geant4."""
    from calogan.simulation import engines  # noqa: PLC0415

    simulation = engines.load_engine(engine, tuning=tuning, detector=detector, field_tesla=field, cut_mm=cut)
    for line in simulation.notes():
        screen.print(line)
    plan = engines.plan(
        simulation, parse_energy(energy), showers=n, seed=seed, shard_showers=shard_size, format=file_format
    )
    if out.suffix in _SUFFIXES and not out.is_dir():
        if shard_size:
            raise RequestError(f"--shard-size divides a folder of files, but {out} is one file; name a folder")
        options.in_a_folder(click.get_current_context(), simulate.params[-1], out)
        with bar(f"simulating ({engine})", n) as advance:
            parts = simulation.simulate(plan.energy.draw(n, seed), seed=seed, progress=advance)
            write_showers(out, parts, productions.header(plan), format=file_format)
        return
    missing = productions.begin(out, plan)
    existing = n - sum(shard.showers for shard in missing)
    if existing:
        screen.print(f"{existing} of {n} showers already exist")
    with bar(f"simulating ({engine})", n) as advance:
        advance(existing)
        for shard in missing:
            engines.make_shard(out, plan, shard, simulation, progress=advance)
    screen.print(f"wrote {productions.finish(out, plan)}: {n} showers in {len(plan.shards)} files")


@click.command(
    "tune-parametric",
    epilog=examples("calogan tune-parametric --reference geant4.h5 --out mine.toml"),
)
@click.option(
    "--reference", multiple=True, required=True, help="Geant4 showers: a file, folder or pattern; repeatable."
)
@options.seed
@options.out
def tune_parametric(reference: tuple[str, ...], seed: int, out: Path) -> None:
    """Fit the constants of the parametrisation to Geant4 showers, for simulate --tuning."""
    from calogan import provenance  # noqa: PLC0415
    from calogan.simulation import tuning  # noqa: PLC0415

    source = open_events(reference)
    with screen.status("fitting, some minutes") as status:
        fitted = tuning.tune(source[:], seed=seed, progress=status.update)
    tuning.write_tuning(out, fitted, provenance.header(seed=seed, inputs=source.paths))
    screen.print(f"wrote {out}")


@click.command(
    epilog=examples(
        "calogan inspect geant4.h5",
        "calogan inspect 'production/*.h5' --picture showers.png --json showers.json",
    )
)
@_INPUT
@options.read_format
@click.option("--picture", type=options.FILE, callback=options.in_a_folder, help="Picture to write (.png, .svg, .pdf).")
@options.json
def inspect(files: tuple[str, ...], file_format: str | None, picture: Path | None, json_file: Path | None) -> None:
    """Show the contents of shower files and their problems; exit code 1 if there are any."""
    from calogan.events.inspection import inspect as look  # noqa: PLC0415

    if picture:
        from calogan.reporting import pictures  # noqa: PLC0415

        pictures.check_suffix(picture)
    source = open_events(files, format=file_format, shape=None)
    with bar("reading", len(source)) as advance:
        summary = look(files, format=file_format, progress=advance)
    if json_file:
        write_json(json_file, summary.to_dict())
    if picture:
        pictures.save(pictures.inspection(summary), picture)
        screen.print(f"wrote {picture}")
    for table in terminal.inspection_tables(summary):
        terminal.show(table)
    for problem in summary.problems:
        screen.print("problem:", style="yellow", end=" ")
        screen.print(problem)
    if summary.problems:
        raise click.exceptions.Exit(1)
    screen.print("no problem found")


@click.command(
    epilog=examples(
        "calogan convert showers.h5 --format calochallenge --out challenge.h5",
        "calogan convert 'EleEscan_*.h5' --out clic.h5  # one file, cells in GeV, cut to 25x25x25",
    )
)
@_INPUT
@click.option(
    "--from", "read_format", type=click.Choice(FORMATS), help="Format of the files, if it cannot be recognised."
)
@options.written_format
@options.out
def convert(files: tuple[str, ...], read_format: str | None, file_format: str | None, out: Path) -> None:
    """Write showers of any known format to one file of another."""
    from calogan import provenance  # noqa: PLC0415

    source = open_events(files, format=read_format)
    for path, layout in zip(source.paths, source.layouts, strict=True):
        screen.print(f"{path}: {layout.description}, {layout.count} showers")
    header = provenance.header(inputs=source.paths) | {"generator": "converted"}
    with bar("converting", len(source)) as advance:
        write_showers(out, _with_progress(source.chunks(), advance), header, format=file_format)


def _with_progress(parts: Iterator[Events], advance: Callable[[int], None]) -> Iterator[Events]:
    for events in parts:
        yield events
        advance(len(events))
