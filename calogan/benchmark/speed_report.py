"""All figures of a benchmark of this machine in one result, with what follows from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calogan.benchmark import growth
from calogan.benchmark.geant4_speed import Geant4Speed
from calogan.benchmark.growth import Growth
from calogan.benchmark.roofline import Roofline
from calogan.benchmark.speed import Measured, Row, Settings
from calogan.benchmark.streams import StreamRate

GEANT4 = "Geant4"


@dataclass(frozen=True)
class SpeedReport:
    """Result of a benchmark.

    Attributes:
        model: registered name of the model.
        rows: contenders, those of the model first.
        geant4: None if it is not installed or not asked for.
        rates: throughput of each arrangement.
        best: the fastest of them.
        growth: by number of showers; empty if not asked for.
        roofline: None if not asked for.
        settings: how long was measured.
        header: provenance and machine.
    """

    model: str
    rows: Sequence[Row]
    geant4: Geant4Speed | None
    rates: Sequence[StreamRate]
    best: StreamRate | None
    growth: Sequence[Growth]
    roofline: Roofline | None
    settings: Settings
    header: Mapping[str, str]

    def table(self) -> list[dict[str, Any]]:
        """The rows by title of the column, JSON-compatible; a figure that does not apply is missing.

        The speed of the columns that have no batch in their title is that of the largest calls.
        """
        lines = [self._row(row) for row in self.rows]
        if self.geant4:
            lines.append(
                {
                    "name": GEANT4,
                    "core_ms_1": 1000 * self.geant4.cpu_s,
                    "per_s_core": 1 / self.geant4.cpu_s,
                    "per_s_node": self.geant4.node_per_s,
                    "over_geant4_core": 1.0,
                    "over_geant4_node": self.geant4.node_per_s * self.geant4.cpu_s,
                    "first_shower_s": self.geant4.latency_s,
                }
            )
        return lines

    def metrics(self) -> dict[str, dict[str, float]]:
        """Numbers of each row for MLflow, by the name of the row."""
        return {
            str(line["name"]): {f"speed/{key}": float(value) for key, value in line.items() if key != "name"}
            for line in self.table()
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-compatible."""
        return {
            "model": self.model,
            "rows": self.table(),
            "arrangements": [_rate(rate) for rate in self.rates],
            "best": _rate(self.best) if self.best else None,
            "growth": [vars(each) for each in self.growth],
            "growth_nonlinearity": growth.nonlinearity(self.growth) if self.growth else None,
            "growth_of_memory": growth.memory_growth(self.growth) if self.growth else None,
            "roofline": _roofline(self.roofline) if self.roofline else None,
            "settings": vars(self.settings),
            "header": dict(self.header),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        values: dict[str, Any] = {"name": row.contender.name}
        for batch, measured in row.core_ms.items():
            values |= _measured(f"core_ms_{batch}", measured)
        for name, optional in (("sparse_ms", row.sparse_ms), ("network_ms", row.network_ms)):
            values |= _measured(name, optional) if optional else {}
        values |= {"per_s_core": 1000 / row.best_ms} | _measured("per_s_node", row.node_per_s)
        point = self.roofline.points.get(row.contender.name) if self.roofline else None
        values |= {
            "ratio": row.ratio,
            "network_ratio": row.network_ratio,
            "over_geant4_core": 1000 * self.geant4.cpu_s / row.best_ms if self.geant4 else None,
            # As on the slides: the whole machine over one core of Geant4.
            "over_geant4_node": row.node_per_s.median * self.geant4.cpu_s if self.geant4 else None,
            "files_mb": row.files_mb or None,
            "network_mb": row.network_mb,
            "memory_mb": row.start.memory_mb,
            "added_mb": row.start.added_mb,
            "first_shower_s": row.start.latency_s,
            "peak_share": point.share if point else None,
        }
        return {name: value for name, value in values.items() if value is not None}


def _measured(name: str, measured: Measured) -> dict[str, float]:
    return {name: measured.median, f"{name}_spread": measured.spread}


def _rate(rate: StreamRate) -> dict[str, Any]:
    return {
        "name": rate.name,
        "streams": rate.streams,
        "threads": rate.threads,
        "batch": rate.batch,
    } | _measured("showers_per_s", rate.showers_per_s)


def _roofline(roofline: Roofline) -> dict[str, Any]:
    finite = {name: vars(point) for name, point in roofline.points.items() if math.isfinite(point.per_s)}
    return {"peaks": dict(roofline.peaks), "bandwidth": roofline.bandwidth, "points": finite}
