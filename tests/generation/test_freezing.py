import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.config import Config, Network
from calogan.errors import ModelError
from calogan.generation import freezing, generator, model_folder
from calogan.generation.random_numbers import latent_numbers
from calogan.geometry import CLIC
from calogan.networks import lean
from calogan.networks.families import FAMILIES, build_generator


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> lean.Lean:
    loaded = freezing.load_generator_network(tiny_model, model_folder.read(tiny_model))
    assert isinstance(loaded, lean.Lean)
    return loaded


def run(path: Path, output: str, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            values: NDArray[np.float32] = session.run(
                f"out_{output}:0", {f"{name}:0": value for name, value in inputs.items()}
            )
    return values


def test_frozen_graphs_compute_what_the_keras_model_does(tiny_model: Path, model: lean.Lean) -> None:
    energy = np.array([5, 50, 400], np.float32)
    latent = np.random.default_rng(2).standard_normal((3, model.latent_size), np.float32)
    features, layers = (np.asarray(tensor) for tensor in model.prepare(energy, latent))
    inputs = {"energy": energy, "latent": latent}
    description = model_folder.read(tiny_model)
    prepare, network = tiny_model / description.prepare, tiny_model / description.network_files["float32"]
    np.testing.assert_allclose(run(prepare, "features", **inputs), features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(prepare, "context", **inputs), layers, rtol=1e-4, atol=1e-9)
    logits = run(network, "outputs", features=features)
    np.testing.assert_allclose(logits, model.network(features), rtol=1e-3, atol=1e-4)


def test_the_description_tells_of_the_training(tiny_model: Path, tiny_config: Config) -> None:
    description = model_folder.read(tiny_model)
    assert description.energy_range == (tiny_config.data.energy_low, tiny_config.data.energy_high)
    assert description.header["seed"] == str(tiny_config.training.seed)
    assert set(description.network_files) == {"float32", "bfloat16", "float16", "int8"}


@pytest.mark.parametrize("family", [family.family for family in FAMILIES if not family.cell_noise])
def test_families_whose_network_gives_the_cells_are_frozen_too(family: str, tmp_path: Path) -> None:
    config = Config(network=Network(family=family))
    network = build_generator(config.network)
    network.save_weights(tmp_path / "r.weights.h5")
    description = freezing.freeze(tmp_path / "r.weights.h5", config, tmp_path / "model")
    assert (description.family, description.latent_size, description.cell_noise) == (family, 200, False)
    showers = generator.load(tmp_path / "model", precision="float32").sample(np.array([100, 200], np.float32), seed=1)
    latent = latent_numbers(2, seed=1, model=description)
    # Cells of untrained networks are some GeV, whatever the unit.
    np.testing.assert_allclose(showers.showers, network(np.array([100, 200], np.float32), latent), rtol=1e-3, atol=1e-4)


def test_the_published_network_is_frozen_without_its_normalisations(tmp_path: Path) -> None:
    config = Config(network=Network(family="rehm2021"))
    build_generator(config.network).save_weights(tmp_path / "r.weights.h5")
    description = freezing.freeze(tmp_path / "r.weights.h5", config, tmp_path / "model")
    network = tmp_path / "model" / description.network_files["float32"]
    frozen = tf.compat.v1.GraphDef.FromString(network.read_bytes())
    # Of six normalisations in a branch, only shifts in front of padding are left.
    assert not {"FusedBatchNormV3", "Rsqrt", "Mul"} & {node.op for node in frozen.node}


def test_altered_or_missing_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    description = model_folder.copy(tiny_model, tmp_path / "copy")
    weights = tmp_path / "copy" / description.weights
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is not the file that was written"):
        freezing.load_generator_network(tmp_path / "copy", description)
    weights.unlink()
    with pytest.raises(ModelError, match="is missing"):
        freezing.load_generator_network(tmp_path / "copy", description)


def test_weights_of_another_network_are_refused(tiny_model: Path) -> None:
    description = model_folder.read(tiny_model).model_copy(update={"width": 64})
    with pytest.raises(ModelError, match="does not fit the network of this version"):
        freezing.load_generator_network(tiny_model, description)


def test_bfloat16_is_the_network_alone(tiny_model: Path) -> None:
    whole, rough = (
        generator.load(tiny_model, precision=name).sample(np.full(16, 100, np.float32), seed=1)
        for name in ("float32", "bfloat16")
    )
    assert (whole.showers != rough.showers).any()
    totals = [events.showers.sum(axis=(1, 2)) for events in (whole, rough)]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-3, atol=625 * CLIC.threshold_gev)


def test_float16_rounds_the_weights_and_nothing_else(tiny_model: Path) -> None:
    whole, half = (
        generator.load(tiny_model, precision=name).sample(np.full(16, 100, np.float32), seed=1)
        for name in ("float32", "float16")
    )
    relative = np.abs(whole.showers - half.showers).sum() / whole.showers.sum()
    assert 0 < relative < 0.01
    files = model_folder.read(tiny_model).network_files
    sizes = [(tiny_model / files[name]).stat().st_size for name in ("float32", "float16")]
    assert sizes[1] < 0.6 * sizes[0]


# Freezes other weights into the folder of a model, and looks at the folder before each thing that is done in it: that is
# what is left when it is killed there.
FROZEN_AGAIN = """
import sys
from pathlib import Path
from calogan.config import Config, Network
from calogan.generation import freezing, model_folder
from calogan.networks.families import build_generator
scratch, folder = map(Path, sys.argv[1:])
config = Config(network=Network(width=16))
files = [scratch / "first.weights.h5", scratch / "second.weights.h5"]
for file in files:
    build_generator(config.network).save_weights(file)
old = freezing.freeze(files[0], config, folder)
looking = False

def look(event, arguments):
    global looking
    if looking or event not in ("open", "os.rename", "os.remove", "end") or str(folder) not in str(arguments[0]):
        return
    looking = True
    description = model_folder.read(folder)
    for precision in description.network_files:
        model_folder.check_files(folder, description, precision)
    freezing.load_generator_network(folder, description)
    print("old" if description == old else "new", flush=True)
    looking = False

sys.addaudithook(look)
freezing.freeze(files[1], config, folder)
look("end", (folder,))
"""


def test_whenever_freezing_is_killed_the_model_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FROZEN_AGAIN, str(tmp_path), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = done.stdout.split()
    assert seen == sorted(seen, reverse=True)
    assert seen.count("old") > 5
    assert seen.count("new") >= 2
