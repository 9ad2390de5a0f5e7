"""How showers of one energy differ from each other: spreads and means of numbers of the whole shower, in bins of Ep.

A generator can be right on average, layer by layer, while its showers are too alike or differ in the wrong way. So the
standard deviation over showers at fixed Ep is compared for each of `QUANTITIES`, as `fixed_energy` describes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from calogan.validation.fixed_energy import Bin, Frame
from calogan.validation.metrics import Estimate, relative_deviation
from calogan.validation.observables import AXES, Floats, Observables, moments
from calogan.validation.resampling import FEWEST_SHOWERS, Sample, replica_weights

EDGES_GEV = (2, 10, 25, 50, 100, 250, 500)
FEWEST_IN_BIN = 150  # showers of each sample: a spread to 6 %; bins with fewer are joined

Bins = tuple[tuple[int, int], ...]


def _moment(axis: str, which: int) -> Callable[[Observables], Floats]:
    return lambda s: moments(s.profiles[:, AXES.index(axis)])[which]


QUANTITIES: Mapping[str, Callable[[Observables], Floats]] = {
    "sampling_fraction": lambda s: s.sampling_fraction,
    **{f"{axis}_mean": _moment(axis, 0) for axis in AXES},
    **{f"{axis}_std": _moment(axis, 1) for axis in AXES},
    "mean_radius": lambda s: s.mean_radius,
    "core_share": lambda s: s.core_shares[:, 0],
    "core_share_3x3": lambda s: s.core_shares[:, 1],
    "max_cell": lambda s: s.max_cell / s.energy,
    "hits": lambda s: s.hits.sum(axis=1).astype(np.float64),
    "hits_10mev": lambda s: s.hits_10mev,
}
# The mean of a centre across the shower is that of the grid: relative deviations from it tell nothing.
SHIFTED = tuple(name for name in QUANTITIES if name not in {"x_mean", "y_mean"})
METRICS = (*(f"spread_{name}" for name in QUANTITIES), *(f"shift_{name}" for name in SHIFTED))
_BINNED = re.compile(rf"(?:physics/)?(spread|shift)_({'|'.join(QUANTITIES)})_(\d+)_(\d+)gev")


@dataclass(frozen=True)
class Row:
    """One quantity in all bins of Ep.

    Attributes:
        metric: name of the metric of its worst bin, which has the gate, with `physics/`.
        cells: the metric of each bin, by its limits in GeV.
    """

    metric: str
    cells: Mapping[tuple[int, int], Estimate]


def energy_bins(reference: Sample, candidate: Sample) -> Bins:
    """Bins of Ep with at least `FEWEST_IN_BIN` showers of each sample: those of `EDGES_GEV`, joined where needed.

    A bin with too few is joined to those above it, and what is left at the upper end to the last one.
    """
    counts = np.min([np.histogram(s.observables.energy[_filled(s)], EDGES_GEV)[0] for s in (reference, candidate)], 0)
    bins: list[tuple[int, int]] = []
    start, end, count = None, EDGES_GEV[0], 0
    for (low, high), showers in zip(pairwise(EDGES_GEV), counts, strict=True):
        if not showers:
            continue
        start, end, count = low if start is None else start, high, count + showers
        if count >= FEWEST_IN_BIN:
            bins.append((start, end))
            start, count = None, 0
    if start is not None:
        bins[-1:] = [(bins[-1][0] if bins else start, end)]
    return tuple(bins)


def compare(reference: Sample, candidate: Sample, bins: Bins) -> dict[str, Estimate]:
    """Relative deviations of spreads and means, in each bin and in the worst one.

    The worst bin is the one whose deviation, less two errors, is largest: the bin that a gate looks at. Its error is larger
    by a factor that makes two errors as rare for the worst of all bins as they are for one. Bins with fewer than
    `FEWEST_SHOWERS` of a sample are left out; showers without energy are too, they have a metric of their own.

    Args:
        reference: Geant4 showers.
        candidate: showers of any generator, of matching energies, see `resampling.match_energies`.
        bins: lower and upper limits of Ep, GeV, see `energy_bins`.

    Returns:
        Estimates by name: `spread_x_mean_2_10gev` for a bin, `spread_x_mean` for the worst; `shift_...` for means.
    """
    deviations: dict[str, list[Floats]] = {"spread": [], "shift": []}
    measured = []
    for limits in bins:
        r, c = (_select(sample, limits) for sample in (reference, candidate))
        if r is not None and c is not None:
            measured.append(limits)
            frame = Frame.of(r)
            (r_mean, r_spread), (c_mean, c_spread) = (frame.summarise(each) for each in (r, c))
            deviations["shift"].append(relative_deviation(c_mean, r_mean))
            deviations["spread"].append(relative_deviation(c_spread, r_spread))
    estimates = {}
    for metric in METRICS if measured else ():
        kind, _, quantity = metric.partition("_")
        column = list(QUANTITIES).index(quantity)
        in_bins = [Estimate.of_replicas(values[:, column]) for values in deviations[kind]]
        estimates[metric] = _worst(in_bins)
        estimates |= {f"{metric}_{low}_{high}gev": e for (low, high), e in zip(measured, in_bins, strict=True)}
    return estimates


def is_binned(name: str) -> bool:
    """Whether a name is that of a metric of one bin of Ep, such as `physics/spread_x_mean_2_10gev`."""
    return _BINNED.fullmatch(name) is not None


def rows(metrics: Mapping[str, Estimate]) -> list[Row]:
    """Arrange the metrics of single bins as a table, in the order of `METRICS`; empty if there are none."""
    cells: dict[str, dict[tuple[int, int], Estimate]] = {}
    for name, estimate in metrics.items():
        if match := _BINNED.fullmatch(name):
            kind, quantity, low, high = match.groups()
            cells.setdefault(f"physics/{kind}_{quantity}", {})[int(low), int(high)] = estimate
    return [Row(name, cells[name]) for metric in METRICS if (name := f"physics/{metric}") in cells]


def columns(table: Iterable[Row]) -> list[tuple[int, int]]:
    """The bins of a table in ascending order."""
    return sorted({limits for row in table for limits in row.cells})


def as_columns(metrics: Mapping[str, Estimate]) -> dict[str, list[str]]:
    """The table of `rows` as columns of equal length by title, in %; empty if there are none."""
    table = rows(metrics)
    texts = {"metric": [row.metric.removeprefix("physics/") for row in table]}
    for low, high in columns(table):
        cells = [row.cells.get((low, high)) for row in table]
        texts[f"{low}-{high} GeV"] = [f"{100 * e.value:.1f} ± {100 * e.error:.1f} %" if e else "" for e in cells]
    return texts if table else {}


def _worst(in_bins: Sequence[Estimate]) -> Estimate:
    """The worst bin, with the error of the worst of several."""
    factor = norm.isf(norm.sf(2) / len(in_bins)) / 2
    candidates = [Estimate(e.value, float(factor * e.error)) for e in in_bins]
    return max(candidates, key=lambda e: abs(e.value) - 2 * (e.error if np.isfinite(e.error) else 0.0))


def _select(sample: Sample, limits: tuple[int, int]) -> Bin | None:
    """The showers of a bin; None if there are too few."""
    low, high = limits
    energy = sample.observables.energy
    below = energy <= high if high == EDGES_GEV[-1] else energy < high
    chosen = np.flatnonzero(_filled(sample) & (energy >= low) & below)
    if len(chosen) < FEWEST_SHOWERS:
        return None
    showers = sample.observables[chosen]
    numbers = np.column_stack([quantity(showers) for quantity in QUANTITIES.values()])
    return Bin.of(numbers, showers.energy, replica_weights(sample.weight[chosen], sample.counts[chosen]), limits)


def _filled(sample: Sample) -> NDArray[np.bool_]:
    filled: NDArray[np.bool_] = (sample.weight > 0) & (sample.observables.ecal > 0)
    return filled
