from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from calogan import provenance
from calogan.config import Network, Quantization
from calogan.errors import QuantizationError
from calogan.generation.graphs import session_config
from calogan.networks import rewrites
from calogan.networks.families import build_generator
from calogan.quantization.neural_compressor import compress, compress_each, hand_on_integers, name_operations
from calogan.quantization.operations import count_operations, count_weight_bits

NAMES = ["dense 1", "dense 2", "convolution 1", "convolution 2", "convolution 3", "convolution 4"]


@pytest.fixture
def network() -> keras.Model:
    return rewrites.lower(original(), integer=True)


@pytest.fixture(scope="module")
def features() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((32, 12), np.float32)


def original() -> keras.Model:
    """Two products and four convolutions, each with its own number of channels."""
    x = features = keras.Input((12,))
    x = layers.Dense(32, activation="relu")(x)
    x = layers.Reshape((5, 5, 4))(layers.Dense(100, activation="relu")(x))
    for channels in (16, 12, 8):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
    return keras.Model(features, layers.Conv2D(25, 3, padding="same")(x))


def run(definition: tf.compat.v1.GraphDef, features: NDArray[np.float32]) -> NDArray[np.float32]:
    with tf.Graph().as_default() as graph:
        ends = tf.import_graph_def(definition, return_elements=["features:0", "out_outputs:0"], name="")
        with tf.compat.v1.Session(graph=graph, config=session_config(1, graph)) as session:
            answer: NDArray[np.float32] = session.run(ends[1], {ends[0]: features})
            return answer


def channels(definition: tf.compat.v1.GraphDef, operation: str) -> list[int]:
    """Outputs of the float operations of a kind, from the shapes of their weights."""
    weights = {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in definition.node if node.op == "Const"}
    return [weights[node.input[1]].shape[-1] for node in definition.node if node.op == operation]


def test_operations_have_the_names_of_their_kind_and_place_whatever_was_built_before() -> None:
    for _ in range(2):  # Keras goes on counting
        assert list(name_operations(rewrites.lower(original(), integer=True))) == NAMES
    published = name_operations(rewrites.lower(build_generator(Network(family="rehm2021")).network, integer=True))
    assert Counter(name.split()[0] for name in published) == {"dense": 1, "convolution": 61}


@pytest.mark.parametrize(
    ("name", "operation", "outputs"),
    [("convolution 4", "Conv2D", 25), ("convolution 1", "Conv2D", 16), ("dense 1", "MatMul", 32)],
)
def test_the_operation_that_was_named_is_the_one_that_stays_float32(
    network: keras.Model, features: NDArray[np.float32], name: str, operation: str, outputs: int
) -> None:
    definition = compress(network, features, Quantization(keep_float32=(name,)))
    counted = count_operations(definition)
    assert counted.float_arithmetic == 1
    assert counted.integer_convolutions + counted.integer_products == 5
    assert counted.bfloat16_arithmetic == 0
    assert channels(definition, operation) == [outputs]


def test_precisions_mix_and_what_is_kept_is_closer_to_float32(
    network: keras.Model, features: NDArray[np.float32]
) -> None:
    mixed = Quantization(keep_float32=("dense 1", "convolution 1"))
    definition = compress(network, features, mixed)
    counted = count_operations(definition)
    assert (counted.integer_convolutions, counted.integer_products) == (3, 1)
    assert (counted.float_arithmetic, counted.bfloat16_arithmetic) == (2, 0)
    exact = np.asarray(network(features))
    errors = [
        np.std(run(graph, features) - exact) for graph in (definition, compress(network, features, Quantization()))
    ]
    assert errors[0] < errors[1]
    everything = compress(network, features, Quantization(keep_float32=tuple(NAMES)))
    np.testing.assert_allclose(run(everything, features), exact, atol=1e-5)


