"""Reports as tables on a terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from calogan.benchmark import BenchmarkReport
    from calogan.validation import ValidationReport

_WIDE = 100  # columns of a table where the output is not a terminal


def show(table: Table) -> None:
    """Print a table to standard output."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)


def report_table(report: "ValidationReport") -> Table:
    """Metrics of a comparison with their errors, the floor and the gates."""
    colours = {"passed": "green", "failed": "red", "undecided": "yellow", "not measured": "dim"}
    table = Table(title=f"{report.showers['reference']} reference and {report.showers['candidate']} candidate showers")
    for column in ("metric", "value", "error", "floor", "limit", "gate"):
        table.add_column(column, justify="left" if column in {"metric", "gate"} else "right", no_wrap=True)
    for name, found in report.metrics.items():
        floor, result = report.floor.get(name), report.gates.get(name)
        verdict = f"[{colours[result.verdict]}]{result.verdict}[/]" if result else ""
        table.add_row(
            name,
            f"{found.value:.4g}",
            f"{found.error:.2g}",
            f"{floor.value:.4g}" if floor else "",
            f"{result.gate.limit:g}" if result else "",
            verdict,
        )
    return table


def benchmark_table(report: "BenchmarkReport") -> Table:
    """Precisions of a model beside each other."""
    table = Table(
        title=f"{escape(report.model)} on one core, {report.header['cpu_model']} ({report.header['cpu_isa']})"
    )
    for column in ("precision", "ms/shower", "showers/s", "ratio", "net ms", "ratio", "MB", "int8 conv", "float"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, timing in report.timings.items():
        table.add_row(
            name,
            f"{timing.ms_per_shower:.3f} ± {timing.ms_per_shower_error:.3f}",
            f"{timing.showers_per_s:.0f}",
            f"{timing.speedup:.2f}x",
            f"{timing.network_ms_per_shower:.3f}",
            f"{timing.network_speedup:.2f}x",
            f"{timing.size_mb:.2f}",
            str(timing.operations.integer_convolutions),
            str(timing.operations.float_arithmetic),
        )
    return table
