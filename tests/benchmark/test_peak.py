import pytest

from calogan.benchmark import peak


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_core_does_at_least_a_billion_multiply_adds_a_second(precision: str) -> None:
    assert 1e9 < peak.peak(precision) < 1e13  # type: ignore[arg-type]


def test_a_core_copies_at_least_a_hundred_megabytes_a_second() -> None:
    assert 1e8 < peak.bandwidth() < 1e12
