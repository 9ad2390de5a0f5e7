"""The names of the package itself."""

from pathlib import Path

import numpy as np
import pytest

import calogan
from calogan.errors import ModelError
from calogan.generation import generator, model_folder


def test_a_model_is_loaded_in_the_precision_asked_for_or_the_smallest_it_has(tiny_model: Path, tmp_path: Path) -> None:
    energy = np.array([10.0, 200.0], dtype=np.float32)
    model_folder.copy(tiny_model, tmp_path / "half", precisions=("float32", "bfloat16"))
    for folder, precision, expected in (
        (tiny_model, "", "int8"),
        (tiny_model, "float32", "float32"),
        (tmp_path / "half", "", "bfloat16"),
    ):
        loaded = calogan.load_model(folder, precision=precision)
        assert loaded.precision == expected
        again = generator.load(folder, precision=expected).sample(energy, seed=3)
        np.testing.assert_array_equal(loaded.sample(energy, seed=3).showers, again.showers)
    assert calogan.load_model("lean").name == model_folder.read(model_folder.find("lean")).name


def test_a_model_that_is_not_there_or_has_not_the_precision_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model 'nobody'"):
        calogan.load_model("nobody")
    model_folder.copy(tiny_model, tmp_path / "half", precisions=("float32",))
    with pytest.raises(ModelError, match="has no int8, only float32"):
        calogan.load_model(tmp_path / "half", precision="int8")


def test_other_names_are_not_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lowering'"):
        getattr(calogan, "lowering")  # noqa: B009 - the type checker knows that it is not there
