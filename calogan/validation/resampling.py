"""Weights of showers: those that make two spectra of Ep equal, and those of the bootstrap for statistical errors.

The weights of a shower depend on the energies of both samples and on its position in its own, not on other showers, so
a sample can be processed in parts. All sums over showers run block by block in float64, so their bits do not depend on
the division into parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calogan.errors import EventsError
from calogan.validation.observables import Floats, Observables

BLOCK = 1024  # showers drawn and summed together, from the start of a sample; changing it changes the results
REPLICAS = 100
FEWEST_SHOWERS = 20  # with fewer, neither a spread nor its error is meaningful
_SHOWERS_PER_MATCHED_BIN = 40

Columns = Callable[[Observables], Floats]
Counts = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample prepared for comparison.

    Attributes:
        observables: observables of n showers.
        weight: weight of each shower, shape (n,); 0 leaves it out.
        counts: multiplicity of each shower in each Poisson bootstrap replica, shape (n, REPLICAS).
    """

    observables: Observables
    weight: Floats
    counts: Counts

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def used(self) -> NDArray[np.intp]:
        """Indices of the showers with a weight above 0."""
        return np.flatnonzero(self.weight)

    @property
    def effective(self) -> float:
        """Number of showers of equal weight that would have the same statistical error."""
        return float(self.weight.sum() ** 2 / (self.weight**2).sum())


def folds_by_energy(
    reference_energy: NDArray[np.floating], candidate_energy: NDArray[np.floating], *, folds: int, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide two samples in parts for a classifier, showers of neighbouring energies together.

    A candidate usually has the energies of the reference. If one shower of a pair trained the classifier and the
    other tested it, it could learn which energy has which label and would be wrong each time: AUC below 0.5.

    Args:
        reference_energy: Ep, shape (n,), GeV.
        candidate_energy: Ep, shape (m,), GeV.
        folds: number of parts.
        seed: of the division.

    Returns:
        Number of the part of each shower, shapes (n,) and (m,).
    """
    blocks = min(len(reference_energy), len(candidate_energy))
    fold_of_block = np.random.default_rng(seed).permutation(blocks) % folds
    parts = []
    for energy in (reference_energy, candidate_energy):
        rank = np.empty(len(energy), dtype=np.intp)
        rank[np.argsort(energy, kind="stable")] = np.arange(len(energy))
        parts.append(fold_of_block[rank * blocks // len(energy)])
    return parts[0], parts[1]


def match_energies(reference: Observables, candidate: Observables, *, seed: int = 0) -> tuple[Sample, Sample]:
    """Prepare two samples for comparison: equal spectra of Ep, see `energy_weights`, and bootstrap replicas.

    Raises:
        EventsError: fewer than `FEWEST_SHOWERS` of a sample have a counterpart and hold energy.
    """
    weights = energy_weights(reference.energy, candidate.energy)
    for name, observables, weight in zip(("reference", "candidate"), (reference, candidate), weights, strict=True):
        count = np.count_nonzero(weight)
        filled = np.count_nonzero((weight > 0) & (observables.ecal > 0))
        if filled < FEWEST_SHOWERS:
            raise EventsError(
                f"only {filled} of {count} {name} showers hold any energy; at least {FEWEST_SHOWERS} are needed: "
                "check the model or the unit of the cells (GeV)"
            )
    r, c = (
        Sample(observables, weight, replica_counts(0, len(observables), (seed, i)))
        for i, (observables, weight) in enumerate(zip((reference, candidate), weights, strict=True))
    )
    return r, c


def energy_weights(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Weights that give the candidate the spectrum of Ep of the reference.

    Shower shapes change with Ep, so a difference of the spectra would be mistaken for a difference of physics. Ep is
    divided into bins with about equal numbers of reference showers; in each, the candidate's weights add up to the
    reference's. Showers without a counterpart in the other sample get weight 0. Samples of equal energies keep weight 1.

    Args:
        reference: Ep of the n reference showers, shape (n,), GeV.
        candidate: Ep of the m candidate showers, shape (m,), GeV.

    Returns:
        Weights of both, shapes (n,) and (m,).

    Raises:
        EventsError: fewer than `FEWEST_SHOWERS` of a sample have a counterpart.
    """
    energies = reference.astype(np.float64), candidate.astype(np.float64)
    bins = max(1, min(25, len(reference) // _SHOWERS_PER_MATCHED_BIN))
    edges = np.unique(np.quantile(energies[0], np.linspace(0, 1, bins + 1)))
    inside = (energies[1] >= edges[0]) & (energies[1] <= edges[-1])
    of_reference, of_candidate = (np.searchsorted(edges[1:-1], energy, side="right") for energy in energies)
    r_counts = np.bincount(of_reference, minlength=len(edges)).astype(np.float64)
    c_counts = np.bincount(of_candidate, weights=inside, minlength=len(edges))
    both = (r_counts > 0) & (c_counts > 0)
    ratio = np.divide(r_counts, c_counts, out=np.zeros_like(r_counts), where=both)
    weights = both[of_reference].astype(np.float64), np.where(inside, ratio[of_candidate], 0.0)
    for name, weight in zip(("reference", "candidate"), weights, strict=True):
        count = np.count_nonzero(weight)
        if count < FEWEST_SHOWERS:
            raise EventsError(
                f"only {count} of {len(weight)} {name} showers have energies in the range of the other sample; "
                f"at least {FEWEST_SHOWERS} are needed: generate the candidate at the energies of the reference "
                f"({edges[0]:g} to {edges[-1]:g} GeV)"
            )
    return weights


def blocks(start: int, stop: int) -> Iterator[slice]:
    """Divide showers into blocks; the last may be shorter, and `start` is a multiple of `BLOCK`."""
    for first in range(start, stop, BLOCK):
        yield slice(first, min(first + BLOCK, stop))


def replica_counts(start: int, stop: int, stream: tuple[int, int]) -> Counts:
    """Draw the multiplicities of some showers in each bootstrap replica.

    Args:
        start: index of the first of these showers in the sample, a multiple of `BLOCK`.
        stop: index after the last of them.
        stream: seed, and a number that differs between reference and candidate.

    Returns:
        Counts, shape (stop - start, REPLICAS).
    """
    counts = np.empty((stop - start, REPLICAS), np.uint8)
    for block in blocks(start, stop):
        rng = np.random.default_rng((*stream, block.start // BLOCK))
        counts[block.start - start : block.stop - start] = rng.poisson(1.0, (block.stop - block.start, REPLICAS))
    return counts


def replica_weights(weight: Floats, counts: Counts) -> Floats:
    """Weights of some showers in the sample (row 0) and in its replicas, shape (1 + REPLICAS, showers)."""
    return np.vstack([weight, counts.T * weight])


def replica_means(sample: Sample, columns: Columns) -> Floats:
    """Weighted means of per-shower numbers, for the sample and for its bootstrap replicas.

    Args:
        sample: n showers.
        columns: function that computes the per-shower numbers of some showers, shape (showers, k).

    Returns:
        Means, shape (1 + REPLICAS, k); row 0 is the sample itself.
    """
    total, weight = np.zeros(()), np.zeros((1 + REPLICAS, 1))
    for block in blocks(0, len(sample)):
        weights = replica_weights(sample.weight[block], sample.counts[block])
        total = total + weights @ columns(sample.observables[block])
        weight += weights.sum(axis=1, keepdims=True)
    means: Floats = total / weight
    return means
