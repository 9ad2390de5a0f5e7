import hashlib
from pathlib import Path

import numpy as np
import pytest

from calogan import steps
from calogan.config import Config, Data, Network, Validation
from calogan.errors import ConfigError, ModelError, TrainingError
from calogan.events import Events, packaged_sample, write_events
from calogan.generation import model_folder
from calogan.generation.freezing import load_generator_network
from calogan.training import progress
from calogan.validation.gates import load_gates

PARTS = ("train", "validation", "calibration", "test")


@pytest.fixture(scope="module")
def config(geant4: Events, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The small configuration on the showers of a file."""
    path = write_events(tmp_path_factory.mktemp("steps") / "geant4.h5", geant4, header={})
    data = Data(path=str(path), train=0.4, validation=0.1, calibration=0.1, test=0.4)
    return tiny_config.model_copy(
        update={"data": data, "validation": Validation(gates="demo", draws=2, thorough=False, cell_trainings=0)}
    )


def identities(events: Events) -> set[str]:
    return {
        hashlib.sha256(energy.tobytes() + shower.tobytes()).hexdigest()
        for shower, energy in zip(events.showers, events.energy, strict=True)
    }


def test_without_a_path_the_packaged_showers_are_used(tiny_config: Config) -> None:
    assert steps.data_paths(tiny_config) == (packaged_sample(),)


def test_the_parts_are_disjoint_and_the_whole(config: Config, geant4: Events) -> None:
    parts = [identities(steps.read_split(config, name)) for name in PARTS]
    assert set.union(*parts) == identities(geant4)
    assert sum(map(len, parts)) == len(geant4)


def test_other_showers_in_the_file_move_no_shower_to_another_part(
    config: Config, geant4: Events, tmp_path: Path
) -> None:
    path = write_events(tmp_path / "half.h5", geant4[np.arange(len(geant4))[::-2]], header={})
    smaller = config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})
    for name in PARTS:
        assert identities(steps.read_split(smaller, name)) <= identities(steps.read_split(config, name))


def test_a_finished_training_that_is_asked_for_again_leaves_its_model_as_it_is(config: Config, tmp_path: Path) -> None:
    data = config.data.model_copy(update={"validation": 0.2, "test": 0.3})
    config = config.model_copy(update={"data": data})
    states = []
    for _ in range(2):
        steps.train_model(config, tmp_path)
        states.append({path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()})
    assert states[0] == states[1]
    (tmp_path / model_folder.read(tmp_path).network_files["float32"]).write_bytes(b"damaged")
    steps.train_model(config, tmp_path)
    model_folder.check_files(tmp_path, model_folder.read(tmp_path), "float32")


def test_a_model_is_judged_on_the_test_part_only(config: Config, tiny_model: Path, tmp_path: Path) -> None:
    parts = {name: steps.read_split(config, name) for name in PARTS}
    report = steps.validate_model(config, tiny_model, "int8")
    assert report.showers["reference"] == len(parts["test"])
    assert report.showers["candidate"] == config.validation.draws * len(parts["test"])
    assert report.metrics["physics/pixelwise_mean"].value > 0
    assert report.gates["physics/auc_high_level"].verdict != "not measured"

    # With nearly all other showers gone from the file it is the same report.
    subsets = [parts["test"], *(parts[name][:1] for name in PARTS if name != "test")]
    fewer = Events(
        np.concatenate([part.showers for part in subsets]), np.concatenate([part.energy for part in subsets])
    )
    path = write_events(tmp_path / "fewer.h5", fewer, header={})
    alone = config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})
    assert steps.validate_model(alone, tiny_model, "int8").metrics == report.metrics


def test_float32_is_judged_against_itself_pixel_by_pixel(config: Config, tiny_model: Path) -> None:
    report = steps.validate_model(config, tiny_model, "float32")
    assert report.metrics["physics/pixelwise_mean"].value == 0


def test_quantizing_leaves_the_model_alone_when_told_to_write_elsewhere(
    config: Config, tiny_model: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    written = steps.quantize_model(config, tiny_model, tmp_path / "other")
    assert {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()} == before
    assert (tmp_path / "other" / written.network_files["int8"]).is_file()


def test_the_score_of_an_epoch_comes_with_the_metrics_it_is_made_of(geant4: Events, config: Config) -> None:
    other = Events(geant4.showers[100:] * np.float32(1.1), geant4.energy[100:])
    result = steps.measure_showers(geant4[:100], other)
    assert result.metrics["physics/sampling_fraction_shift"] == pytest.approx(0.1, abs=0.05)
    gates = load_gates()
    excess = {name: gates[name].excess(value) for name, value in result.metrics.items()}
    classifier = excess.pop("physics/auc_high_level")
    assert result.score == pytest.approx(1 / (1 + 0.5 * np.mean(list(excess.values())) + 0.5 * classifier))


def test_the_pictures_of_a_training_show_geant4_beside_the_generator(geant4: Events) -> None:
    pictures = steps.training_pictures(geant4[:60], geant4[60:])
    assert list(pictures) == ["shower_shapes", "shower"]
    titles = [part.get_suptitle() for part in pictures["shower"].subfigs]
    assert [title.split(",")[0] for title in titles] == ["Geant4", "generated"]
    words = {text.get_text() for text in pictures["shower_shapes"].legends[0].get_texts()}
    assert words == {"Geant4", "generated"}


def test_a_training_does_not_resume_with_other_showers_in_the_same_file(
    config: Config, geant4: Events, tmp_path: Path
) -> None:
    path = write_events(tmp_path / "geant4.h5", geant4, header={})
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})
    (tmp_path / "training").mkdir()
    progress.write(tmp_path / "training", progress.basis(config, steps.data_paths(config)), [])
    write_events(path, geant4[:199], header={})
    with pytest.raises(TrainingError, match=r"the showers in geant4\.h5 have changed; name another folder"):
        steps.train_model(config, tmp_path)


def test_a_training_can_start_from_a_model(config: Config, tiny_model: Path, tmp_path: Path) -> None:
    """With a rate of almost 0, its weights are the result."""
    training = {
        "start": str(tiny_model),
        "flow_epochs": 0,
        "shape_epochs": 1,
        "shape_rate": 1e-12,
        "shape_flow_epochs": 0,
    }
    data = {"validation": 0.2, "test": 0.3}
    continued = config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "data": config.data.model_copy(update=data),
        }
    )
    steps.train_model(continued, tmp_path / "new")
    before, after = (
        load_generator_network(path, model_folder.read(path)).network.get_weights()
        for path in (tiny_model, tmp_path / "new")
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    start = model_folder.read(tiny_model)
    assert start.sha256[start.weights][:12] in model_folder.read(tmp_path / "new").header["inputs_sha256"]


def test_a_training_starts_only_from_a_model_of_its_network(config: Config, tiny_model: Path, tmp_path: Path) -> None:
    other = config.model_copy(
        update={
            "network": Network(width=32),
            "training": config.training.model_copy(update={"start": str(tiny_model)}),
        }
    )
    with pytest.raises(ConfigError, match=r"training.start: .*width 16.* but \[network\] is .*width 32"):
        steps.train_model(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_there_is_an_error(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        steps.quantize_model(config, tmp_path)
    with pytest.raises(ModelError, match="no model"):
        steps.validate_model(config, tmp_path, "int8")


def test_a_packaged_model_is_not_quantized_in_place(config: Config) -> None:
    with pytest.raises(ModelError, match="lean is a packaged model"):
        steps.quantize_model(config, Path("lean"))


@pytest.fixture
def mlflow_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import mlflow  # noqa: PLC0415 - takes seconds

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    return uri


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_model_is_registered_once_and_a_champion_is_kept_if_asked(
    mlflow_uri: str, tiny_model: Path, tmp_path: Path, geant4: Events
) -> None:
    from calogan.tracking import registry  # noqa: PLC0415

    reference = [write_events(tmp_path / "geant4.h5", geant4[:100], header={})]
    (wide := tmp_path / "wide.toml").write_text('"physics/composite_mse" = { limit = 1e6 }')
    (narrow := tmp_path / "narrow.toml").write_text('"physics/composite_mse" = { limit = 1e-9 }')
    both = ("int8", "float32")
    failed = steps.register_model(tiny_model, both, reference=reference, gates=str(narrow))
    assert [model.champion for model in failed.values()] == [False, False]
    assert registry.champion("tiny", "int8") is None
    done = steps.register_model(tiny_model, both, reference=reference, gates=str(wide))
    assert [model.champion for model in done.values()] == [True, True]
    assert steps.register_model(tiny_model, both, reference=reference, gates=str(wide)) == {}
    other = model_folder.read(tiny_model).model_copy(update={"energy_bands": (20.0,)})
    model_folder.copy(tiny_model, tmp_path / "other")
    model_folder.write(tmp_path / "other", other)
    assert other.version("int8") != model_folder.read(tiny_model).version("int8")
    again = {"reference": reference, "gates": str(wide), "keep_champion": True}
    assert steps.register_model(tmp_path / "other", ("int8",), **again) == {}  # type: ignore[arg-type]
    assert registry.champion("tiny", "int8") == (done["int8"].uri, model_folder.read(tiny_model).version("int8"))
