import hashlib
from pathlib import Path

import numpy as np
import pytest

from calogan import steps
from calogan.config import Config, Data, Validation
from calogan.errors import EventsError, ModelError
from calogan.events import Events, packaged_sample, read_events, write_events

PARTS = ("train", "validation", "calibration", "test")


@pytest.fixture(scope="module")
def config(geant4: Events, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The small configuration on the showers of a file."""
    path = write_events(tmp_path_factory.mktemp("steps") / "geant4.h5", geant4, header={})
    data = Data(path=str(path), train=0.4, validation=0.1, calibration=0.1, test=0.4)
    return tiny_config.model_copy(update={"data": data, "validation": Validation(gates="demo_gates", draws=2)})


def identities(events: Events) -> set[str]:
    return {
        hashlib.sha256(energy.tobytes() + shower.tobytes()).hexdigest()
        for shower, energy in zip(events.showers, events.energy, strict=True)
    }


def test_without_a_path_the_packaged_showers_are_used(tiny_config: Config) -> None:
    assert steps.data_path(tiny_config) == packaged_sample()


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


def test_a_model_is_judged_on_the_test_part_only(config: Config, tiny_model: Path, tmp_path: Path) -> None:
    everything, tested = read_events(steps.data_path(config)), steps.read_split(config, "test")
    wanted = identities(tested)
    is_tested = np.array([identities(everything[[i]]) <= wanted for i in range(len(everything))])
    report = steps.validate_model(config, tiny_model, "int8")
    assert report.showers["reference"] == is_tested.sum() == len(tested)
    assert report.showers["candidate"] == config.validation.draws * len(tested)
    assert report.metrics["physics/pixelwise_mean"].value > 0
    assert set(report.gates) >= {"physics/auc_high_level"}

    # Without any other shower in the file the report is the same, but for the hash of the file.
    path = write_events(tmp_path / "test.h5", everything[is_tested], header={})
    data = Data(path=str(path), train=1e-9, validation=1e-9, calibration=1e-9, test=1 - 3e-9)
    with pytest.raises(EventsError, match="would be empty"):
        steps.validate_model(config.model_copy(update={"data": data}), tiny_model, "int8")


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


def test_a_model_that_is_not_there_is_an_error(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        steps.quantize_model(config, tmp_path)
    with pytest.raises(ModelError, match="no model"):
        steps.validate_model(config, tmp_path, "int8")
