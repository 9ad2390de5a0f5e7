"""`calogan benchmark`, and its code that the Ray job `benchmark` shares: options, tables, files, MLflow, the setting."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calogan import quiet
from calogan.atomic_files import write_json
from calogan.cli import options
from calogan.cli.loading import names
from calogan.cli.screen import examples, progress_bars, screen
from calogan.errors import RequestError
from calogan.tracking.location import locate

if TYPE_CHECKING:
    from calogan.benchmark.speed import Settings
    from calogan.benchmark.speed_report import SpeedReport

_Command = TypeVar("_Command", bound=Callable[..., Any])
_QUICK = "geant4,parametric"


@dataclass(frozen=True)
class Request:
    """The parsed options.

    Attributes:
        model: packaged name, folder or address of the registry.
        precisions: precisions of the model.
        beside: what else is measured, see `machine_speed.BESIDE`.
        settings: number of rounds and so on.
        json_file, figures: output file and folder; None to skip.
        mlflow: whether to log to MLflow.
        save: whether to store the best arrangement for the endpoint.
    """

    model: str
    precisions: tuple[str, ...]
    beside: tuple[str, ...]
    settings: "Settings"
    json_file: Path | None
    figures: Path | None
    mlflow: bool
    save: bool


def benchmark_options(command: _Command) -> _Command:
    """Add the options of `parse`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse(
    *,
    model: str,
    precision: str,
    beside: str | None,
    quick: bool,
    rounds: int | None,
    json_file: Path | None,
    figures: Path | None,
    mlflow: bool,
    save: bool,
) -> Request:
    """Parse the options.

    Raises:
        RequestError: an unknown name in `beside`.
    """
    from calogan.benchmark import machine_speed, speed  # noqa: PLC0415 - TensorFlow

    settings = speed.QUICK if quick else speed.Settings()
    wanted = ((_QUICK if quick else ",".join(machine_speed.BESIDE)) if beside is None else beside).split(",")
    chosen = tuple(name.strip() for name in wanted if name.strip() not in ("", "nothing"))
    unknown = sorted(set(chosen) - set(machine_speed.BESIDE))
    if unknown:
        raise RequestError(
            f"--beside: no {', '.join(unknown)}; expected some of {', '.join(machine_speed.BESIDE)}, or nothing"
        )
    settings = settings if rounds is None else replace(settings, rounds=rounds)
    return Request(model, tuple(names(precision)), chosen, settings, json_file, figures, mlflow, save)


def finish(request: Request, report: "SpeedReport") -> None:
    """Print the tables of a result, write its files and log it.

    Raises:
        OutputError: a file cannot be written.
        ServiceError: MLflow does not answer.
    """
    from calogan.reporting import pictures, speed_pictures, speed_tables, terminal  # noqa: PLC0415

    terminal.show(speed_tables.speed_table(report))
    if report.rates:
        terminal.show(speed_tables.rate_table(report))
    for line in speed_tables.notes(report):
        screen.print(line)
    if request.json_file:
        write_json(request.json_file, report.to_dict())
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        folder = request.figures or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, figure in speed_pictures.pictures(report).items() if request.figures or request.mlflow else ():
            pictures.save(figure, folder / f"{name}.png")
            paths.append(folder / f"{name}.png")
        for path in paths if request.figures else ():
            screen.print(f"wrote {path}")
        if request.mlflow:
            _log(report, Path(scratch), paths)


def save(report: "SpeedReport") -> None:
    """Store the best arrangement of a result where the endpoint of this machine reads it."""
    from calogan import machine  # noqa: PLC0415
    from calogan.benchmark import machine_speed  # noqa: PLC0415

    if setting := machine_speed.setting(report):
        screen.print(f"wrote {machine.write(setting)}, which calogan serve reads")


def _log(report: "SpeedReport", scratch: Path, figures: list[Path]) -> None:
    from calogan.reporting import speed_tables  # noqa: PLC0415
    from calogan.tracking.speeds import log_speed  # noqa: PLC0415

    write_json(scratch / "benchmark.json", report.to_dict())
    rows = speed_tables.cells(report)
    table = {title or "contender": [row[i] for row in rows] for i, title in enumerate(speed_tables.COLUMNS)}
    files = [scratch / "benchmark.json"]
    run_id = log_speed(report.model, report.metrics(), table, header=report.header, files=files, figures=figures)
    screen.print(f"MLflow run: {run_id}")


_OPTIONS = (
    options.model,
    click.option(
        "--precision", default="float32,bfloat16,int8", show_default=True, help="Precisions, separated by commas."
    ),
    click.option(
        "--beside",
        help="What else to time: some of geant4,parametric,peers,rehm2021,conv3d, or nothing.  "
        "[default: all; with --quick geant4,parametric]",
    ),
    click.option(
        "--quick", is_flag=True, help="A minute instead of a quarter of an hour: fewer rounds and contenders."
    ),
    click.option("--rounds", type=click.IntRange(1), help="Interleaved rounds.  [default: 7; with --quick 3]"),
    options.json,
    click.option("--figures", type=options.FOLDER, help="Folder for the pictures."),
    click.option("--mlflow", is_flag=True, help="Log to MLflow (MLFLOW_TRACKING_URI)."),
    click.option(
        "--save/--no-save",
        default=True,
        show_default=True,
        help="Store the best threads and streams for the endpoint (CALOGAN_MACHINE, ~/.config/calogan/machine.json).",
    ),
)


@click.command(
    epilog=examples(
        "calogan benchmark --quick",
        "calogan benchmark --model my-model/ --precision int8 --json b.json --figures figures/",
        "calogan benchmark --beside nothing --no-save  # the model alone",
        "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 calogan benchmark --mlflow",
    )
)
@benchmark_options
def benchmark(**arguments: Any) -> None:
    """Time a model and other ways to make showers, in one run; exit code 3 if showers are wrong.

    Each contender is a process on one core, timed in turn with the others of its model, then on all cores at once; Geant4 is
    timed with the same energies. Streams times threads times showers of a call follow, growth to a million showers, and the
    share of the peak of the processor.
    """
    quiet.load_tensorflow()
    from calogan.benchmark import machine_speed  # noqa: PLC0415

    request = parse(**arguments)
    folder = locate(request.model, request.precisions[0])
    total = machine_speed.steps(folder, request.precisions, request.settings, beside=request.beside)
    with progress_bars() as progress:
        task = progress.add_task("benchmark", total=total)

        def advance(line: str) -> None:
            progress.update(task, description=line)
            progress.advance(task)

        report = machine_speed.measure(
            folder, request.precisions, request.settings, beside=request.beside, progress=advance
        )
        progress.update(task, completed=total)
    finish(request, report)
    if request.save:
        save(report)
