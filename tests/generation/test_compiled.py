import numpy as np

from calogan.generation.compiled import compiled, exp


@compiled
def _exponentials(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = exp(x[i])


def test_the_exponential_function_has_six_digits() -> None:
    x = np.linspace(-30, 30, 10_001, dtype=np.float32)
    out = np.empty_like(x)
    _exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(float)), rtol=5e-6)
