import json
from pathlib import Path

import pytest

from calogan.config import Benchmark, Config, Data, Network, Training, Validation
from calogan.errors import TrainingError
from calogan.training import progress
from calogan.training.progress import Epoch

HISTORY = [Epoch("flow", 0, 2, {"flow_loss": 1.5}, None, 2.0), Epoch("shape", 1, 2, {"cell_loss": 1.0}, 0.5, 3.0)]


@pytest.fixture
def config() -> Config:
    return Config(name="own", data=Data(path="showers-*.h5"), network=Network(width=16), training=Training(seed=4))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "data" / folder / "showers-0.h5" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(path.parent.name)
    return paths


@pytest.fixture
def folder(config: Config, files: list[Path], tmp_path: Path) -> Path:
    """Folder with the history of a training."""
    (tmp_path / "training").mkdir()
    progress.write(tmp_path / "training", progress.basis(config, files), HISTORY)
    return tmp_path / "training"


def test_a_history_survives_being_written(config: Config, files: list[Path], folder: Path) -> None:
    assert progress.read(folder, progress.basis(config, files)) == HISTORY


def test_without_a_history_there_are_no_epochs(config: Config, tmp_path: Path) -> None:
    assert progress.read(tmp_path, progress.basis(config, [])) == []


def test_what_does_not_concern_training_may_change(config: Config, files: list[Path], folder: Path) -> None:
    other = config.model_copy(
        update={"name": "other", "benchmark": Benchmark(repetitions=9), "validation": Validation(draws=1)}
    )
    assert progress.read(folder, progress.basis(other, files)) == HISTORY


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("training", Training(seed=5), r"training\.seed was 4 and is 5; name another folder or remove it"),
        ("network", Network(width=32), r"network\.width was 16 and is 32"),
        ("data", Data(path=("a.h5", "b.h5")), r"data\.path was 'showers-\*\.h5' and is \['a\.h5', 'b\.h5'\]"),
    ],
)
def test_what_concerns_training_may_not(
    section: str, value: object, message: str, config: Config, files: list[Path], folder: Path
) -> None:
    other = config.model_copy(update={section: value})
    with pytest.raises(TrainingError, match=f"holds another training: {message}"):
        progress.read(folder, progress.basis(other, files))


def test_other_showers_in_a_file_of_the_same_name_are_noticed(config: Config, files: list[Path], folder: Path) -> None:
    files[1].write_text("other showers")
    with pytest.raises(TrainingError, match=r"the showers in showers-0\.h5 have changed; name another folder"):
        progress.read(folder, progress.basis(config, files))


def test_files_that_came_or_went_are_named(config: Config, files: list[Path], folder: Path) -> None:
    more = files[0].with_name("showers-1.h5")
    more.write_text("more")
    with pytest.raises(TrainingError, match=r"training: showers-1\.h5 was not there;"):
        progress.read(folder, progress.basis(config, [*files, more]))
    with pytest.raises(TrainingError, match=r"training: showers-0\.h5 was read and is not there;"):
        progress.read(folder, progress.basis(config, files[:1]))
    with pytest.raises(TrainingError, match="training: the files of showers are in another order;"):
        progress.read(folder, progress.basis(config, files[::-1]))


def test_files_may_be_moved_together_with_their_names(config: Config, files: list[Path], folder: Path) -> None:
    """The package's own showers lie elsewhere in another installation."""
    files[0].parent.rename(files[0].parent.with_name("c"))
    copies = [files[0].parent.with_name("c") / files[0].name, files[1]]
    assert progress.read(folder, progress.basis(config, copies)) == HISTORY


def test_a_history_of_0_1_resumes_and_is_given_its_hashes(config: Config, files: list[Path], folder: Path) -> None:
    """It contains the whole configuration, lacks later fields, and has no hashes."""
    path = folder / "progress.json"
    old = json.loads(path.read_text())
    del old["inputs"], old["config"]["training"]["patience"], old["history"][0]["metrics"]
    old["config"] |= {"name": "own", "benchmark": {"batch_size": 64, "no_longer_there": 1}}
    path.write_text(json.dumps(old))
    basis = progress.basis(config, files)
    history = progress.read(folder, basis)
    assert history == HISTORY
    progress.write(folder, basis, history)
    assert json.loads(path.read_text())["inputs"] == [[name, sha256] for name, sha256 in basis.inputs or ()]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"config": {}, "history": [{"stage": "flow"}]}', '{"config": {}, "inputs": [1]}']
)
def test_an_unreadable_history_is_reported(text: str, config: Config, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(TrainingError, match="is not the history of a training of this version"):
        progress.read(tmp_path, progress.basis(config, []))
