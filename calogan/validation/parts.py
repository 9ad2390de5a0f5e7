"""Process samples of any size in parts, here or on many workers with equal CPUs; the division does not change a bit.

A `plan` needs the energies only. `divide` makes its parts, each of which is processed on its own, and `merge` combines
them. The two-dimensional projections, too large for `Observables`, are kept as sums over showers.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan.errors import EventsError
from calogan.events import EventSource
from calogan.validation import resampling
from calogan.validation.observables import Floats, Observables, concatenate, observe_planes
from calogan.validation.resampling import FEWEST_SHOWERS, energy_weights, replica_counts, replica_weights


@dataclass(frozen=True, eq=False)
class Plan:
    """Decisions made before any shower is read.

    Attributes:
        weights: weights of the reference, shape (1 or 3, n), and of the candidate, shape (1, m). Row 0 makes the
            spectra of Ep equal; rows 1 and 2 are for the floor, each with the weights of one half of the reference and
            0 for the other half.
        seed: seed of the bootstrap replicas and of the halves.
    """

    weights: tuple[Floats, Floats]
    seed: int


@dataclass(frozen=True, eq=False)
class Part:
    """A range of showers to process, with everything needed from the rest of the sample.

    Attributes:
        of: 0 for the reference, 1 for the candidate.
        start, stop: range of the showers; `start` is a multiple of `resampling.BLOCK`.
        weights: weights of these showers, columns of `Plan.weights`.
        seed: seed of the bootstrap replicas.
    """

    of: int
    start: int
    stop: int
    weights: Floats
    seed: int


@dataclass(frozen=True, eq=False)
class PartSummary:
    """Result of a part.

    Attributes:
        start: index of its first shower in the sample.
        observables: observables of its showers.
        planes: sums over the showers of each block, shape (blocks, weightings, 2 + REPLICAS, 1875), of the projections
            xy, xz and yz over Ep: weighted, weighted for each replica, and the weighted sum of their squares.
        difference: see `energy_difference`, shape (showers, 2), GeV; no columns if there are no float32 showers.
    """

    start: int
    observables: Observables
    planes: Floats
    difference: Floats


@dataclass(frozen=True, eq=False)
class SampleSummary:
    """A whole sample of n showers: the observables, the sums of `PartSummary.planes` over all blocks, and `difference`."""

    observables: Observables
    planes: Floats
    difference: Floats


def plan(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, floor: bool, seed: int) -> Plan:
    """Compute weights from the energies of both samples.

    Args:
        reference: Ep of the reference, shape (n,), GeV.
        candidate: Ep of the candidate, shape (m,), GeV.
        floor: whether to compare the reference with itself too; skipped with fewer than 2 x 20 showers.
        seed: seed of the bootstrap replicas and of the halves of the reference.

    Raises:
        EventsError: too few showers with common energies.
    """
    of_reference, of_candidate = energy_weights(reference, candidate)
    weightings = [of_reference]
    if floor and len(reference) >= 2 * FEWEST_SHOWERS:
        order = np.random.default_rng(seed).permutation(len(reference))
        halves = np.sort(order[::2]), np.sort(order[1::2])
        for half, weight in zip(halves, energy_weights(*(reference[half] for half in halves)), strict=True):
            weightings.append(np.zeros(len(reference)))
            weightings[-1][half] = weight
    return Plan((np.stack(weightings), of_candidate[None]), seed)


def divide(plan: Plan, of: int, *, blocks: int = 1) -> Iterator[Part]:
    """Divide the reference (0) or the candidate (1) into parts of `blocks` blocks each."""
    weights = plan.weights[of]
    size, showers = blocks * resampling.BLOCK, weights.shape[1]
    for start in range(0, showers, size):
        stop = min(start + size, showers)
        yield Part(of, start, stop, weights[:, start:stop], plan.seed)


def observe_part(source: EventSource, part: Part, float32: EventSource | None = None) -> PartSummary:
    """Read a part and compute its observables, block by block.

    Args:
        source: the whole sample.
        part: the range of its showers to process.
        float32: showers of the float32 model from the same latent numbers.
    """
    observables, planes, difference = [], [], []
    # The bits of a matrix product depend on the number of threads, so it is fixed.
    with threadpool_limits(1):
        for block in resampling.blocks(part.start, part.stop):
            events = source[block]
            sample, projections = observe_planes(events)
            counts = replica_counts(block.start, block.stop, (part.seed, part.of))
            weights = part.weights[:, block.start - part.start : block.stop - part.start]
            columns = projections.reshape(len(events), -1) / sample.energy[:, None]
            planes.append(np.stack([_sums(weight, counts, columns) for weight in weights]))
            observables.append(sample)
            difference.append(
                np.empty((len(events), 0))
                if float32 is None
                else energy_difference(float32[block].showers, events.showers)
            )
    whole = concatenate(observables, part.stop - part.start)
    return PartSummary(part.start, whole, np.stack(planes), np.concatenate(difference))


def merge(summaries: Iterable[PartSummary], showers: int) -> SampleSummary:
    """Combine the parts of a sample; the results of the parts are consumed one by one.

    Args:
        summaries: results of all parts, in the order of the showers.
        showers: number of showers in the sample.

    Raises:
        EventsError: a part is missing or out of order.
    """
    observables: list[Observables] = []
    difference: list[Floats] = []
    planes: Floats = np.zeros(())
    count = 0
    for summary in summaries:
        if summary.start != count:
            raise EventsError(f"a part starts at shower {summary.start} instead of {count}; give all parts in order")
        count += len(summary.observables)
        for block in summary.planes:
            planes = planes + block
        # Copies: a single array of a part from Ray would keep the whole part in shared memory.
        observables.append(copy.deepcopy(summary.observables))
        difference.append(summary.difference.copy())
    if count != showers:
        raise EventsError(f"the parts hold {count} of {showers} showers; give all parts")
    return SampleSummary(concatenate(observables, showers), planes, np.concatenate(difference))


def energy_difference(float32: NDArray[np.float32], candidate: NDArray[np.float32]) -> Floats:
    """Energy by which single showers differ from those of the float32 model with the same latent numbers.

    Args:
        float32: showers of the float32 model, shape (n, 25, 25, 25), GeV.
        candidate: showers of another precision, same shape and unit.

    Returns:
        The sum over cells of the absolute difference, and of the float32 shower, shape (n, 2), GeV.
    """
    # Single showers fit into the cache: twice as fast as all at once.
    pairs = zip(float32, candidate, strict=True)
    sums = [[np.abs(one - other).sum(dtype=np.float64), one.sum(dtype=np.float64)] for one, other in pairs]
    return np.array(sums).reshape(len(sums), 2)


def _sums(weight: Floats, counts: NDArray[np.uint8], columns: Floats) -> Floats:
    return np.vstack([replica_weights(weight, counts) @ columns, weight @ columns**2])
