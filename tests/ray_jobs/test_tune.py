from pathlib import Path

import pytest

from calogan import bundle
from calogan.config import Config, Quantization, Validation
from calogan.errors import GateError
from ray_jobs.tune import replace_int8


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be written to."""
    bundle.copy(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def judged_by(limit: float, tiny_config: Config, folder: Path) -> Config:
    gates = folder / "gates.toml"
    gates.write_text(f'"physics/auc_high_level" = {{ limit = {limit}, best = 0.5 }}')
    chosen = Quantization(calibration_showers=16, granularity="per_tensor")
    return tiny_config.model_copy(
        update={
            "quantization": chosen,
            "validation": Validation(gates=str(gates), draws=1, thorough=False, cell_trainings=0),
        }
    )


def test_the_best_trial_enters_the_model(model: Path, tiny_config: Config, tmp_path: Path) -> None:
    before = bundle.read(model)
    replace_int8(judged_by(1e6, tiny_config, tmp_path), model)
    after = bundle.read(model)
    assert after.quantization["granularity"] == "per_tensor"
    assert after.version("int8") != before.version("int8")
    assert after.version("float32") == before.version("float32")
    for precision in before.network_files:
        bundle.check_files(model, after, precision)


def test_a_model_whose_best_trial_fails_is_left_as_it_was(model: Path, tiny_config: Config, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(GateError, match="physics/auc_high_level; the model is left as it was"):
        replace_int8(judged_by(0.51, tiny_config, tmp_path), model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
