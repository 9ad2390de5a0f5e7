from pathlib import Path

import pytest
from pydantic import ValidationError

from calogan.config import Config, Quantization, Training, as_toml, load_config, packaged_configs
from calogan.errors import ConfigError


def test_every_packaged_configuration_loads() -> None:
    assert "tiny" in packaged_configs()
    for name in packaged_configs():
        assert load_config(name).data.fractions.keys() == {"train", "validation", "calibration", "test"}


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\n[network]\nwidth = 16\n', encoding="utf-8")
    config = load_config(path)
    assert (config.name, config.network.width, config.network.family) == ("own", 16, "lean")
    assert config.training == Training()


def test_a_search_can_be_asked_for_and_is_no_part_of_a_quantization(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[quantization]\ncalibration_showers = 32\ntune = true\n", encoding="utf-8")
    quantization = load_config(path).quantization
    assert (quantization.tune, quantization.calibration_showers) == (True, 32)
    assert quantization.model_dump() == Quantization(calibration_showers=32).model_dump()
    assert "tune" not in as_toml(quantization=quantization)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Config().training, "seed", 2)  # noqa: B010 - what mypy refuses, too


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'x'", "nmae: Extra inputs"),
        ("[training]\nepochs = 3", r"training\.epochs: Extra inputs"),
        ("[network]\nwidth = 4", r"network\.width: .* greater than or equal to 8"),
        ("[network]\nwidth = 10", r"network\.width: .* multiple of 4"),
        ("[training]\nflow_epochs = -1", r"training\.flow_epochs: .* greater than or equal to 0"),
        ("[training]\nflow_rate = 0", r"training\.flow_rate: .* greater than 0"),
        ("[training]\nflow_rate = nan", r"training\.flow_rate: .* finite number"),
        ("[training]\nflow_rate = inf", r"training\.flow_rate: .* finite number"),
        ("[training]\nseed = 'one'", r"training\.seed: .* valid integer"),
        ("[training]\nflow_epochs = -1\nshape_epochs = -1", "flow_epochs.*; training.shape_epochs"),
        ("[quantization]\nsmooth = 2", r"quantization\.smooth: .* less than or equal to 1"),
        (
            "[quantization]\nkeep_float32 = ['dense 1']\nkeep_bfloat16 = ['dense 2', 'dense 1']",
            "dense 1: kept in float32 and in bfloat16; name one precision",
        ),
        ("[validation]\ncandidates = ['int4']", r"validation\.candidates\.0: .*'tflite-int8'"),
        ("[tuning]\nrepeats = 1", r"tuning\.repeats: .* greater than or equal to 2"),
        ("[data]\ntrain = 0.7", "add up to 1.1; expected 1"),
        ("[data]\nenergy_low = 600", "energy_low is above data.energy_high"),
        ("[data]\ntest = 0", r"data\.test: .* greater than 0"),
        ("[training", "is not TOML"),
        ("training = 3", "training: .* valid dictionary or instance of Training"),
    ],
)
def test_the_problem_of_a_wrong_file_is_reported(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(path)


def test_the_error_of_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'tyni': give a TOML file or one of .*tiny"):
        load_config("tyni")
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(tmp_path)
