"""The command line: one sub-command per step. The only place that prints or sets up logging."""

import contextlib
import functools
import logging
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from calogan import __version__, quiet, tables
from calogan.errors import CaloganError, GateError, RequestError
from calogan.events import Events, parse_energy, read_events, write_events

if TYPE_CHECKING:
    from calogan.generator import Generator
    from calogan.training.loop import Epoch

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
KEY_VARIABLE = "CALOGAN_API_KEY"
_screen = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="calogan")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries below log.")
def cli(verbose: bool) -> None:
    r"""Calorimeter showers from a generator network quantized to int8, proved against Geant4.

    \b
    The steps, in the order of the data:
      simulate -> train -> quantize -> validate -> benchmark -> generate -> serve
    Results go to files and standard output, progress to standard error. Exit codes: 0 done,
    1 the step failed, 2 the input cannot be used, 3 a physics gate failed, 4 a server does not answer.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)


def main() -> None:
    """Run the command line; an error of the caller's becomes one line and its exit code."""
    try:
        cli.main(prog_name="calogan", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "calogan"
        _fail(f"{error.format_message()} (see {where} --help)", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _screen.print("\nstopped", style="yellow", end="")
        _screen.print("; nothing half-written is left")
        sys.exit(130)
    except CaloganError as error:
        _fail(str(error), error.exit_code)
    except MemoryError as error:
        _fail(f"not enough memory ({error}); ask for fewer showers at once, --n", CaloganError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    _screen.print("error:", style="red", end=" ")
    _screen.print(message)
    sys.exit(exit_code)


def _in_a_folder(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    # Now, not after the work is done.
    if path and not path.parent.is_dir():
        raise click.BadParameter(f"{path}: {path.parent} is no folder; make it first.")
    return path


_energy = click.option(
    "--energy", default="2:500", show_default=True, help="Ep in GeV: 200, or 2:500 for a flat range."
)
_FILE, _FOLDER = click.Path(dir_okay=False, path_type=Path), click.Path(file_okay=False, path_type=Path)
_n = click.option(
    "--n",
    type=click.IntRange(1, 10**7),
    default=1000,
    show_default=True,
    help="How many showers, 62.5 kB of memory each.",
)
_seed = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Equal seeds, equal bytes."
)
_out = click.option("-o", "--out", type=_FILE, callback=_in_a_folder, required=True, help="HDF5 file to write.")
_model = click.option(
    "--model", default="lean", show_default=True, help="Packaged name, folder, or models:/NAME@ALIAS."
)
_config = click.option("--config", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
_json = click.option(
    "--json", "json_file", type=_FILE, callback=_in_a_folder, help="Also write the figures for programs."
)
_threads = click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores to use.")
_model_dir = click.option("-o", "--out", type=_FOLDER, required=True, help="Folder of the model.")


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@cli.command(epilog=_examples("calogan simulate --engine parametric --energy 2:500 --n 5000 --seed 1 --out p.h5"))
@click.option("--engine", type=click.Choice(["parametric"]), default="parametric", show_default=True)
@_energy
@_n
@_seed
@_out
def simulate(engine: str, energy: str, n: int, seed: int, out: Path) -> None:
    """Simulate showers without a network (Grindhammer-Peters parametrisation)."""
    from calogan import provenance  # noqa: PLC0415
    from calogan.simulation import parametric  # noqa: PLC0415

    energies = parse_energy(energy).draw(n, seed)
    with _bar(f"simulating ({engine})", n) as advance:
        events = parametric.simulate(energies, seed=seed, progress=advance)
    _write(out, events, provenance.header(seed=seed) | {"generator": f"{engine} simulation"})


@cli.command(
    epilog=_examples(
        "calogan train --config tiny --out my-model/",
        "calogan train --config mine.toml --out my-model/  # goes on after a stop",
    )
)
@_config
@_model_dir
def train(config: str, out: Path) -> None:
    """Train a generator on Geant4 showers; a run that was stopped goes on."""
    from calogan.config import load_config  # noqa: PLC0415

    loaded = load_config(config)
    quiet.load_tensorflow()
    from calogan import steps  # noqa: PLC0415

    with _progress() as progress:
        task = progress.add_task("training", total=None)

        def show(epoch: "Epoch") -> None:
            score = "" if epoch.score is None else f"  physics score {epoch.score:.3f}"
            losses = "  ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
            progress.console.print(f"{epoch.stage} {epoch.number + 1}/{epoch.of}  {losses}{score}")
            progress.update(task, total=epoch.of, completed=epoch.number + 1)

        result = steps.train_model(loaded, out, on_epoch=show)
    _screen.print(f"best epoch: {result.best.stage} {result.best.number + 1}, physics score {result.best.score:.3f}")
    click.echo(out)


@cli.command(epilog=_examples("calogan quantize --model my-model/ --config tiny"))
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Folder of a trained model.")
@_config
@click.option("-o", "--out", type=_FOLDER, help="Write another folder instead of adding to the model's.")
def quantize(model: Path, config: str, out: Path | None) -> None:
    """Quantize a model to int8 with Intel Neural Compressor."""
    from calogan.config import load_config  # noqa: PLC0415

    loaded = load_config(config)
    quiet.load_tensorflow()
    from calogan import steps  # noqa: PLC0415
    from calogan.quantization import count_operations, read_graph  # noqa: PLC0415

    with _screen.status("quantizing"):
        steps.quantize_model(loaded, model, out)
    counted = count_operations(read_graph((out or model) / "network.int8.pb"))
    _screen.print(
        f"int8: {counted.integer_convolutions} fused convolutions, {counted.integer_products} products; "
        f"{counted.float_arithmetic} left in float32"
    )
    click.echo(out or model)


@cli.command(
    epilog=_examples(
        "calogan validate --reference geant4.h5 --candidate showers.h5 --json v.json",
        "calogan validate --reference geant4.h5 --candidate other.h5 --gates mine.toml --figures figures/",
    )
)
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="Geant4 showers.")
@click.option("--candidate", type=click.Path(path_type=Path), required=True, help="Showers of any generator.")
@click.option("--gates", default="gates", show_default=True, help="Limits: of the package, or a TOML file.")
@click.option("--figures", type=_FOLDER, help="Folder for the figures.")
@_json
def validate(reference: Path, candidate: Path, gates: str, figures: Path | None, json_file: Path | None) -> None:
    """Compare showers with Geant4; exit code 3 when a gate failed."""
    from calogan import validation  # noqa: PLC0415

    limits = validation.load_gates(gates)
    samples = read_events(reference), read_events(candidate)
    with _screen.status("comparing") as status:
        report = validation.validate(*samples, gates=limits, inputs=(reference, candidate), progress=status.update)
    if json_file:
        validation.write_report(json_file, report)
    if figures:
        from calogan import plots  # noqa: PLC0415

        figures.mkdir(parents=True, exist_ok=True)
        for path in plots.save_figures({"candidate": report}, figures):
            _screen.print(f"wrote {path}")
    tables.show(tables.report_table(report))
    failed = [name for name, result in report.gates.items() if result.verdict == "failed"]
    if failed:
        raise GateError(f"{len(failed)} of {len(report.gates)} gates failed: {', '.join(failed)}")


@cli.command(epilog=_examples("calogan benchmark --model lean --precision float32,int8 --json b.json"))
@_model
@click.option("--precision", default="float32,int8", show_default=True, help="Precisions, separated by commas.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@_json
def benchmark(model: str, precision: str, rounds: int, json_file: Path | None) -> None:
    """Time precisions of a model, interleaved in one run on one core."""
    quiet.load_tensorflow()
    from calogan.benchmark import benchmark as run  # noqa: PLC0415
    from calogan.config import Benchmark  # noqa: PLC0415

    names = _names(precision)
    folder = _fetch(model, names[0])
    with _bar("rounds", rounds + 1) as advance:
        report = run(folder, names, Benchmark(repetitions=rounds), progress=lambda: advance(1))
    if json_file:
        _write_text(json_file, report.to_json())
    tables.show(tables.benchmark_table(report))


@cli.command(
    epilog=_examples(
        "calogan generate --model lean --precision int8 --energy 2:500 --n 5000 --seed 1 --out showers.h5",
        "calogan generate --url http://127.0.0.1:8000 --energy 200 --n 100 -o showers.h5",
    )
)
@_model
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True)
@_energy
@_n
@_seed
@_threads
@click.option("--url", help=f"Ask this endpoint instead; its key is read from {KEY_VARIABLE}.")
@_out
def generate(
    model: str, precision: str, energy: str, n: int, seed: int, threads: int, url: str | None, out: Path
) -> None:
    """Generate showers with a model, here or at an endpoint."""
    energies = parse_energy(energy).draw(n, seed)
    if url:
        from calogan.serving.client import fetch_showers  # noqa: PLC0415

        with _screen.status(Text(f"waiting for {url}")):
            events = fetch_showers(url, energies=energies, seed=seed, precision=precision, api_key=_api_key())
        _write(out, events, {"generator": url, "precision": precision, "seed": str(seed)})
        return
    from calogan import provenance  # noqa: PLC0415

    generator = _load(model, precision, threads)
    with _bar("generating", n) as advance:
        events = generator.sample(energies, seed=seed, progress=advance)
    origin = {"generator": generator.name, "model_version": generator.version, "precision": precision}
    _write(out, events, provenance.header(seed=seed) | origin)


@cli.command(
    epilog=_examples(
        "calogan serve --model lean --port 8000", "calogan serve --model models:/calogan-lean@champion-int8"
    )
)
@_model
@click.option("--precision", default="int8,float32", show_default=True, help="Precisions, separated by commas.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@_threads
def serve(model: str, precision: str, host: str, port: int, threads: int) -> None:
    """Serve showers over HTTP from this one process; for a cluster use Ray Serve (deploy/serve.yaml)."""
    import uvicorn  # noqa: PLC0415

    from calogan.serving.api import build_api  # noqa: PLC0415

    with _listen(host, port) as listener:
        address = f"http://{host}:{listener.getsockname()[1]}"
        samplers = {name: _load(model, name, threads) for name in _names(precision)}
        key = os.environ.get(KEY_VARIABLE) or secrets.token_hex(16)
        _screen.print(f"key of the endpoint: {key}   documentation: {address}/docs")
        _screen.print(_curl(address, key))
        server = uvicorn.Server(uvicorn.Config(build_api(samplers, api_key=key), log_level="warning"))
        with contextlib.suppress(KeyboardInterrupt):  # how a server is stopped
            server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RequestError(f"cannot listen at {host}, port {port} ({error}); give another --port or --host") from error


def _curl(address: str, key: str) -> str:
    headers = ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    body = '{"energy": 200, "n": 100, "seed": 7}'
    return shlex.join(["curl", *headers, "-d", body, f"{address}/v1/showers", "-o", "showers.h5"])


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


def _load(model: str, precision: str, threads: int) -> "Generator":
    quiet.load_tensorflow()
    from calogan.generator import load  # noqa: PLC0415

    return load(_fetch(model, precision), precision=precision, threads=threads)


def _fetch(model: str, precision: str) -> str | Path:
    if not model.startswith("models:/"):
        return model
    from calogan.registry import fetch  # noqa: PLC0415

    return fetch(model, precision=precision)


def _api_key() -> str:
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise RequestError(f"{KEY_VARIABLE} is not set; export {KEY_VARIABLE}=... with the key of the endpoint")
    return key


def _write(out: Path, events: Events, header: dict[str, str]) -> None:
    write_events(out, events, header=header)
    total = (events.showers.sum(axis=(1, 2, 3)) / events.energy).mean()
    _screen.print(f"wrote {out}: {len(events)} showers, mean sampling fraction {100 * total:.3f} %")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error})") from error


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=_screen, disable=not _screen.is_terminal)


@contextlib.contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    with _progress() as progress:
        task = progress.add_task(text, total=total)
        yield functools.partial(progress.advance, task)


if __name__ == "__main__":
    main()
