from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from calogan.events import Events, write_events
from calogan.geometry import CLIC

Write = Callable[[str, Path, Events], Path]


def _columns(kind: str, events: Events) -> dict[str, np.ndarray]:
    """Datasets that other programs would store for these showers."""
    x, e = events.showers, events.energy
    layer_after_layer = np.moveaxis(x, 3, 1)
    match kind:
        case "clic":
            return {"ECAL": x, "target": np.stack([e, e], axis=1)}
        case "clic energy":
            return {"ECAL": x.astype(np.float64), "energy": e.astype(np.float64)}
        case "x50":
            return {"ECAL": x * np.float32(50), "energy": e[:, None]}
        case "x50 wide":
            wide = np.zeros((len(e), 51, 51, 25))
            wide[:, 13:38, 13:38] = x.astype(np.float64) * 50
            return {"ECAL": wide, "energy": e.astype(np.float64)}
        case "calochallenge":
            return {"showers": layer_after_layer.reshape(len(e), -1) * 1e3, "incident_energies": e[:, None] * 1e3}
        case "calochallenge xyz":
            return {"showers": x.reshape(len(e), -1) * 1e3, "incident_energies": e[:, None] * 1e3}
        case "par04":
            return {"showers": x * 1e3, "incident_energy": e * 1e3}
        case "par04 zxy":
            return {"showers": layer_after_layer * 1e3, "incident_energy": e * 1e3}
    raise ValueError(kind)


@pytest.fixture(scope="session")
def write_as() -> Write:
    """Writes showers in the way of one of several programs; `written` stands for this package."""

    def write(kind: str, path: Path, events: Events) -> Path:
        if kind.startswith("written"):
            return write_events(path, events, header={}, format=kind.removeprefix("written "))
        with h5py.File(path, "w") as file:
            for name, values in _columns(kind, events).items():
                packed = {"chunks": (1, *values.shape[1:]), "compression": "gzip"} if "wide" in kind else {}
                file.create_dataset(name, data=values, **(packed if values.ndim > 2 else {}))
        return path

    return write


@pytest.fixture(scope="session")
def noise() -> Callable[..., Events]:
    """Makes showers of a few small cells, all different."""

    def make(n: int, seed: int = 0, shape: tuple[int, int, int] = (2, 2, 3)) -> Events:
        rng = np.random.default_rng(seed)
        return Events(rng.random((n, *shape), dtype=np.float32), rng.uniform(2, 500, n).astype(np.float32))

    return make


@pytest.fixture(scope="session")
def plain() -> Events:
    """Three equal showers of 100 GeV: a column of cells along the axis."""
    cells = np.zeros((3, *CLIC.shape), np.float32)
    cells[:, 12, 12, 3:20] = 0.12
    return Events(cells, np.full(3, 100, np.float32))
