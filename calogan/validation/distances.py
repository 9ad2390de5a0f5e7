"""Distances between two samples of feature vectors: Fréchet, polynomial kernel, nearest neighbours.

Features have shape (showers, features), any unit. All showers have equal weight, and both samples must have the same
spectrum of Ep; `unweight` prepares a sample with weights accordingly. `frechet_distance` and `kernel_distance` are those
of Kansal et al., arXiv 2211.10295, with the constants of their package JetNet, and differ in one point: batches are
drawn without replacement. With replacement they converge to the distance between the two finite samples, which is not 0
for samples of one distribution: harmless for 50,000 showers, not for 1,000.
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

KERNEL_SHOWERS = 10_000  # of each sample; its two halves are batches of 5,000, the default of JetNet
NEIGHBOUR_SHOWERS = 2_000  # of each sample; the time grows with the square
_GROUPS = 12
_BATCH_GROUPS = (4, 5, 6, 8, 12)  # batches from a third of the showers to all of them
_KERNEL_BATCHES = 40
_BLOCK = 1024  # rows of a kernel matrix kept in memory at a time
_WORKING_MIB = 64  # memory for a block of distances


def unweight(weight: Floats, *, seed: int = 0) -> NDArray[np.intp]:
    """Select showers at random so that, with equal weights, they follow the distribution of the weighted sample.

    A shower is selected with the probability weight / largest weight, so none is selected twice.

    Args:
        weight: weight of each shower, at least 0, shape (n,).
        seed: seed of the selection.

    Returns:
        Indices in ascending order.
    """
    return np.flatnonzero(np.random.default_rng(seed).random(len(weight)) * weight.max(initial=0) < weight)


def normalised(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Bring all features to the same scale, as JetNet does: divide by the largest absolute value in the reference.

    A feature that is 0 in the whole reference is not changed. An undefined value (NaN, such as the centre of an empty
    layer) is replaced by the mean of the feature over the reference, in both samples: it then counts neither for nor
    against the candidate. Other features describe that the layer is empty.

    Args:
        reference: features of the reference, shape (n, d).
        candidate: features of the candidate, shape (m, d).

    Returns:
        Both samples, shapes (n, d) and (m, d).

    Raises:
        EventsError: the samples have different features, are empty, or contain an infinite value.
    """
    r, c = (np.asarray(sample, np.float64) for sample in (reference, candidate))
    if r.ndim != 2 or c.ndim != 2 or r.shape[1] != c.shape[1] or 0 in (*r.shape, *c.shape):
        raise EventsError(
            f"features have shapes {r.shape} and {c.shape}; expected (n, d) and (m, d), with the same features in both"
        )
    if np.isinf(r).any() or np.isinf(c).any():
        raise EventsError("a feature is infinite; check the showers for cells that are not finite numbers")
    finite = np.isfinite(r)
    mean = np.where(finite, r, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    largest = np.abs(r).max(axis=0, where=finite, initial=0)
    scale = np.where(largest > 0, largest, 1)
    return np.where(finite, r, mean) / scale, np.where(np.isfinite(c), c, mean) / scale


def log_cells(showers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Common logarithm of each cell over the read-out threshold, 0 for a cell below it.

    Args:
        showers: shape (n, 25, 25, 25), GeV.

    Returns:
        The features that the CaloChallenge (arXiv 2410.21611) uses for nearest neighbours, shape (n, 15625).
    """
    flat = showers.reshape(len(showers), -1)
    return np.log10(np.maximum(flat, np.float32(CLIC.threshold_gev)) / np.float32(CLIC.threshold_gev))


def frechet_distance(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, seed: int = 0) -> Estimate:
    """Fréchet physics distance (FPD) of `normalised` features, extrapolated to infinitely many showers.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with means m and covariances S (Dowson and Landau 1982). For
    batches of N showers it is too large by about a constant over N, so a straight line in 1/N is fitted to batches of
    several sizes, and the result is its value at 0 (arXiv 2211.10295; Chong and Forsyth, arXiv 1911.07023). Negative
    results are kept: two samples of one distribution give 0 within the error.

    The error comes from a jackknife over twelve groups of showers, with the fit repeated. The error of one fit, which
    JetNet reports, includes only the differences between batches of one sample and is too small.

    Args:
        reference: features, shape (n, d), at least 24 showers; NaN where undefined.
        candidate: features, shape (m, d), at least 24 showers; NaN where undefined.
        seed: seed of the division into groups.

    Raises:
        EventsError: fewer than 24 showers, or see `normalised`.
    """
    if min(len(reference), len(candidate)) < 2 * _GROUPS:
        raise EventsError(
            f"{len(reference)} reference and {len(candidate)} candidate showers are too few for a Fréchet distance; "
            f"give at least {2 * _GROUPS} of each"
        )
    rng = np.random.default_rng(seed)
    r, c = normalised(reference, candidate)
    # Far from 0 the second moments would lose digits; a common shift does not change the distance.
    sums = [_group_sums(sample - r.mean(axis=0), rng) for sample in (r, c)]
    # On a busy machine, two threads take 20 times as long as one for a small matrix.
    with threadpool_limits(1):
        value = _extrapolate(*sums)
        jackknife = [_extrapolate(*([np.delete(part, k, axis=0) for part in s] for s in sums)) for k in range(_GROUPS)]
    return Estimate(value, float(np.sqrt(_GROUPS - 1) * np.std(jackknife)))


def kernel_distance(reference: NDArray[np.floating], candidate: NDArray[np.floating], *, seed: int = 0) -> Estimate:
    """Kernel physics distance (KPD): unbiased squared maximum mean discrepancy of `normalised` features.

    arXiv 2211.10295, with the kernel (x.y / d + 1)^4; unbiased: Gretton et al. 2012, eq. 3. The result is the median
    over batches, its error half the range from 16 to 84 %. A batch is one half of each sample, of at most
    `KERNEL_SHOWERS`: the spread of a mean over random halves equals that over new samples of the full size. Two samples
    of one distribution give 0 within the error.

    Args:
        reference: features, shape (n, d), at least 4 showers; NaN where undefined.
        candidate: features, shape (m, d), at least 4 showers; NaN where undefined.
        seed: seed of the halves.

    Raises:
        EventsError: fewer than 4 showers, or see `normalised`.
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
    """Mutual coverage of two samples, by balls that reach to the k-th nearest neighbour in the same sample.

    Naeem et al., arXiv 2002.09797: `precision`, share of candidate showers inside the ball of any
    reference shower; `recall`, share of reference showers inside the ball of any candidate shower; `density`, mean
    number of reference balls that contain a candidate shower, over k; `coverage`, share of reference balls that contain
    a candidate shower. Two samples of one distribution have density 1 and coverage 1 - 1/2^k; precision and recall then
    depend on the features. Distances are Euclidean, so the features should have the same scale.

    The error of the density includes the fluctuations of both samples. The other errors are binomial: they neglect that
    the balls come from a finite sample too, and are smaller by a fifth to a third than the spread over new samples.

    Args:
        reference: features, shape (n, d), finite.
        candidate: features, shape (m, d), finite.
        neighbours: the number k.
        most: largest number of showers of each sample, selected at random; the time grows with the square. The larger
            sample is always cut to the size of the smaller one, because coverage depends on the ratio.
        seed: seed of the selection.

    Returns:
        The four metrics by name.

    Raises:
        EventsError: a sample has k showers or fewer.
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
    # Reference balls around each candidate, candidates in each reference ball, candidate balls around each reference.
    balls, members, c_balls = np.empty(most), np.zeros(most), np.zeros(most)
    start = 0
    for distance in pairwise_distances_chunked(c, r, working_memory=_WORKING_MIB):
        rows = slice(start, start + len(distance))
        inside = distance < r_radius
        balls[rows] = inside.sum(axis=1)
        members += inside.sum(axis=0)
        c_balls += (distance < c_radius[rows, None]).sum(axis=0)
        start += len(distance)
    shares = {
        name: Estimate(float(x.mean()), float(x.std() / np.sqrt(most)))
        for name, x in (("precision", balls > 0), ("recall", c_balls > 0), ("coverage", members > 0))
    }
    error = np.sqrt((balls.var() + members.var()) / most) / neighbours
    return shares | {"density": Estimate(float(balls.mean()) / neighbours, float(error))}


def _group_sums(features: Floats, rng: np.random.Generator) -> list[Floats]:
    """Divide showers into groups at random; returns numbers, sums and sums of products of the features in each.

    Returns:
        Three arrays of shape (groups,), (groups, d) and (groups, d, d).
    """
    groups = [features[rows] for rows in np.array_split(rng.permutation(len(features)), _GROUPS)]
    return [
        np.array([len(group) for group in groups], np.float64),
        np.stack([group.sum(axis=0) for group in groups]),
        np.stack([group.T @ group for group in groups]),
    ]


def _extrapolate(reference: list[Floats], candidate: list[Floats]) -> float:
    """Fit a line in 1/N to the distances of batches of neighbouring groups; returns its value at 1/N = 0."""
    inverse, distance = [], []
    groups = len(reference[0])
    for size in _BATCH_GROUPS:
        batches = list(zip(*(_batch_moments(s, min(size, groups)) for s in (reference, candidate)), strict=True))
        points = [(0.5 / r[0] + 0.5 / c[0], _frechet(r[1], r[2], c[1], c[2])) for r, c in batches]
        mean = np.mean(points, axis=0)
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

    The trace of (S1 S2)^(1/2) equals that of (L' S2 L)^(1/2) with S1 = L L', which is symmetric; eigenvalues that are
    negative by rounding count as 0.
    """
    value, vector = linalg.eigh(cov1)
    root = vector * np.sqrt(np.maximum(value, 0))
    overlap = np.sqrt(np.maximum(linalg.eigvalsh(root.T @ cov2 @ root), 0)).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * overlap)


def _halves(n: int, rng: np.random.Generator) -> Floats:
    """Random halves of n showers: 1 where a shower is in the batch, shape (n, batches)."""
    return (rng.random((n, _KERNEL_BATCHES)).argsort(axis=0) < n // 2).astype(np.float64)


def _kernel_sums(x: Floats, y: Floats, in_x: Floats, in_y: Floats, *, itself: bool) -> Floats:
    """Sum the kernel over the pairs of each batch, shape (batches,); `itself` leaves out pairs of a shower with itself."""
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
    """Indices of all showers, or of `most` of them selected at random."""
    return np.arange(of) if of <= most else np.sort(rng.choice(of, most, replace=False))
