"""Commands that generate showers with a model: locally, through an endpoint, or as the endpoint."""

import contextlib
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from calogan import machine, provenance
from calogan.cli import options, production
from calogan.cli.loading import api_key, load_generator, names
from calogan.cli.screen import bar, examples, screen, write_showers
from calogan.errors import RequestError
from calogan.events import Hits, read_spectrum
from calogan.events.writing import format_of
from calogan.serving.keys import KEY_VARIABLE, KEYS_FILE_VARIABLE, KeyRing, read_key, read_keys

_PART = 8192  # showers in memory at a time


@click.command(
    epilog=examples(
        "calogan generate --model lean --precision int8 --energy 2:500 --n 5000 --seed 1 --out showers.h5",
        "calogan generate --energy log:2:500 --n 1000000 --out production/  # shards, all cores; resumes after a stop",
        "calogan generate --url http://127.0.0.1:8000 --energy 200 --n 100 -o showers.h5",
        "calogan generate --url http://127.0.0.1:8000 --n 1000000 -o production/  # made there, fetched as it is made",
    )
)
@options.model
@options.precision
@options.energy
@options.n
@options.seed
@options.written_format
@options.threads
@options.shard_size
@options.workers
@click.option("--url", help=f"Ask this endpoint instead; its key is read from {KEY_VARIABLE}.")
@options.out_or_folder
def generate(
    model: str,
    precision: str,
    energy: str,
    n: int,
    seed: int,
    file_format: str | None,
    threads: int,
    shard_size: int | None,
    workers: int | None,
    url: str | None,
    out: str,
) -> None:
    """Generate showers with a model, here or at an endpoint; if --out is a folder, shards on all cores."""
    if not production.is_file(out):
        order = production.Order(model, precision, energy, n, seed, file_format, shard_size)
        production.generate(out, order, url=url, processes=workers)
        return
    if shard_size or workers:
        raise RequestError(f"--shard-size and --workers are for a folder of shards, but {out} is one file")
    options.in_a_folder(click.get_current_context(), generate.params[-1], Path(out))
    format_of(Path(out), file_format)
    if url:
        from calogan.serving.client import Client  # noqa: PLC0415

        with Client(url, api_key()) as client:
            header = client.describe(precision) | {"seed": str(seed)}
            with bar(f"receiving from {url}", n) as advance:
                received = client.showers(energy=energy, n=n, seed=seed, precision=precision, progress=advance)
                write_showers(Path(out), received, header, format=file_format)
        return
    spectrum = read_spectrum(energy)
    generator = load_generator(model, precision, threads)
    origin = {"generator": generator.name, "model_version": generator.version, "precision": precision}
    with bar("generating", n) as advance:

        def parts() -> Iterator[Hits]:
            for first in range(0, n, _PART):
                energies = spectrum.draw(min(_PART, n - first), seed, first=first)
                yield generator.sample(energies, seed=seed, first=first, progress=advance, sparse=True)

        write_showers(Path(out), parts(), provenance.header(seed=seed) | origin, format=file_format)


@click.command(
    epilog=examples(
        "calogan serve --model lean --port 8000",
        "calogan serve --model models:/calogan-lean@champion-int8 --log json",
        "calogan serve --productions productions/  # large samples as shards, kept over a restart",
        f"{KEYS_FILE_VARIABLE}=keys.toml calogan serve  # several keys, each with limits",
    )
)
@options.model
@click.option("--precision", default="int8,float32", show_default=True, help="Precisions, separated by commas.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--grpc-port", type=click.IntRange(1, 65535), help="Also serve the Open Inference Protocol over gRPC.")
@click.option("--max-showers", type=click.IntRange(1), default=1_000_000, show_default=True, help="In one request.")
@click.option(
    "--max-requests", type=click.IntRange(1), default=64, show_default=True, help="At once; others are sent away (429)."
)
@click.option("--productions", type=options.FOLDER, help="Make productions (POST /v1/productions) in this folder.")
@click.option("--log", type=click.Choice(["json", "off"]), default="off", show_default=True, help="Log of requests.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=lambda: machine.best_threads(alone=True),
    show_default="the best found by calogan benchmark, or 1",
    help="Cores to use.",
)
def serve(
    model: str,
    precision: str,
    host: str,
    port: int,
    grpc_port: int | None,
    max_showers: int,
    max_requests: int,
    productions: Path | None,
    log: str,
    threads: int,
) -> None:
    """Serve showers over HTTP from this one process; for a cluster use Ray Serve (deploy/serve.yaml)."""
    from calogan.serving import server  # noqa: PLC0415
    from calogan.serving.api import build_api  # noqa: PLC0415
    from calogan.serving.drawing import Drawing  # noqa: PLC0415
    from calogan.serving.endpoint import Limits  # noqa: PLC0415
    from calogan.serving.producer import Producer  # noqa: PLC0415
    from calogan.serving.production_store import Store  # noqa: PLC0415

    store = Store(productions) if productions else None
    with _listen(host, port) as listener:
        address = f"http://{host}:{listener.getsockname()[1]}"
        keys, key = read_keys(), read_key()
        if not keys:
            key = secrets.token_hex(16)
            keys = KeyRing(key=key)
        samplers = {name: load_generator(model, name, threads) for name in names(precision)}
        drawing = Drawing()
        with bar("warming up", len(samplers)) as advance:
            for sampler in samplers.values():
                drawing.warm_up(sampler)
                advance(1)
        limits = Limits(max_showers=max_showers, max_requests=max_requests)
        producer = Producer(store, samplers, drawing) if store else None
        api = build_api(samplers, keys=keys, limits=limits, drawing=drawing, producer=producer)
        screen.print(
            f"key of the endpoint: {key or 'one of the file'}   page: {address}   documentation: {address}/docs"
        )
        screen.print(_curl(address, key or "KEY"))
        grpc_address = f"{f'[{host}]' if ':' in host else host}:{grpc_port}" if grpc_port else ""
        if grpc_address:
            screen.print(f"gRPC: {grpc_address}, without encryption")
        if log == "json":
            server.log_to(sys.stderr)
        if producer:
            producer.start()
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the normal way to stop a server
            server.run(api, listener, grpc_address=grpc_address)
        if producer:
            producer.stop()
        drawing.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RequestError(f"cannot listen at {host}, port {port} ({error}); give another --port or --host") from error


def _curl(address: str, key: str) -> str:
    headers = ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    body = '{"energy": 200, "n": 100, "seed": 7}'
    return shlex.join(["curl", *headers, "-d", body, f"{address}/v1/showers", "-o", "showers.h5"])
