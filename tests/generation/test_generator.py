import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from calogan.errors import ModelError, RequestError
from calogan.events import EnergyRange, Hits, checked_hits
from calogan.generation import generator, model_folder
from calogan.generation.generator import Generator
from calogan.generation.graphs import prepare_graph, splice
from calogan.generation.random_numbers import Piece, latent_numbers

PRECISIONS = ("float32", "int8")
ENERGIES = np.linspace(10, 480, 300, dtype=np.float32)


@pytest.fixture(scope="module")
def generators(tiny_model: Path) -> dict[str, Generator]:
    return {precision: generator.load(tiny_model, precision=precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def showers(generators: dict[str, Generator]) -> dict[str, NDArray[np.float32]]:
    """The showers of seed 7, more than one batch of them."""
    return {precision: generators[precision].sample(ENERGIES, seed=7).showers for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS)
class TestReproducible:
    def test_the_same_seed_gives_the_same_bytes(
        self, precision: str, generators: dict[str, Generator], showers: dict[str, NDArray[np.float32]]
    ) -> None:
        again = generators[precision].sample(ENERGIES, seed=7)
        assert again.showers.tobytes() == showers[precision].tobytes()
        assert again.energy.tobytes() == ENERGIES.tobytes()

    @pytest.mark.parametrize("n", [1, 15, 16, 17, 129])
    def test_a_shower_does_not_depend_on_how_many_are_drawn(
        self, precision: str, n: int, generators: dict[str, Generator], showers: dict[str, NDArray[np.float32]]
    ) -> None:
        assert generators[precision].sample(ENERGIES[:n], seed=7).showers.tobytes() == showers[precision][:n].tobytes()

    @pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 300), (13, 14), (16, 33), (255, 300)])
    def test_parts_are_the_whole(
        self,
        precision: str,
        first: int,
        last: int,
        generators: dict[str, Generator],
        showers: dict[str, NDArray[np.float32]],
    ) -> None:
        part = generators[precision].sample(ENERGIES[first:last], seed=7, first=first)
        assert part.showers.tobytes() == showers[precision][first:last].tobytes()

    def test_pieces_drawn_together_are_those_drawn_alone(
        self, precision: str, generators: dict[str, Generator], showers: dict[str, NDArray[np.float32]]
    ) -> None:
        spans = [(0, 1), (13, 14), (0, 40), (250, 300), (1, 2)]
        own = [Piece(ENERGIES[first:last], 7, first) for first, last in spans]
        others = [Piece(np.array([100.0], dtype=np.float32), seed, 0) for seed in range(3)]
        results = generators[precision].sample_together([others[0], *own, *others[1:]])
        for (first, last), hits in zip(spans, results[1:-2], strict=True):
            assert hits.to_dense().showers.tobytes() == showers[precision][first:last].tobytes()
            assert hits.energy.tobytes() == ENERGIES[first:last].tobytes()

    def test_a_shower_does_not_depend_on_its_neighbours(
        self, precision: str, generators: dict[str, Generator], showers: dict[str, NDArray[np.float32]]
    ) -> None:
        energies = ENERGIES.copy()
        energies[::2] = 50
        again = generators[precision].sample(energies[:40], seed=7)
        assert again.showers[1::2].tobytes() == showers[precision][1:40:2].tobytes()

    def test_threads_change_nothing(
        self, precision: str, tiny_model: Path, showers: dict[str, NDArray[np.float32]]
    ) -> None:
        threaded = generator.load(tiny_model, precision=precision, threads=2)
        assert threaded.sample(ENERGIES, seed=7).showers.tobytes() == showers[precision].tobytes()

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize(("first", "last"), [(0, 300), (13, 14), (255, 300)])
    def test_hits_are_the_same_showers_to_the_bit(
        self,
        precision: str,
        first: int,
        last: int,
        threads: int,
        tiny_model: Path,
        showers: dict[str, NDArray[np.float32]],
    ) -> None:
        loaded = generator.load(tiny_model, precision=precision, threads=threads)
        hits = loaded.sample(ENERGIES[first:last], seed=7, first=first, sparse=True)
        checked_hits(hits, origin="the generator")
        dense = hits.to_dense()
        assert dense.showers.tobytes() == showers[precision][first:last].tobytes()
        assert dense.energy.tobytes() == ENERGIES[first:last].tobytes()
        again = Hits.from_dense(dense)
        assert all(getattr(hits, name).tobytes() == array.tobytes() for name, array in vars(again).items())

    def test_another_seed_gives_other_showers(
        self, precision: str, generators: dict[str, Generator], showers: dict[str, NDArray[np.float32]]
    ) -> None:
        other = generators[precision].sample(ENERGIES[:8], seed=8).showers
        assert all((mine != theirs).any() for mine, theirs in zip(other, showers[precision], strict=False))

    def test_showers_are_physical(self, precision: str, showers: dict[str, NDArray[np.float32]]) -> None:
        sample = showers[precision]
        assert sample.shape == (300, 25, 25, 25)
        assert np.isfinite(sample).all()
        assert (sample >= 0).all()
        fraction = sample.sum(axis=(1, 2, 3)) / ENERGIES
        assert 0.005 < np.median(fraction) < 0.1


