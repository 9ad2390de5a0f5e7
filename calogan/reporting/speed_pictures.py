"""Pictures of the benchmark of a machine: throughput of arrangements, and the roofline of a core."""

import numpy as np
from matplotlib.figure import Figure

from calogan.benchmark.roofline import Roofline
from calogan.benchmark.speed_report import SpeedReport
from calogan.reporting.pictures import blank

_DASHES = {"float32": "-", "bfloat16": "--", "int8": "-."}


def pictures(report: SpeedReport) -> dict[str, Figure]:
    """All pictures of a report, by name."""
    figures = {"streams": heat_maps(report)} if report.rates else {}
    return figures | ({"roofline": roofline(report.roofline)} if report.roofline else {})


def heat_maps(report: SpeedReport) -> Figure:
    """Throughput against streams and threads, one map for each precision and number of showers of a call."""
    names = list(dict.fromkeys(rate.name for rate in report.rates))
    batches = sorted({rate.batch for rate in report.rates})
    streams, threads = (sorted({getattr(rate, axis) for rate in report.rates}) for axis in ("streams", "threads"))
    size = (1.5 + 3.2 * len(batches), 1.0 + 2.6 * len(names))
    figure = blank(max(size[0], 0.7 * len(batches) * len(threads)), max(size[1], 0.4 * len(names) * len(streams)))
    panels = figure.subplots(len(names), len(batches), squeeze=False)
    top = max(rate.showers_per_s.median for rate in report.rates)
    for row, name in zip(panels, names, strict=True):
        for panel, batch in zip(row, batches, strict=True):
            values = np.full((len(streams), len(threads)), np.nan)
            for rate in report.rates:
                if (rate.name, rate.batch) == (name, batch):
                    place = streams.index(rate.streams), threads.index(rate.threads)
                    values[place] = rate.showers_per_s.median
            panel.imshow(values, origin="lower", cmap="viridis", vmin=0, vmax=top, aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                if np.isfinite(value):
                    colour = "white" if value < 0.6 * top else "black"
                    panel.text(j, i, f"{value:,.0f}", ha="center", va="center", color=colour, fontsize="small")
            panel.set_xticks(range(len(threads)), threads)
            panel.set_yticks(range(len(streams)), streams)
            panel.set_title(f"{name}, {batch} a call", fontsize="medium")
            panel.set(xlabel="threads of each", ylabel="streams")
    figure.suptitle("showers per second of all streams")
    return figure


def roofline(limits: Roofline) -> Figure:
    """Multiply-adds per second against multiply-adds per byte, below the limits of one core."""
    figure = blank(7.5, 5)
    panel = figure.subplots()
    low, high = 1.0, 1e4
    intensity = np.geomspace(low, max(high, *(2 * point.intensity for point in limits.points.values()), low), 200)
    for precision, peak in limits.peaks.items():
        panel.plot(
            intensity,
            np.minimum(peak, intensity * limits.bandwidth) / 1e9,
            _DASHES.get(precision, ":"),
            color="#999999",
            label=f"limit in {precision}: {peak / 1e9:.0f}",
        )
    for name, point in limits.points.items():
        panel.plot(point.intensity, point.per_s / 1e9, "o", label=f"{name}: {100 * point.share:.0f} % of the peak")
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="multiply-adds for each byte moved",
        ylabel="10^9 multiply-adds per second, one core",
        title=f"copying memory moves {limits.bandwidth / 1e9:.1f} GB/s",
    )
    panel.legend(frameon=False, fontsize="small", loc="lower right")
    panel.set_ylim(bottom=panel.get_ylim()[0] / 10)  # room for the legend
    return figure
