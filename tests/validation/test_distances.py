import numpy as np
import pytest

from calogan.errors import EventsError
from calogan.validation import distances
from calogan.validation.observables import Floats


def normal(seed: int, n: int, d: int = 6, *, shift: float = 0.0, scale: float = 1.0) -> Floats:
    return shift + scale * np.random.default_rng(seed).standard_normal((n, d))


def test_thinning_keeps_showers_by_weight() -> None:
    weight = np.tile([0.0, 1.0, 2.0], 2000)
    counts = np.bincount(distances.unweight(weight, seed=1) % 3, minlength=3)

    assert counts[0] == 0
    assert counts[1] == pytest.approx(1000, abs=100)
    assert counts[2] == 2000
    assert len(distances.unweight(np.ones(5))) == 5


def test_features_are_divided_by_the_largest_value_of_the_reference() -> None:
    r, c = distances.normalised(np.array([[1, 0, 2], [-4, 0, np.nan], [3, 0, 6]]), np.array([[8, 5, np.nan]]))

    assert r == pytest.approx(np.array([[0.25, 0, 1 / 3], [-1, 0, 2 / 3], [0.75, 0, 1]]))
    assert c == pytest.approx(np.array([[2, 5, 2 / 3]]))


@pytest.mark.parametrize(
    ("candidate", "message"),
    [(np.zeros((30, 5)), "same features"), (np.zeros((0, 6)), "same features"), (np.full((30, 6), np.inf), "infinite")],
)
def test_impossible_features_are_refused(candidate: Floats, message: str) -> None:
    with pytest.raises(EventsError, match=message):
        distances.normalised(normal(0, 30), candidate)


def test_too_few_showers_are_refused() -> None:
    with pytest.raises(EventsError, match="Fréchet"):
        distances.frechet_distance(normal(0, 100), normal(1, 23))
    with pytest.raises(EventsError, match="kernel"):
        distances.kernel_distance(normal(0, 3), normal(1, 100))
    with pytest.raises(EventsError, match="neighbours"):
        distances.precision_recall_density_coverage(normal(0, 5), normal(1, 100))


def test_frechet_distance_of_known_normal_distributions() -> None:
    r, c = normal(0, 2000), normal(1, 3000, shift=0.3, scale=1.5)
    scale = np.abs(r).max(axis=0)
    # the covariances commute: the distance is that of means and standard deviations
    expected = ((0.3 / scale) ** 2 + (0.5 / scale) ** 2).sum()

    estimate = distances.frechet_distance(r, c)
    assert estimate.value == pytest.approx(expected, abs=3 * estimate.error)
    assert estimate.error < 0.1 * expected


def test_frechet_distance_of_correlated_features() -> None:
    rng = np.random.default_rng(2)
    s1, s2 = np.array([[2, 0.9], [0.9, 1]]), np.array([[1, -0.5], [-0.5, 2]])
    r, c = (rng.multivariate_normal([0, 0], s, 20_000) for s in (s1, s2))
    unit = np.abs(r).max(axis=0)
    s1, s2 = s1 / np.outer(unit, unit), s2 / np.outer(unit, unit)
    # for two features the trace of the root of a matrix follows from its trace and determinant
    overlap = np.sqrt(np.trace(s1 @ s2) + 2 * np.sqrt(np.linalg.det(s1 @ s2)))

    estimate = distances.frechet_distance(r, c)
    assert estimate.value == pytest.approx(np.trace(s1) + np.trace(s2) - 2 * overlap, rel=0.03)


def test_frechet_distance_does_not_depend_on_the_number_of_showers() -> None:
    few = [distances.frechet_distance(normal(k, 120, 20), normal(100 + k, 120, 20), seed=k) for k in range(20)]
    value = np.array([e.value for e in few])
    spread = value.std() / np.sqrt(len(few))
    # two samples of 120 differ by 0.045 as they are: the extrapolation takes it away
    assert abs(value.mean()) < 3 * spread + 0.003
    assert np.mean([e.error for e in few]) == pytest.approx(value.std(), rel=0.6)