def test_int8_keeps_the_energies_of_the_layers(showers: dict[str, NDArray[np.float32]]) -> None:
    float32, int8 = (showers[precision].sum(axis=(1, 2)) for precision in PRECISIONS)
    assert showers["float32"].tobytes() != showers["int8"].tobytes()
    np.testing.assert_allclose(int8, float32, rtol=1e-4, atol=2 * 625e-6)


def test_a_generator_has_name_precision_and_version(generators: dict[str, Generator], tiny_model: Path) -> None:
    description = model_folder.read(tiny_model)
    for precision, loaded in generators.items():
        assert (loaded.name, loaded.family, loaded.precision) == ("tiny", "lean", precision)
        assert loaded.version == description.version(precision)
        assert loaded.energy_range == EnergyRange(*description.energy_range)


def test_progress_counts_the_showers_asked_for(generators: dict[str, Generator]) -> None:
    counts: list[int] = []
    generators["int8"].sample(ENERGIES[:290], seed=7, first=10, progress=counts.append)
    assert sum(counts) == 290
    assert len(counts) == 2


def test_latent_numbers_are_standard_normal(tiny_model: Path) -> None:
    latent = latent_numbers(4000, seed=1, model=model_folder.read(tiny_model)).astype(np.float64)
    np.testing.assert_allclose(latent.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(latent.std(axis=0), 1, atol=0.06)


@pytest.mark.parametrize("first", [0, 2**48 - 1])
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_last_seed_and_index_work(seed: int, first: int, generators: dict[str, Generator]) -> None:
    assert generators["int8"].sample(np.array([100], np.float32), seed=seed, first=first).showers.sum() > 0


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_an_impossible_seed_is_refused(seed: int, generators: dict[str, Generator]) -> None:
    with pytest.raises(RequestError, match=rf"seed {seed} is out of range"):
        generators["int8"].sample(np.array([100], np.float32), seed=seed)


@pytest.mark.parametrize("first", [-1, 2**48])
def test_an_impossible_index_is_refused(first: int, generators: dict[str, Generator]) -> None:
    with pytest.raises(RequestError, match=rf"first index {first} is out of range"):
        generators["int8"].sample(np.array([100], np.float32), seed=1, first=first)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        ([100, 1], r"energy 1 GeV \(number 1\) is outside the range this model was trained for"),
        ([5000], r"energy 5000 GeV \(number 0\) is outside"),
        ([100, np.nan], r"energy nan GeV \(number 1\) is outside"),
        ([np.inf], "energy inf GeV"),
        ([-100], "energy -100 GeV"),
        ([], r"energies have shape \(0,\); expected a list of at least one number"),
        (100, r"energies have shape \(\)"),
        ([[100]], r"energies have shape \(1, 1\)"),
        (["GeV"], "energies are not a list of numbers"),
        ([[1, 2], [3]], "energies are not a list of numbers"),
    ],
)
def test_impossible_energies_are_refused(energy: object, message: str, generators: dict[str, Generator]) -> None:
    with pytest.raises(RequestError, match=message):
        generators["int8"].sample(energy, seed=1)  # type: ignore[call-overload]


