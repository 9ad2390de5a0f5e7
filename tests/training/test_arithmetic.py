import keras
import pytest

from calogan import provenance
from calogan.errors import ConfigError
from calogan.networks.rehm2021 import discriminator, generator_network
from calogan.training import arithmetic


@pytest.mark.parametrize(
    ("configured", "allowed", "isa", "policy"),
    [
        ("auto", True, "AVX512_VNNI AVX512_BF16", "mixed_bfloat16"),
        ("auto", True, "AVX2", "float32"),
        ("auto", False, "AVX512_BF16", "float32"),
        ("bfloat16", True, "AVX2", "mixed_bfloat16"),
        ("float32", True, "AVX512_BF16", "float32"),
    ],
)
def test_the_policy_follows_configuration_family_and_processor(
    configured: str, allowed: bool, isa: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "cpu", lambda: {"model": "any", "isa": isa})
    assert arithmetic.choose(configured, family="any", allowed=allowed) == policy  # type: ignore[arg-type]


def test_a_family_that_needs_float32_refuses_bfloat16() -> None:
    with pytest.raises(ConfigError, match="lean is trained in float32; choose float32 or auto"):
        arithmetic.choose("bfloat16", family="lean", allowed=False)


def test_networks_compute_in_bfloat16_with_float32_weights_and_results() -> None:
    with arithmetic.layers_in("mixed_bfloat16"):
        networks = generator_network(), discriminator()
    assert keras.config.dtype_policy().name == "float32"
    for network in networks:
        assert {variable.dtype for variable in network.trainable_variables} == {"float32"}
        assert [output.dtype for output in network.outputs] == ["float32"] * len(network.outputs)
    assert networks[0].get_layer("xy_5").compute_dtype == "bfloat16"


def test_the_policy_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), arithmetic.layers_in("mixed_bfloat16"):
        _ = 1 / 0
    assert keras.config.dtype_policy().name == "float32"