def test_frechet_distance_stands_dependent_and_constant_features() -> None:
    r, c = normal(0, 300, 3), normal(1, 300, 3, shift=1)
    plain = distances.frechet_distance(r, c)
    doubled = distances.frechet_distance(*(np.hstack([s, s, np.zeros((300, 1))]) for s in (r, c)))

    assert doubled.value == pytest.approx(2 * plain.value, rel=1e-5)
    assert distances.frechet_distance(r, r).value == pytest.approx(0, abs=plain.error)


def test_kernel_distance_of_known_moments() -> None:
    r, c = np.tile([[-1.0], [1.0]], (2000, 1)), np.tile([[-0.5], [0.5]], (2000, 1))
    # one feature: the sum over j of binomial(4, j) (difference of the j-th moments)^2
    estimate = distances.kernel_distance(r, c)
    assert estimate.value == pytest.approx(6 * 0.75**2 + 0.9375**2, rel=0.01)


def test_kernel_distance_is_not_biased_and_its_error_is_right() -> None:
    estimates = [distances.kernel_distance(normal(k, 200), normal(100 + k, 300, shift=0.3), seed=k) for k in range(30)]
    same = [distances.kernel_distance(normal(k, 200), normal(100 + k, 300), seed=k) for k in range(30)]

    assert np.mean([e.error for e in estimates]) == pytest.approx(np.std([e.value for e in estimates]), rel=0.5)
    assert np.mean([e.value for e in same]) == pytest.approx(0, abs=3 * np.std([e.value for e in same]) / np.sqrt(30))
    assert np.mean([e.value for e in estimates]) > 3 * estimates[0].error


def test_kernel_distance_takes_a_part_of_large_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "KERNEL_SHOWERS", 100)
    small = distances.kernel_distance(normal(0, 4000), normal(1, 4000, shift=0.5))
    monkeypatch.setattr(distances, "KERNEL_SHOWERS", 4000)
    large = distances.kernel_distance(normal(0, 4000), normal(1, 4000, shift=0.5))

    assert small.error > 3 * large.error
    assert small.value == pytest.approx(large.value, abs=4 * small.error)


def test_precision_recall_density_coverage_by_hand() -> None:
    r, c = np.array([[0.0], [1], [3], [6]]), np.array([[0.5], [5], [20], [21]])

    estimates = distances.precision_recall_density_coverage(r, c, neighbours=1)
    assert {name: e.value for name, e in estimates.items()} == {
        "precision": 0.5,
        "recall": 1.0,
        "density": 0.75,
        "coverage": 0.75,
    }
    assert estimates["precision"].error == pytest.approx(0.25)


def test_equal_distributions_have_the_known_density_and_coverage() -> None:
    estimates = distances.precision_recall_density_coverage(normal(0, 2000), normal(1, 2500))
    assert estimates["density"].value == pytest.approx(1, abs=5 * estimates["density"].error)
    assert estimates["coverage"].value == pytest.approx(1 - 0.5**5, abs=5 * estimates["coverage"].error)


def test_a_generator_of_few_showers_is_precise_but_covers_little() -> None:
    clusters = np.repeat(normal(1, 20), 50, axis=0) + normal(2, 1000, scale=1e-3)
    estimates = distances.precision_recall_density_coverage(normal(0, 1000), clusters)
    assert estimates["precision"].value > 0.7
    assert estimates["recall"].value < 0.1
    assert estimates["coverage"].value < 0.3


def test_empty_cells_are_zero_decades_above_the_threshold() -> None:
    showers = np.zeros((1, 25, 25, 25), np.float32)
    showers[0, 0, 0, :2] = 1e-3, 1e-9
    assert distances.log_cells(showers)[0, :3] == pytest.approx([3, 0, 0], abs=1e-5)
