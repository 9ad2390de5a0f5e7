"""The benchmark of a machine as tables in the terminal and on pages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from calogan.benchmark import growth
from calogan.benchmark.speed_report import SpeedReport


def _number(key: str, digits: int = 3, *, scale: float = 1.0, unit: str = "") -> Callable[[Mapping[str, Any]], str]:
    def text(line: Mapping[str, Any]) -> str:
        if key not in line:
            return ""
        value = scale * line[key]
        return f"{value:,.0f}{unit}" if abs(value) >= 1000 else f"{value:.{digits}g}{unit}"

    return text


def _time(key: str) -> Callable[[Mapping[str, Any]], str]:
    def text(line: Mapping[str, Any]) -> str:
        if key not in line:
            return ""
        spread = line.get(f"{key}_spread")
        return f"{line[key]:.3g}" + ("" if spread is None else f" ± {spread:.1g}")

    return text


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda line: str(line["name"]),
    "core-ms, batch 1": _time("core_ms_1"),
    "batch 16": _time("core_ms_16"),
    "batch 256": _time("core_ms_256"),
    "sparse": _time("sparse_ms"),
    "network": _time("network_ms"),
    "showers/s, core": _number("per_s_core"),
    "machine": _number("per_s_node"),
    "over float32": _number("ratio", unit="x"),
    "network's": _number("network_ratio", unit="x"),
    "over Geant4, core": _number("over_geant4_core", unit="x"),
    "machine over core": _number("over_geant4_node", unit="x"),
    "files, MB": _number("files_mb"),
    "network, MB": _number("network_mb"),
    "memory, MB": _number("memory_mb"),
    "model adds": _number("added_mb"),
    "first shower, s": _number("first_shower_s", 2),
    "of peak": _number("peak_share", 2, scale=100, unit=" %"),
}


def cells(report: SpeedReport) -> list[list[str]]:
    """Texts of the table of contenders, one list for each, in the order of `COLUMNS`."""
    return [[text(line) for text in COLUMNS.values()] for line in report.table()]


def speed_table(report: SpeedReport) -> Table:
    """Contenders side by side; columns without any value are left out."""
    cores, isa = report.header.get("cores", "?"), report.header["cpu_isa"]
    table = Table(title=f"{escape(report.model)} and others, {report.header['cpu_model']}, {cores} cores ({isa})")
    rows = cells(report)
    shown = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    for number in shown:
        table.add_column(list(COLUMNS)[number], justify="right" if number else "left")
    for row in rows:
        table.add_row(*(escape(row[number]) for number in shown))
    return table


def rate_table(report: SpeedReport) -> Table:
    """Showers per second of each arrangement of streams and threads."""
    table = Table(title="showers/s of all streams, by streams x threads of each")
    keys = sorted({(rate.name, rate.batch) for rate in report.rates})
    for heading in ("", *(f"{name}, batch {batch}" for name, batch in keys)):
        table.add_column(heading, justify="right" if heading else "left")
    found = {(rate.streams, rate.threads, rate.name, rate.batch): rate.showers_per_s for rate in report.rates}
    for streams, threads in dict.fromkeys((rate.streams, rate.threads) for rate in report.rates):
        values = [found.get((streams, threads, *key)) for key in keys]
        texts = ["" if value is None else f"{value.median:,.0f} ± {value.spread:,.0f}" for value in values]
        table.add_row(f"{streams} x {threads}", *texts)
    return table


def notes(report: SpeedReport) -> Sequence[str]:
    """What follows from the numbers, in lines."""
    lines = []
    if best := report.best:
        lines.append(
            f"fastest: {best.streams} streams of {best.threads} threads, {best.batch} showers a call: "
            f"{best.showers_per_s.median:,.0f} showers/s"
        )
    if grown := list(report.growth):
        lines.append(
            f"{grown[0].showers:,} to {grown[-1].showers:,} showers in a row: the time of a shower differs by at most "
            f"{100 * growth.nonlinearity(grown):.1f} %, memory by {100 * growth.memory_growth(grown):+.1f} % "
            f"({grown[-1].memory_mb:.0f} MB)"
        )
    return lines
