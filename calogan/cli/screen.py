"""Progress bars and messages of the command line, and writing showers with them."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calogan.events import Events, Hits, write_events

screen = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def examples(*lines: str) -> str:
    """Examples for the end of a help page."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def progress_bars() -> Progress:
    """Bars on a terminal, nothing elsewhere."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=screen, disable=not screen.is_terminal)


@contextlib.contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show one bar; yields the function that advances it."""
    with progress_bars() as progress:
        task = progress.add_task(text, total=total)
        yield functools.partial(progress.advance, task)


@contextlib.contextmanager
def rate_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with showers per second; yields the function that advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        task = progress.add_task(text, total=total, rate="")

        def advance(showers: int) -> None:
            progress.advance(task, showers)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.0f} showers/s" if speed else "")

        yield advance


def write_showers(
    out: Path, parts: Iterable[Events | Hits], header: Mapping[str, str], *, format: str | None = None
) -> None:
    """Write showers as they arrive and report the result."""
    count, fraction = 0, 0.0

    def counted() -> Iterator[Events | Hits]:
        nonlocal count, fraction
        for events in parts:
            count += len(events)
            sums = events.sums if isinstance(events, Hits) else events.showers.sum(axis=(1, 2, 3))
            fraction += float((sums / events.energy).sum())
            yield events

    write_events(out, counted(), header=header, format=format)
    screen.print(f"wrote {out}: {count} showers, mean sampling fraction {100 * fraction / count:.3f} %")
