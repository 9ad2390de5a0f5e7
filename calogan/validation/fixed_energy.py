"""Means and spreads of numbers of showers at fixed Ep, within a bin of Ep.

A parabola in ln Ep is fitted to each sample, by least squares in units of the width that the reference has at the Ep of a
shower. The spread is that around the parabola in these units, and means are taken from it at the energies of the reference.
So neither depends on how the energies of a sample are distributed within the bin, and the showers of the lowest energies do
not decide over a wide one. A shower beyond `FARTHEST` widths of its own sample counts as being there: one alone should not
decide either.
"""

from dataclasses import dataclass

import numpy as np

from calogan.validation.observables import Floats

FARTHEST = 4
_TERMS = 3  # of the parabola
_ROUNDING = 1e-9  # relative
_SINGULAR = 1e-9


@dataclass(frozen=True, eq=False)
class Bin:
    """Showers of a bin of Ep.

    Attributes:
        numbers: the quantities of each shower, shape (n, quantities).
        terms: terms of the parabola, shape (n, 3).
        weights: of the showers, in the sample and its replicas, shape (1 + REPLICAS, n).
    """

    numbers: Floats
    terms: Floats
    weights: Floats

    @classmethod
    def of(cls, numbers: Floats, energy: Floats, weights: Floats, limits: tuple[float, float]) -> "Bin":
        """Describe showers by their numbers, Ep in GeV, weights, and the limits of the bin in GeV."""
        low, high = limits
        log = np.log(energy / low) / np.log(high / low) * 2 - 1
        return cls(numbers, np.stack([log**power for power in range(_TERMS)], axis=1), weights)


@dataclass(frozen=True, eq=False)
class Frame:
    """What the reference has in a bin: the scale of both samples.

    Attributes:
        width: coefficients of a parabola for the logarithm of a typical deviation, shape (3, quantities); 0 for a
            quantity that does not vary.
        terms: mean of the terms over the showers, shape (3,).
        mean: mean of each quantity, shape (quantities,).
    """

    width: Floats
    terms: Floats
    mean: Floats

    @classmethod
    def of(cls, reference: Bin) -> "Frame":
        """Fit the reference."""
        weight = reference.weights[:1]
        terms, mean = (np.average(each, axis=0, weights=weight[0]) for each in (reference.terms, reference.numbers))
        width = np.zeros((_TERMS, reference.numbers.shape[1]))
        for q, numbers in enumerate(reference.numbers.T):
            size = np.abs(_residuals(weight, reference.terms, numbers - mean[q], abs(mean[q])))
            if size.any():
                smallest = max(np.median(size) / 100, _ROUNDING * size.max())
                width[:, q] = _fit(weight, reference.terms, np.log(np.maximum(size, smallest)))[0][0]
        return cls(width, terms, mean)

    def summarise(self, sample: Bin) -> tuple[Floats, Floats]:
        """Mean of each quantity at the energies of the reference, and its spread in units of the reference's width.

        Returns:
            Both of the sample and its replicas, each of shape (1 + REPLICAS, quantities).
        """
        weight = sample.weights[0]
        effective = weight.sum() ** 2 / (weight**2).sum()
        means, spreads = np.empty((2, len(sample.weights), len(self.mean)))
        for q, (numbers, width) in enumerate(zip(sample.numbers.T, np.exp(sample.terms @ self.width).T, strict=True)):
            terms, pulls = sample.terms / width[:, None], (numbers - self.mean[q]) / width
            residuals = _residuals(sample.weights[:1], terms, pulls, abs(self.mean[q]) / width)
            low, high = np.quantile(residuals, (0.16, 0.84), weights=weight, method="inverted_cdf")
            limit = FARTHEST * (high - low) / 2 if high > low else np.inf
            pulls = pulls - residuals + np.clip(residuals, -limit, limit)
            fit, cross = _fit(sample.weights, terms, pulls)
            means[:, q] = self.mean[q] + fit @ self.terms
            variance = (sample.weights @ pulls**2 - (fit * cross).sum(axis=1)) / sample.weights.sum(axis=1)
            lost = np.linalg.matrix_rank(terms)  # degrees of freedom of the fit
            varies = residuals.any() * effective / max(effective - lost, 1)
            spreads[:, q] = np.sqrt(np.maximum(variance, 0) * varies)
        return means, spreads


def _residuals(weights: Floats, terms: Floats, numbers: Floats, size: Floats | float) -> Floats:
    """Differences from the fit, shape (n,); 0 where they are rounding of numbers of some size."""
    residuals: Floats = numbers - terms @ _fit(weights, terms, numbers)[0][0]
    residuals[np.abs(residuals) < _ROUNDING * size] = 0
    return residuals


def _fit(weights: Floats, terms: Floats, numbers: Floats) -> tuple[Floats, Floats]:
    """Coefficients of weighted least squares, and the sums of terms times numbers, each of shape (replicas, terms)."""
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    gram = (weights @ products).reshape(len(weights), _TERMS, _TERMS)
    cross: Floats = weights @ (terms * numbers[:, None])
    # The pseudo-inverse also serves a bin whose showers have only one or two energies.
    return np.einsum("rij,rj->ri", np.linalg.pinv(gram, rtol=_SINGULAR, hermitian=True), cross), cross
