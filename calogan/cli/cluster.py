"""Commands that look after an installation on Kubernetes."""

from typing import Any

import click
from rich.table import Table

from calogan.cli.screen import examples, screen
from calogan.errors import ServiceError

_SECONDS = click.option(
    "--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Seconds to wait before giving up."
)


@click.group(
    epilog=examples(
        "calogan cluster check                                  # before helm install",
        "calogan cluster -n hep status",
        "calogan cluster -n hep promote calogan-lean@4          # and back by itself if that fails",
        "calogan cluster -n hep submit -- python -m ray_jobs.simulate --n 1000 --out /shared/g4",
    )
)
@click.option("-n", "--namespace", help="Namespace; that of the context by default.")
@click.option("--context", help="Context of the kubeconfig; the current one by default.")
@click.option("--service", help="Name of the RayService, where the namespace has several.")
@click.pass_context
def cluster(ctx: click.Context, namespace: str | None, context: str | None, service: str | None) -> None:
    """Look after an installation on Kubernetes, with the kubeconfig or from within a pod."""
    from calogan.cluster import connection  # noqa: PLC0415 - takes half a second

    own = connection.connect(context)
    ctx.obj = (namespace or own, service)


def _found(ctx: click.Context) -> Any:
    from calogan.cluster import connection  # noqa: PLC0415

    return connection.find_service(*ctx.obj)


@cluster.command()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Say what the cluster lacks for the chart, and how to mend it; exit code 4 if anything is missing."""
    from calogan.cluster import checks  # noqa: PLC0415

    namespace, _ = ctx.obj
    findings = checks.check(namespace)
    for finding in findings:
        sign = {True: "ok", False: "MISSING", None: "-"}[finding.fine]
        click.echo(f"{sign:8}{finding.what}: {finding.found}")
        if finding.remedy and not finding.fine:
            click.echo(f"        {finding.remedy}")
    missing = [finding.what for finding in findings if finding.fine is False]
    if missing:
        raise ServiceError(f"the cluster lacks {', '.join(missing)}")


@cluster.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show applications, replicas with processor and model, and the last failures; exit code 4 unless all is well."""
    from calogan.cluster import state  # noqa: PLC0415

    service = _found(ctx)
    with screen.status("asking"):
        now = state.state(service)
    click.echo(
        f"{service.name}: {'ready' if now.ready else 'NOT READY'}{', upgrading' if now.upgrading else ''}, {now.model}"
    )
    for name, text in now.applications.items():
        click.echo(f"application {name}: {text}")
    table = Table("worker", "node", "ready", "integer instructions", "models", box=None)
    for replica in now.replicas:
        models = "\n".join(f"{precision} {version}" for precision, version in replica.models.items())
        table.add_row(replica.pod, replica.node, "yes" if replica.ready else "no", replica.isa, models)
    screen.print(table)
    for failure in now.failures:
        click.echo(failure)
    if not now.ready or not any(replica.models for replica in now.replicas):
        raise ServiceError(f"{service.name} is not serving")


@cluster.command()
@click.argument("model")
@_SECONDS
@click.pass_context
def promote(ctx: click.Context, model: str, timeout: float) -> None:
    """Serve MODEL (NAME@VERSION), and the one before it again if that fails.

    It must have passed its gates in every precision that is served. `helm upgrade` returns to serve.model of its values: set
    it, too.
    """
    from calogan.cluster import rollout  # noqa: PLC0415

    service = _found(ctx)
    with screen.status("promoting") as shown:
        served = rollout.promote(service, model, seconds=timeout, say=shown.update)
    screen.print(f"all workers serve {served.uri}; for helm upgrade: --set serve.model={served.uri}")
    click.echo(served.uri)


@cluster.command()
@_SECONDS
@click.pass_context
def rollback(ctx: click.Context, timeout: float) -> None:
    """Serve the model from before the last promotion."""
    from calogan.cluster import rollout  # noqa: PLC0415

    service = _found(ctx)
    with screen.status("rolling back") as shown:
        click.echo(rollout.rollback(service, seconds=timeout, say=shown.update))


@cluster.command()
@click.argument("replicas", type=click.IntRange(1))
@click.option("--max", "most", type=click.IntRange(1), help="Replicas at most; REPLICAS by default.")
@_SECONDS
@click.pass_context
def scale(ctx: click.Context, replicas: int, most: int | None, timeout: float) -> None:
    """Run REPLICAS replicas, or up to --max of them when there are more requests."""
    from calogan.cluster import rollout  # noqa: PLC0415

    service = _found(ctx)
    with screen.status("scaling") as shown:
        ready = rollout.scale(service, replicas, most or replicas, seconds=timeout, say=shown.update)
    click.echo(f"{ready} replicas answer")


@cluster.command(context_settings={"ignore_unknown_options": True})
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--no-wait", is_flag=True, help="Print the id of the job and leave.")
@click.pass_context
def submit(ctx: click.Context, entrypoint: tuple[str, ...], no_wait: bool) -> None:
    """Run a command as a Ray job on the cluster for jobs, or else that of the service; workers are started for it."""
    from calogan.cluster import jobs  # noqa: PLC0415

    service = _found(ctx)
    job = jobs.submit(service, entrypoint)
    if no_wait:
        click.echo(job)
        return
    screen.print(f"job {job}; after Ctrl-C it goes on, and calogan cluster logs {job} shows it again")
    for text in jobs.follow(service, job):
        click.echo(text, nl=False)


@cluster.command()
@click.argument("job", required=False)
@click.pass_context
def logs(ctx: click.Context, job: str | None) -> None:
    """Show the output of a job until it ends, or the end of the logs of all replicas."""
    from calogan.cluster import jobs  # noqa: PLC0415

    service = _found(ctx)
    if job:
        for text in jobs.follow(service, job):
            click.echo(text, nl=False)
        return
    for name, text in jobs.replica_logs(service):
        click.echo(f"== {name}\n{text}")
