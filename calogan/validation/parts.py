"""Measure samples of any size in parts, here or on many workers of one kind of CPU: the same bits in whatever parts.

A `plan` is made of the energies alone; `divide` makes its parts, each of which is observed on its own; `merge` puts a sample together.
What does not fit into `Observables`, the two-dimensional projections, is kept as sums over showers.
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
from calogan.validation.observables import Floats, Observables, joined, observe_planes
from calogan.validation.resampling import FEWEST_SHOWERS, energy_weights, replica_counts, replica_weights


@dataclass(frozen=True, eq=False)
class Plan:
    """What is decided before any shower is looked at.

    Attributes:
        weights: of the reference, shape (1 or 3, n), and of the candidate, shape (1, m). Row 0 makes the spectra of Ep
            equal; rows 1 and 2 are there for the floor: each of one half of the reference, 0 for the other half.
        seed: of the bootstrap replicas and of the halves.
    """

    weights: tuple[Floats, Floats]
    seed: int


@dataclass(frozen=True, eq=False)
class Part:
    """A stretch of a sample to be observed, with all that has to be known of the rest.

    Attributes:
        of: 0 for the reference, 1 for the candidate.
        start, stop: the showers; `start` is a multiple of `resampling.BLOCK`.
        weights: of these showers, columns of `Plan.weights`.
        seed: of the bootstrap replicas.
    """

    of: int
    start: int
    stop: int
    weights: Floats
    seed: int


@dataclass(frozen=True, eq=False)
class Partial:
    """What was found in a part.

    Attributes:
        start: place of its first shower in the sample.
        observables: of its showers.
        planes: sums over the showers of each block, shape (blocks, weightings, 2 + REPLICAS, 1875), of the projections
            xy, xz and yz over Ep: weighted, weighted for each replica, and the weighted sum of their squares.
        moved: see `moved_energy`, shape (showers, 2), GeV; no columns if there are no float32 showers.
    """

    start: int
    observables: Observables
    planes: Floats
    moved: Floats


@dataclass(frozen=True, eq=False)
class Measured:
    """A whole sample of n showers: the observables, the sums of `Partial.planes` over all blocks, and `moved`."""

    observables: Observables
    planes: Floats
    moved: Floats


def plan(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, floor: bool, seed: int) -> Plan:
    """Decide weights from the energies of both samples, shapes (n,) and (m,), GeV.

    Args:
        reference: Ep of the reference.
        candidate: Ep of the candidate.
        floor: the reference will also be compared with itself; not done with fewer than 2 x 20 showers.
        seed: of the bootstrap replicas and of the halves of the reference.

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
    """Divide the reference (0) or the candidate (1) into parts of some blocks each."""
    weights = plan.weights[of]
    size, showers = blocks * resampling.BLOCK, weights.shape[1]
    for start in range(0, showers, size):
        stop = min(start + size, showers)
        yield Part(of, start, stop, weights[:, start:stop], plan.seed)


def observe_part(source: EventSource, part: Part, float32: EventSource | None = None) -> Partial:
    """Read and measure a part, a block at a time.

    Args:
        source: the sample that the part is of.
        part: which showers.
        float32: showers of the float32 model with the latent of this sample.
    """
    observed, planes, moved = [], [], []
    # Products of matrices come out the same with any number of threads only if it is always the same number.
    with threadpool_limits(1):
        for block in resampling.blocks(part.start, part.stop):
            events = source[block]
            observables, projections = observe_planes(events)
            counts = replica_counts(block.start, block.stop, (part.seed, part.of))
            weights = part.weights[:, block.start - part.start : block.stop - part.start]
            columns = projections.reshape(len(events), -1) / observables.energy[:, None]
            planes.append(np.stack([_sums(weight, counts, columns) for weight in weights]))
            observed.append(observables)
            moved.append(
                np.empty((len(events), 0)) if float32 is None else moved_energy(float32[block].showers, events.showers)
            )
    showers = joined(observed, part.stop - part.start)
    return Partial(part.start, showers, np.stack(planes), np.concatenate(moved))


def merge(partials: Iterable[Partial], showers: int) -> Measured:
    """Put a sample together; partials are taken one by one and let go.

    Args:
        partials: of all parts, in the order of the showers.
        showers: how many the sample has.

    Raises:
        EventsError: a part is missing, or not in order.
    """
    observed: list[Observables] = []
    moved: list[Floats] = []
    planes: Floats = np.zeros(())
    done = 0
    for partial in partials:
        if partial.start != done:
            raise EventsError(f"a part starts at shower {partial.start} instead of {done}; give all parts in order")
        done += len(partial.observables)
        for block in partial.planes:
            planes = planes + block
        # Copies, for the arrays of a part that comes from Ray keep all of it in shared memory.
        observed.append(copy.deepcopy(partial.observables))
        moved.append(partial.moved.copy())
    if done != showers:
        raise EventsError(f"parts hold {done} of {showers} showers; give all parts")
    return Measured(joined(observed, showers), planes, np.concatenate(moved))


def moved_energy(float32: NDArray[np.float32], candidate: NDArray[np.float32]) -> Floats:
    """Energy by which single showers differ from those of the float32 model made with the same latent.

    Args:
        float32: showers of the float32 model, shape (n, 25, 25, 25), GeV.
        candidate: showers of another precision, the same shape.

    Returns:
        The sum over cells of the absolute difference, and of the float32 shower, shape (n, 2), GeV.
    """
    # One at a time, which stay in the cache: twice as fast as all at once.
    pairs = zip(float32, candidate, strict=True)
    found = [[np.abs(one - other).sum(dtype=np.float64), one.sum(dtype=np.float64)] for one, other in pairs]
    return np.array(found).reshape(len(found), 2)


def _sums(weight: Floats, counts: NDArray[np.uint8], columns: Floats) -> Floats:
    return np.vstack([replica_weights(weight, counts) @ columns, weight @ columns**2])