MIXED = Quantization(keep_float32=("dense 1", "convolution 1"), keep_bfloat16=("convolution 4",))
HAS_BFLOAT16 = "AVX512_BF16" in provenance.cpu()["isa"].split()


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not compute in bfloat16")
def test_bfloat16_is_mixed_in_where_the_processor_has_it(network: keras.Model, features: NDArray[np.float32]) -> None:
    definition = compress(network, features, MIXED)
    counted = count_operations(definition)
    assert (counted.integer_convolutions, counted.integer_products) == (2, 1)
    assert (counted.float_arithmetic, counted.bfloat16_arithmetic) == (3, 1)
    exact = np.asarray(network(features))
    int8 = compress(network, features, Quantization())
    errors = [np.std(run(graph, features) - exact) for graph in (definition, int8)]
    assert errors[0] < errors[1]


@pytest.mark.skipif(HAS_BFLOAT16, reason="this processor computes in bfloat16")
def test_bfloat16_is_refused_where_the_processor_lacks_it(network: keras.Model, features: NDArray[np.float32]) -> None:
    with pytest.raises(QuantizationError, match=r"convolution 4 should stay in bfloat16, but .* \(AVX512_BF16\)"):
        compress(network, features, MIXED)


def largest_weight(definition: tf.compat.v1.GraphDef) -> int:
    tensors = [node.attr["value"].tensor for node in definition.node if node.op == "Const"]
    weights = [tf.make_ndarray(tensor) for tensor in tensors if tensor.dtype == tf.qint8.as_datatype_enum]
    assert len(weights) == len(NAMES)
    return max(int(np.abs(values.astype(int)).max()) for values in weights)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize(("isa", "largest"), [("AVX512_VNNI AVX512F AVX2", 127), ("AVX512F AVX2", 63)])
def test_weights_have_7_bits_where_sums_could_saturate(
    isa: str,
    largest: int,
    granularity: Literal["per_channel", "per_tensor"],
    network: keras.Model,
    features: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provenance, "cpu", lambda: {"model": "a processor", "isa": isa})
    definition = compress(network, features, Quantization(granularity=granularity))
    assert largest_weight(definition) == largest
    assert count_weight_bits(definition) == (8 if largest > 64 else 7)


def test_sums_of_large_products_do_not_saturate(network: keras.Model) -> None:
    network.set_weights([np.abs(values) for values in network.get_weights()])
    features = np.random.default_rng(1).uniform(0.9, 1, (32, 12)).astype(np.float32)
    features[:, 0] = 0  # the compressor expects a range with a zero in it
    exact = np.asarray(network(features))
    np.testing.assert_allclose(run(compress(network, features, Quantization()), features), exact, rtol=0.05)


def test_smoothing_scales_the_activations_and_keeps_int8(network: keras.Model, features: NDArray[np.float32]) -> None:
    definition = compress(network, features, Quantization(smooth=0.5))
    assert count_operations(definition).float_arithmetic == 0
    assert sum(node.op == "Mul" for node in definition.node) == 6
    assert not any(node.op == "Mul" for node in compress(network, features, Quantization()).node)
    exact = np.asarray(network(features))
    assert np.corrcoef(run(definition, features).ravel(), exact.ravel())[0, 1] > 0.98


def test_the_same_configuration_gives_the_same_network(features: NDArray[np.float32]) -> None:
    network = original()
    twice = [compress(rewrites.lower(network, integer=True), features, Quantization()) for _ in range(2)]
    assert len({definition.SerializeToString(deterministic=True) for definition in twice}) == 1


