"""Distances between two samples of feature vectors: Fréchet, polynomial kernel, nearest neighbours.

Features have shape (showers, features), any unit. Showers count alike and both samples must have the same spectrum of
Ep; `thinned` makes a sample with weights so. `frechet_distance` and `kernel_distance` are those of Kansal et al.,
arXiv 2211.10295, with the constants of their package JetNet, and differ from it in one point: batches are drawn
without replacement. Drawn with replacement, as there, they converge to the distance between the two finite samples,
which is not 0 for samples of one distribution: harmless for 50,000 showers, not for 1,000.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from calogan.errors import EventsError
from calogan.geometry import CLIC
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Floats

KERNEL_SHOWERS = 10_000  # of each sample; two halves of it are batches of 5,000, the default of JetNet
NEIGHBOUR_SHOWERS = 2_000  # of each sample; a fourth of the time for half of them
_GROUPS = 12
_BATCH_GROUPS = (4, 5, 6, 8, 12)  # batches of a third of the showers to all of them
_KERNEL_BATCHES = 40
_BLOCK = 1024  # rows of a kernel matrix that are held at a time
_WORKING_MIB = 64  # of a block of distances


def thinned(weight: Floats, *, seed: int = 0) -> NDArray[np.intp]:
    """Choose showers so that the chosen ones, counted alike, are distributed as all of them are with their weights.

    A shower is kept with the probability weight / largest weight, so no shower is there twice.

    Args:
        weight: of each shower, at least 0, shape (n,).
        seed: of the choice.

    Returns:
        Indices in ascending order.
    """
    return np.flatnonzero(np.random.default_rng(seed).random(len(weight)) * weight.max(initial=0) < weight)


def normalised(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Bring all features to the same scale, as JetNet does: divide by the largest absolute value in the reference.

    A feature that is 0 in the whole reference is left as it is. A value that is not defined (NaN, such as the centre
    of an empty layer) becomes the mean of the feature over the reference, in both samples: it then counts neither for
    nor against the candidate, and that the layer is empty is left to the features that say so.

    Args:
        reference: shape (n, d).
        candidate: shape (m, d).

    Returns:
        Both samples, shapes (n, d) and (m, d).

    Raises:
        EventsError: the samples do not have the same features, are empty, or hold an infinite value.
    """
    r, c = (np.asarray(sample, np.float64) for sample in (reference, candidate))
    if r.ndim != 2 or c.ndim != 2 or r.shape[1] != c.shape[1] or 0 in (*r.shape, *c.shape):
        raise EventsError(
            f"features have shapes {r.shape} and {c.shape}; expected (n, d) and (m, d), with the same features in both"
        )
    if np.isinf(r).any() or np.isinf(c).any():
        raise EventsError("a feature is infinite; check the showers for cells that are not finite numbers")
    known = np.isfinite(r)
    mean = np.where(known, r, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    largest = np.abs(r).max(axis=0, where=known, initial=0)
    scale = np.where(largest > 0, largest, 1)
    return np.where(known, r, mean) / scale, np.where(np.isfinite(c), c, mean) / scale


def log_cells(showers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decades of each cell above the read-out threshold, 0 for a cell below it.

    Args:
        showers: shape (n, 25, 25, 25), GeV.

    Returns:
        The features on which the CaloChallenge (arXiv 2410.21611) looks for nearest neighbours, shape (n, 15625).
    """
    flat = showers.reshape(len(showers), -1)
    return np.log10(np.maximum(flat, np.float32(CLIC.threshold_gev)) / np.float32(CLIC.threshold_gev))


def frechet_distance(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, seed: int = 0) -> Estimate:
    """Fréchet physics distance (FPD) of `normalised` features, extrapolated to infinitely many showers.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with means m and covariances S (Dowson and Landau 1982). In
    batches of N showers it is too large by about a constant over N, so a straight line in 1/N is fitted to batches of
    several sizes and its value at 0 is taken (arXiv 2211.10295; Chong and Forsyth, arXiv 1911.07023). The
    result is not cut at 0: two samples of one distribution give 0 within the error.

    The error is that of a jackknife over twelve groups of showers with the fit repeated. The error of one fit, which
    JetNet gives, knows only how batches of one sample differ and is too small.

    Args:
        reference: shape (n, d), at least 24 showers; NaN where not defined.
        candidate: shape (m, d), at least 24 showers.
        seed: of the division into groups.
    """
    if min(len(reference), len(candidate)) < 2 * _GROUPS:
        raise EventsError(
            f"{len(reference)} reference and {len(candidate)} candidate showers are too few for a Fréchet distance; "
            f"give at least {2 * _GROUPS} of each"
        )
    rng = np.random.default_rng(seed)
    r, c = normalised(reference, candidate)
    # Far from 0 the second moments would lose digits; a common shift changes no distance.
    sums = [_group_sums(sample - r.mean(axis=0), rng) for sample in (r, c)]
    # On a machine that does other work too, two threads take 20 times as long for a small matrix as one.
    with threadpool_limits(1):
        value = _extrapolated(*sums)
        left_out = [_extrapolated(*([np.delete(part, k, axis=0) for part in s] for s in sums)) for k in range(_GROUPS)]
    return Estimate(value, float(np.sqrt(_GROUPS - 1) * np.std(left_out)))


def kernel_distance(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, seed: int = 0) -> Estimate:
    """Kernel physics distance (KPD): unbiased squared maximum mean discrepancy of `normalised` features.

    arXiv 2211.10295, with the kernel (x.y / d + 1)^4; unbiased: Gretton et al. 2012, eq. 3. The median
    over batches and, as its error, half the range from 16 to 84 %. A batch is a half of each sample, of at most
    `KERNEL_SHOWERS`: over random halves a mean spreads as over new samples of the full size. Two samples of one
    distribution give 0 within the error.

    Args:
        reference: shape (n, d), at least 4 showers; NaN where not defined.
        candidate: shape (m, d), at least 4 showers.
        seed: of the halves.
    """
    rng = np.random.default_rng(seed)
    r, c = (sample[_some(KERNEL_SHOWERS, len(sample), rng)] for sample in normalised(reference, candidate))
    in_r, in_c = (_halves(len(sample), rng) for sample in (r, c))
    n, m = in_r.sum(axis=0), in_c.sum(axis=0)
    if min(n[0], m[0]) < 2:
        raise EventsError(f"{len(r)} and {len(c)} showers are too few for a kernel distance; give at least 4 of each")
    batches = (
        _kernel_sums(r, r, in_r, in_r, itself=True) / (n * (n - 1))
        + _kernel_sums(c, c, in_c, in_c, itself=True) / (m * (m - 1))
        - 2 * _kernel_sums(r, c, in_r, in_c, itself=False) / (n * m)
    )
    low, median, high = np.quantile(batches, (0.16, 0.5, 0.84))
    return Estimate(float(median), float(high - low) / 2)


def precision_recall_density_coverage(
    reference: NDArray[np.floating],
    candidate: NDArray[np.floating],
    *,
    neighbours: int = 5,
    most: int = NEIGHBOUR_SHOWERS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """How well each sample covers the other, by balls that reach to the k-th nearest neighbour in the same sample.

    Naeem et al., arXiv 2002.09797: `precision`, share of candidate showers inside the ball of any
    reference shower; `recall`, share of reference showers inside the ball of any candidate shower; `density`,
    reference balls around a candidate shower over k; `coverage`, share of reference balls with a candidate shower
    inside. Two samples of one distribution have density 1 and coverage 1 - 1/2^k; precision and recall then depend on
    the features. Distances are Euclidean: the features should have the same scale.

    The error of the density counts the showers of both samples. The others are binomial: that the balls belong to a
    finite sample too is not in them, and they are smaller by a fifth to a third than those of repeated samples.

    Args:
        reference: shape (n, d), finite.
        candidate: shape (m, d), finite.
        neighbours: k.
        most: how many showers of each sample are used, chosen at random; time goes with the square. The larger sample
            is cut to the size of the smaller one in any case, because coverage depends on the ratio.
        seed: of the choice.

    Raises:
        EventsError: not more than k showers in a sample.
    """
    rng = np.random.default_rng(seed)
    most = min(most, len(reference), len(candidate))
    if most <= neighbours:
        raise EventsError(f"{most} showers have no {neighbours} neighbours; give more than {neighbours} of each sample")
    r, c = (sample[_some(most, len(sample), rng)] for sample in (reference, candidate))
    r_radius, c_radius = (
        NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(sample).kneighbors()[0][:, -1]
        for sample in (r, c)
    )
    # balls of the reference around each candidate, candidates in each ball of the reference, and the other way round
    balls, members, recalled = np.empty(most), np.zeros(most), np.zeros(most)
    start = 0
    for distance in pairwise_distances_chunked(c, r, working_memory=_WORKING_MIB):
        rows = slice(start, start + len(distance))
        inside = distance < r_radius
        balls[rows] = inside.sum(axis=1)
        members += inside.sum(axis=0)
        recalled += (distance < c_radius[rows, None]).sum(axis=0)
        start += len(distance)
    found = {
        name: Estimate(float(x.mean()), float(x.std() / np.sqrt(most)))
        for name, x in (("precision", balls > 0), ("recall", recalled > 0), ("coverage", members > 0))
    }
    error = np.sqrt((balls.var() + members.var()) / most) / neighbours
    return found | {"density": Estimate(float(balls.mean()) / neighbours, float(error))}


def _group_sums(features: Floats, rng: np.random.Generator) -> list[Floats]:
    """Divide showers in groups at random; numbers, sums and sums of products of the features in each.

    Returns:
        Three arrays of shape (groups,), (groups, d) and (groups, d, d).
    """
    groups = [features[rows] for rows in np.array_split(rng.permutation(len(features)), _GROUPS)]
    return [
        np.array([len(group) for group in groups], np.float64),
        np.stack([group.sum(axis=0) for group in groups]),
        np.stack([group.T @ group for group in groups]),
    ]


def _extrapolated(reference: list[Floats], candidate: list[Floats]) -> float:
    """Fit the distances of batches of neighbouring groups by a line in 1/N; its value at 1/N = 0."""
    inverse, distance = [], []
    groups = len(reference[0])
    for size in _BATCH_GROUPS:
        batches = list(zip(*(_batch_moments(s, min(size, groups)) for s in (reference, candidate)), strict=True))
        found = [(0.5 / r[0] + 0.5 / c[0], _frechet(r[1], r[2], c[1], c[2])) for r, c in batches]
        mean = np.mean(found, axis=0)
        inverse.append(mean[0])
        distance.append(mean[1])
    return float(np.polynomial.Polynomial.fit(inverse, distance, 1)(0.0))


def _batch_moments(sums: list[Floats], size: int) -> Iterator[tuple[float, Floats, Floats]]:
    """Number, mean and covariance of each batch of `size` neighbouring groups, in a ring."""
    groups = len(sums[0])
    for first in range(1 if size == groups else groups):
        rows = np.arange(first, first + size) % groups
        n, total, square = (part[rows].sum(axis=0) for part in sums)
        mean = total / n
        yield float(n), mean, (square - n * np.outer(mean, mean)) / (n - 1)


def _frechet(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """Fréchet distance of two normal distributions, safe for covariances without full rank.

    The trace of (S1 S2)^(1/2) is that of (L' S2 L)^(1/2) with S1 = L L', which is symmetric; what rounding makes
    negative among the eigenvalues counts as 0.
    """
    value, vector = linalg.eigh(cov1)
    root = vector * np.sqrt(np.maximum(value, 0))
    overlap = np.sqrt(np.maximum(linalg.eigvalsh(root.T @ cov2 @ root), 0)).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * overlap)


def _halves(n: int, rng: np.random.Generator) -> Floats:
    """Random halves of n showers: 1 where a shower is in the batch, shape (n, batches)."""
    return (rng.random((n, _KERNEL_BATCHES)).argsort(axis=0) < n // 2).astype(np.float64)


def _kernel_sums(x: Floats, y: Floats, in_x: Floats, in_y: Floats, *, itself: bool) -> Floats:
    """Sum the kernel over the pairs of each batch, shape (batches,); without equal pairs if both are one sample."""
    total = np.zeros(in_x.shape[1])
    for block in (slice(start, start + _BLOCK) for start in range(0, len(x), _BLOCK)):
        kernel = x[block] @ y.T / x.shape[1] + 1
        for _ in range(2):  # two squares: the fourth power
            kernel *= kernel
        if itself:
            kernel[np.arange(len(kernel)), np.arange(block.start, block.start + len(kernel))] = 0
        total += (in_x[block] * (kernel @ in_y)).sum(axis=0)
    return total


def _some(most: int, of: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of all showers, or of `most` of them chosen at random."""
    return np.arange(of) if of <= most else np.sort(rng.choice(of, most, replace=False))