def test_a_missing_model_cannot_be_loaded(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model 'nothing'"):
        generator.load("nothing", precision="int8")
    with pytest.raises(ModelError, match="no precision 'int4'"):
        generator.load(tiny_model, precision="int4")
    model_folder.copy(tiny_model, tmp_path / "float32", precisions=("float32",))
    with pytest.raises(ModelError, match="model tiny has no int8, only float32"):
        generator.load(tmp_path / "float32", precision="int8")


def test_a_damaged_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    description = model_folder.copy(tiny_model, tmp_path / "copy")
    path = tmp_path / "copy" / description.network_files["int8"]
    altered = b"\x00" + path.read_bytes()[1:]
    path.write_bytes(altered)
    with pytest.raises(ModelError, match="is not the file that was written"):
        generator.load(tmp_path / "copy", precision="int8")
    path = tmp_path / "copy" / model_folder.replace_network(path.parent, description, altered, {}).network_files["int8"]
    with pytest.raises(ModelError, match="is not a graph of this package"):
        generator.load(tmp_path / "copy", precision="int8")
    path.unlink()
    with pytest.raises(ModelError, match="is missing"):
        generator.load(tmp_path / "copy", precision="int8")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_tail_takes_the_integers_and_their_step_for_the_outputs(tiny_model: Path, precision: str) -> None:
    description = model_folder.read(tiny_model)
    energy = np.geomspace(2, 500, 32, dtype=np.float32)
    latent = latent_numbers(32, seed=1, model=description)
    with tf.Graph().as_default() as graph:
        inputs, features, _ = prepare_graph(tiny_model, description)
        (outputs,) = splice(tiny_model / description.network_files[precision], ("outputs",), features=features)
        with tf.compat.v1.Session(graph=graph) as session:
            exact = session.run(outputs, dict(zip(inputs, (energy, latent), strict=True)))
    integers, step, _ = generator.load(tiny_model, precision=precision)._compute(energy, latent)
    assert integers.dtype == (np.int8 if precision == "int8" else np.float32)
    np.testing.assert_allclose(integers.astype(np.float32) * step, exact, rtol=1e-6)


WITHOUT_ONEDNN = """
import os
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
import tensorflow
from calogan.errors import ModelError
from calogan.generation import generator
generator.load("lean", precision="float32")
try:
    generator.load("lean", precision="int8")
except ModelError as error:
    print(error)
"""


def test_int8_without_onednn_is_one_clear_line() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONEDNN], capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.endswith("int8 needs oneDNN: import calogan before tensorflow, or set TF_ENABLE_ONEDNN_OPTS=1")


@pytest.mark.parametrize(
    ("precision", "isa", "warned"),
    [("int8", "AVX512F AVX2", True), ("int8", "AVX512_VNNI AVX2", False), ("float32", "AVX2", False)],
)
def test_weights_of_8_bits_are_warned_of_where_sums_saturate(
    precision: str, isa: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("calogan.provenance.cpu", lambda: {"model": "a processor", "isa": isa})
    generator.load("lean", precision=precision)
    assert ("large sums saturate" in caplog.text) is warned


@pytest.mark.parametrize(("bits", "warned"), [(7, False), (8, True)])
def test_the_description_says_whether_to_warn(
    bits: int,
    warned: bool,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    described = model_folder.copy(tiny_model, tmp_path)
    model_folder.write(tmp_path, described.model_copy(update={"weight_bits": bits}))
    monkeypatch.setattr("calogan.provenance.cpu", lambda: {"model": "a processor", "isa": "AVX2"})
    generator.load(tmp_path, precision="int8")
    assert ("large sums saturate" in caplog.text) is warned


@pytest.mark.parametrize("fields", [{"latent_size": 40}, {"latent_size": 50}])
def test_a_description_that_does_not_fit_the_graphs_is_refused(
    fields: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    description = model_folder.copy(tiny_model, tmp_path / "copy")
    model_folder.write(tmp_path / "copy", description.model_copy(update=fields))
    with pytest.raises(ModelError):
        generator.load(tmp_path / "copy", precision="float32")
