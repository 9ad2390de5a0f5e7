"""Commands that generate showers with a model: locally, through an endpoint, or as the endpoint."""

import contextlib
import secrets
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from calogan.cli import options
from calogan.cli.loading import api_key, load_generator, names
from calogan.cli.screen import bar, examples, screen, write_showers
from calogan.errors import RequestError
from calogan.events import Events, parse_energy
from calogan.serving.keys import KEY_VARIABLE, read_key

_PART = 8192  # showers in memory at a time


@click.command(
    epilog=examples(
        "calogan generate --model lean --precision int8 --energy 2:500 --n 5000 --seed 1 --out showers.h5",
        "calogan generate --url http://127.0.0.1:8000 --energy 200 --n 100 -o showers.h5",
    )
)
@options.model
@options.precision
@options.energy
@options.n
@options.seed
@options.written_format
@options.threads
@click.option("--url", help=f"Ask this endpoint instead; its key is read from {KEY_VARIABLE}.")
@options.out
def generate(
    model: str,
    precision: str,
    energy: str,
    n: int,
    seed: int,
    file_format: str,
    threads: int,
    url: str | None,
    out: Path,
) -> None:
    """Generate showers with a model, here or at an endpoint."""
    spectrum = parse_energy(energy)
    if url:
        from calogan.serving.client import fetch_showers  # noqa: PLC0415

        with screen.status(Text(f"waiting for {url}")):
            energies = spectrum.draw(n, seed)
            events = fetch_showers(url, energies=energies, seed=seed, precision=precision, api_key=api_key())
        write_showers(out, [events], {"generator": url, "precision": precision, "seed": str(seed)}, format=file_format)
        return
    from calogan import provenance  # noqa: PLC0415

    generator = load_generator(model, precision, threads)
    origin = {"generator": generator.name, "model_version": generator.version, "precision": precision}
    with bar("generating", n) as advance:

        def parts() -> Iterator[Events]:
            for first in range(0, n, _PART):
                energies = spectrum.draw(min(_PART, n - first), seed, first=first)
                yield generator.sample(energies, seed=seed, first=first, progress=advance)

        write_showers(out, parts(), provenance.header(seed=seed) | origin, format=file_format)


@click.command(
    epilog=examples(
        "calogan serve --model lean --port 8000", "calogan serve --model models:/calogan-lean@champion-int8"
    )
)
@options.model
@click.option("--precision", default="int8,float32", show_default=True, help="Precisions, separated by commas.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@options.threads
def serve(model: str, precision: str, host: str, port: int, threads: int) -> None:
    """Serve showers over HTTP from this one process; for a cluster use Ray Serve (deploy/serve.yaml)."""
    import uvicorn  # noqa: PLC0415

    from calogan.serving.api import build_api  # noqa: PLC0415

    with _listen(host, port) as listener:
        address = f"http://{host}:{listener.getsockname()[1]}"
        samplers = {name: load_generator(model, name, threads) for name in names(precision)}
        key = read_key() or secrets.token_hex(16)
        screen.print(f"key of the endpoint: {key}   documentation: {address}/docs")
        screen.print(_curl(address, key))
        server = uvicorn.Server(uvicorn.Config(build_api(samplers, api_key=key), log_level="warning"))
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the normal way to stop a server
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
