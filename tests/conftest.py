import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest

from calogan.config import Config, Network, Quantization, Training
from calogan.events import Events, packaged_sample, read_events

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("calogan", deadline=None)
hypothesis.settings.load_profile("calogan")


@pytest.fixture(scope="session")
def geant4() -> Events:
    """The first 200 showers of the packaged sample."""
    return read_events(packaged_sample())[:200]


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A small `lean`, hardly trained."""
    training = Training(flow_epochs=1, shape_epochs=1, adversarial_epochs=0, batch_size=32)
    return Config(name="tiny", network=Network(width=16), training=training)


@pytest.fixture(scope="session")
def tiny_model(geant4: Events, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small `lean` that went through training, freezing and quantization; not to be written to."""
    # TensorFlow takes seconds to import; tests that do without need not wait for it.
    from calogan.generation.freezing import freeze  # noqa: PLC0415
    from calogan.quantization.quantize import quantize  # noqa: PLC0415
    from calogan.training.loop import train  # noqa: PLC0415
    from calogan.training.selection import Scored  # noqa: PLC0415

    def closeness(reference: Events, candidate: Events) -> Scored:
        return Scored(float(np.exp(-abs(np.log(candidate.showers.mean() / reference.showers.mean())))), {})

    folder = tmp_path_factory.mktemp("tiny")
    trained = train(geant4[:128], geant4[128:136], tiny_config, folder / "training", score=closeness)
    freeze(trained.weights, tiny_config, folder / "model")
    quantize(folder / "model", geant4[136:168], Quantization(calibration_showers=32), folder / "model")
    return folder / "model"


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[MlflowClient]":
    """MLflow in a file of this test."""
    import mlflow  # noqa: PLC0415 - takes seconds

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri := f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)
