"""Reports as tables in the terminal."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from calogan.events.inspection import Inspection
    from calogan.validation.report import ValidationReport

_COLOURS = {"passed": "green", "failed": "red", "undecided": "yellow", "not measured": "dim"}
_WIDE, _WIDEST = 100, 300  # columns of a table if the output is not a terminal: at least, and at most


def show(table: Table) -> None:
    """Print a table to standard output."""
    console = Console()
    if not console.is_terminal:
        console.width = max(_WIDE, Console(width=_WIDEST).measure(table).maximum)
    console.print(table)


def report_table(report: "ValidationReport", candidate: str = "candidate") -> Table:
    """Metrics of a comparison with their errors, the floor and the gates; single bins are in `spread_table`."""
    from calogan.validation import spreads  # noqa: PLC0415 - not for commands without metrics

    title = f"{report.showers['reference']} reference showers and {report.showers['candidate']} of {candidate}"
    table = Table(title=escape(title))
    for column in ("metric", "value", "error", "floor", "limit", "gate"):
        table.add_column(column, justify="left" if column in {"metric", "gate"} else "right", no_wrap=True)
    for name, metric in report.metrics.items():
        if spreads.is_binned(name):
            continue
        floor, result = report.floor.get(name), report.gates.get(name)
        verdict = f"[{_COLOURS[result.verdict]}]{result.verdict}[/]" if result else ""
        table.add_row(
            name,
            f"{metric.value:.4g}",
            f"{metric.error:.2g}",
            f"{floor.value:.4g}" if floor else "",
            f"{result.gate.limit:g}" if result else "",
            verdict,
        )
    return table


def spread_table(report: "ValidationReport", candidate: str = "candidate") -> Table:
    """Spreads and means in bins of Ep, candidate over reference less 1."""
    from calogan.reporting import spread_tables  # noqa: PLC0415

    found = spread_tables.spread_table(report)
    table = Table(title=escape(f"spreads over showers and means of {candidate}, in bins of Ep (GeV): deviation in %"))
    table.add_column("", no_wrap=True)
    for heading in (*found.bins, "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    for row in found.rows:
        verdict = row.gate.verdict
        gate = f"[{_COLOURS[verdict]}]{verdict}[/]" if verdict else ""
        table.add_row(escape(row.title), *row.cells, row.gate.text, gate)
    return table


def inspection_tables(inspection: "Inspection") -> list[Table]:
    """Files, and their showers by energy."""
    files = Table(title=f"{len(inspection.energy)} showers in {len(inspection.files)} files")
    for column in ("file", "format", "showers", "generator"):
        files.add_column(column, justify="right" if column == "showers" else "left")
    for file in inspection.files:
        origin = file.origin.get("generator") or file.origin.get("origin", "")
        files.add_row(escape(str(file.path)), escape(file.layout), str(file.showers), escape(origin))
    energies = Table(
        title=f"Ep {inspection.energy.min():.4g} to {inspection.energy.max():.4g} GeV, "
        f"{inspection.hits.mean():.0f} cells hit"
    )
    for column in ("Ep (GeV)", "showers", "sampling fraction (%)", "spread (%)", ""):
        energies.add_column(column, justify="left" if not column else "right")
    rows = inspection.by_energy()
    most = max((row["showers"] for row in rows), default=1)
    for row in rows:
        energies.add_row(
            f"{row['low_gev']:.4g} - {row['high_gev']:.4g}",
            f"{row['showers']:.0f}",
            f"{100 * row['sampling_fraction']:.3f} ± {100 * row['error']:.3f}",
            f"{100 * row['spread']:.3f}",
            "█" * max(1, round(24 * row["showers"] / most)),
        )
    return [files, energies]


def summary_table(
    summary: Mapping[str, Any], *, title: str = "against Geant4 showers not used in any earlier step"
) -> Table:
    """Precisions side by side, from the summary of a pipeline or a comparison, and those of other models beside them."""
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("sampling fraction shift", _physics("sampling_fraction_shift", percent=True)),
        ("worst layer, mean energy", _physics("worst_layer", percent=True)),
        ("composite MSE (10^-3)", _physics("composite_mse", scale=1000)),
        ("mean y / std (cells)", lambda p: f"{_value(p, 'y_mean'):.2f} / {_value(p, 'y_std'):.2f}"),
        ("mean z / std (layers)", lambda p: f"{_value(p, 'z_mean'):.2f} / {_value(p, 'z_std'):.2f}"),
        ("pixel-wise, of ECAL", _physics("pixelwise_relative", percent=True)),
        ("AUC against Geant4", _physics("auc_high_level")),
        ("gates passed", lambda p: _gates(p["gates"])),
        ("ms per shower, one core", lambda p: f"{p['performance']['perf/ms_per_shower']:.3f}"),
        ("  ratio to float32", lambda p: f"{p['performance']['perf/speedup']:.2f}x"),
        ("  of it the network", lambda p: f"{p['performance']['perf/network_ms_per_shower']:.3f}"),
        ("  ratio to float32", lambda p: f"{p['performance']['perf/network_speedup']:.2f}x"),
        ("showers/s, one core", lambda p: f"{p['performance']['perf/showers_per_s']:.0f}"),
        ("network size (MB)", lambda p: f"{p['performance']['model/size_mb']:.2f}"),
        ("int8 convolutions", lambda p: f"{p['performance']['quant/integer_convolutions']:.0f}"),
    ]
    table = Table(title=f"\n{title}; {summary['header']['cpu_isa']}")
    table.add_column("", no_wrap=True)
    models = {summary["model"]: summary["precisions"], **summary.get("beside", {})}
    columns = [
        (model, name, precision) for model, precisions in models.items() for name, precision in precisions.items()
    ]
    for model, name, _ in columns:
        table.add_column(escape(f"{model}\n{name}") if len(models) > 1 else escape(name), justify="right")
    for row, text in rows:
        table.add_row(row, *(text(precision) for *_, precision in columns))
    return table


def _value(precision: dict[str, Any], metric: str) -> float:
    """Value of one physics metric of a precision."""
    return float(precision["physics"][f"physics/{metric}"]["value"])


def _physics(metric: str, *, percent: bool = False, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    """Formatter of one physics metric with its error."""

    def text(precision: dict[str, Any]) -> str:
        estimate = precision["physics"][f"physics/{metric}"]
        factor, unit = (100.0, " %") if percent else (scale, "")
        return f"{factor * estimate['value']:.2g} ± {factor * estimate['error']:.1g}{unit}"

    return text


def _gates(verdicts: dict[str, str]) -> str:
    """Number of gates passed, out of those measured."""
    results = [verdict for verdict in verdicts.values() if verdict != "not measured"]
    return f"{results.count('passed')} of {len(results)}"