def test_each_calibration_gives_the_network_of_its_own_and_no_file(
    network: keras.Model, features: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = compress_each(rewrites.lower(network, integer=True), [features, 3 * features], Quantization())
    assert not list(tmp_path.iterdir())
    for definition, inputs in zip(both, (features, 3 * features), strict=True):
        alone = compress(rewrites.lower(network, integer=True), inputs, Quantization())
        np.testing.assert_array_equal(run(definition, features), run(alone, features))


def test_the_error_of_an_unknown_operation_lists_the_known_ones(
    network: keras.Model, features: NDArray[np.float32]
) -> None:
    with pytest.raises(QuantizationError, match="no operation 'conv2d_4'; it has dense 1, dense 2, convolution 1, "):
        compress(network, features, Quantization(keep_float32=("conv2d_4",)))


def test_an_operation_exported_under_another_name_is_reported(
    network: keras.Model, features: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neural_compressor.tensorflow import utils  # noqa: PLC0415 - takes seconds

    graph = tf.compat.v1.GraphDef()
    graph.node.add(op="Conv2D", name="renamed")
    monkeypatch.setattr(utils, "Model", lambda _: SimpleNamespace(graph_def=graph))
    with pytest.raises(QuantizationError, match=r"dense 1 is not among .* exported network \(renamed\)"):
        compress(network, features, Quantization())


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (Quantization(keep_bfloat16=("dense 2",)), "dense 2 should stay in bfloat16, but .* made it float32"),
        (Quantization(smooth=0.5), "SmoothQuant was requested, but"),
    ],
)
def test_a_result_that_does_not_match_the_configuration_is_refused(
    network: keras.Model,
    features: NDArray[np.float32],
    quantization: Quantization,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from neural_compressor.tensorflow.utils import Model  # noqa: PLC0415 - takes seconds

    def unchanged(saved: str, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(graph_def=Model(saved).graph_def)

    monkeypatch.setattr("neural_compressor.tensorflow.quantize_model", unchanged)
    with pytest.raises(QuantizationError, match=message):
        compress(network, features, quantization)


def test_an_operation_that_became_int8_all_the_same_is_refused(
    network: keras.Model, features: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = SimpleNamespace(graph_def=tf.compat.v1.GraphDef())
    monkeypatch.setattr("neural_compressor.tensorflow.quantize_model", lambda *_, **__: empty)
    with pytest.raises(QuantizationError, match=r"dense 2 should stay in float32, but .* made it int8"):
        compress(network, features, Quantization(keep_float32=("dense 2",)))


def test_numbers_of_8_bits_are_reshaped_as_they_stand(
    network: keras.Model, features: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    float32 = network(features).numpy()
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    integers = compress(network, features, Quantization())
    monkeypatch.setattr("calogan.quantization.neural_compressor.hand_on_integers", lambda definition: definition)
    converted = compress(copy, features, Quantization())
    counts = [Counter(node.op for node in definition.node) for definition in (integers, converted)]
    assert [count["Dequantize"] for count in counts] == [1, 2]
    assert [count["QuantizeV2"] for count in counts] == [1, 2]
    (reshape,) = (node for node in integers.node if node.op == "Reshape")
    assert reshape.attr["T"].type == tf.quint8.as_datatype_enum  # what a ReLU leaves, in all 8 bits
    errors = [np.sqrt(np.mean((run(graph, features) - float32) ** 2)) for graph in (integers, converted)]
    assert errors[0] < errors[1]


def test_numbers_that_are_needed_elsewhere_too_are_still_converted() -> None:
    definition = tf.compat.v1.GraphDef()

    def add(kind: str, name: str, *inputs: str, kind_of: tf.DType | None = None) -> None:
        node = definition.node.add(op=kind, name=name, input=inputs)
        if kind_of:
            node.attr["T"].type = kind_of.as_datatype_enum

    add("Dequantize", "floats", "integers", "integers:1", "integers:2", kind_of=tf.quint8)
    add("Reshape", "image", "floats", "shape")
    add("QuantizeV2", "again", "image", "low", "high", kind_of=tf.qint8)
    add("QuantizedConv2DWithBiasAndRequantize", "used", "again", "kernel", "bias", "again:1", "again:2")
    add("Relu", "elsewhere", "image")
    result = {node.name: node for node in hand_on_integers(definition).node}
    assert list(result["used"].input) == ["again/whole", "kernel", "bias", "integers:1", "integers:2"]
    assert list(result["elsewhere"].input) == ["image"]
    add("QuantizedMatMulWithBiasAndRequantize", "product", "again", "weights", "bias", "again:1", "again:2")
    assert hand_on_integers(definition) == definition  # a product reads its numbers in another way
