"""How much the tail of `lean` widens the shower-shape variables, and what the network must get so that they come out right.

The network was trained with measured variables d (scaled, without their trend with the layers' energies). Showers drawn from
it have the variables d' = B d + r: r is the sampling fluctuation of the cells, B how strongly the network follows. With the
covariance matrices S of d and N of r, the input K d gives showers with the covariance S of the data if

    B K S K^T B^T + N = S,    so    K = B^-1 S^(1/2) (1 - S^(-1/2) N S^(-1/2))^(1/2) S^(-1/2).

All of these depend on the energy; they are measured at the nodes of `shower_shape.NODES_GEV`.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from calogan.geometry import CLIC
from calogan.networks import lean, shower_shape
from calogan.training.survey import Survey

_BATCH = 128
_DRAWS = 2  # of each training shower, to measure the fluctuation
_SHIFTS = 3  # rounds in which the means are put right
_SHIFT_RATE = 0.8  # share of the deviation that a round removes
_RIDGE = 0.01  # keeps B invertible where the network does not follow
_LARGEST = 1.6  # largest stretch by K

Floats = NDArray[np.float64]


def calibrate(model: lean.Lean, survey: Survey, *, seed: int) -> None:
    """Set what `ShapeFlow.expected` makes of measured variables.

    Args:
        model: a generator whose network is trained.
        survey: statistics of the training showers.
        seed: of the showers drawn here.
    """
    flow = model.shape_flow
    condition, sticks = model.scaled_sticks(survey.layer_energies, survey.energy)
    scaled = flow.normalise(survey.shape, survey.energy)
    share = np.asarray(shower_shape.node_shares(condition), np.float64)
    measured = flow.residuals(scaled, sticks).astype(np.float64)
    trend = scaled - measured
    rng = np.random.default_rng(seed)

    def drawn(shape: Any) -> Floats:
        return np.asarray(
            flow.normalise(_draw(model, survey, np.asarray(shape, np.float32), rng), survey.energy), np.float64
        )

    repeated = np.tile(measured, (_DRAWS, 1))
    results = np.concatenate([drawn(scaled) - trend for _ in range(_DRAWS)])
    weights = np.tile(share, (_DRAWS, 1)).T
    flow.response.assign(np.stack([_response(repeated, results, weight).T for weight in weights]))
    flow.shift.assign(np.zeros(flow.shift.shape))
    for _ in range(_SHIFTS):
        deviation = scaled - drawn(flow.expected(measured.astype(np.float32), condition, sticks))
        shift = np.linalg.lstsq(share, deviation, rcond=None)[0]
        shift[:, shower_shape.MIRROR < 0] = 0.0
        flow.shift.assign(np.asarray(flow.shift) + _SHIFT_RATE * shift)


def _draw(
    model: lean.Lean, survey: Survey, shape: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Shower-shape variables of showers drawn with this input of the network, shape (n, 10)."""
    condition, sticks = model.scaled_sticks(survey.layer_energies, survey.energy)

    @tf.function  # type: ignore[untyped-decorator]
    def showers(condition: Any, sticks: Any, shape: Any, layers: Any, noise: Any) -> Any:
        return model.finish(model.network(model.features(condition, sticks, shape)), layers, noise)

    results = []
    for start in range(0, len(shape), _BATCH):
        part = slice(start, start + _BATCH)
        noise = rng.standard_normal((len(shape[part]), *CLIC.shape), np.float32)
        arrays = (condition[part], sticks[part], shape[part], survey.layer_energies[part], noise)
        results.append(shower_shape.measure(showers(*(tf.constant(array) for array in arrays)).numpy()))
    return np.concatenate(results)


def _response(measured: Floats, drawn: Floats, weight: Floats) -> Floats:
    """The matrix K for showers with these weights, shape (10, 10); see the module."""
    root = np.sqrt(weight)[:, None]
    follows = np.linalg.lstsq(np.column_stack([root, root * measured]), root * drawn, rcond=None)[0][1:].T
    rest = drawn - measured @ follows.T
    rest = rest - np.average(rest, axis=0, weights=weight)
    noise = (rest * weight[:, None]).T @ rest / weight.sum()
    whole = (measured * weight[:, None]).T @ measured / weight.sum()
    value, axes = np.linalg.eigh(whole)
    value = np.sqrt(np.maximum(value, 1e-6))
    up, down = (axes * value) @ axes.T, (axes / value) @ axes.T
    remaining, axes = np.linalg.eigh(np.eye(len(whole)) - down @ noise @ down)
    wanted = up @ (axes * np.sqrt(np.maximum(remaining, 0.0))) @ axes.T @ down
    left, stretch, right = np.linalg.svd(np.linalg.solve(follows + _RIDGE * np.eye(len(follows)), wanted))
    return np.asarray((left * np.minimum(stretch, _LARGEST)) @ right)
