"""What generates showers in a benchmark: a model in a precision or another runtime, and the simulations."""

import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calogan.config import Config, Data, Network
from calogan.events import EnergyRange, Events, Hits
from calogan.generation import model_folder

ENERGY = EnergyRange(2.0, 500.0)  # of all contenders
BASELINE = "float32"
_PEERS = "calogan.benchmark.peers.loading"

# energies, seed, index of the first shower, whether to return hits only -> showers
Draw: TypeAlias = Callable[[NDArray[np.float32], int, int, bool], Events | Hits]


@dataclass(frozen=True)
class Contender:
    """One row of a benchmark.

    Attributes:
        name: its name, unique.
        kind: a model, a simulation, or a model with random weights, whose showers are not judged.
        folder: folder of the model.
        precision: precision of the model, or another runtime of its network.
    """

    name: str
    kind: Literal["model", "untrained", "parametric"] = "model"
    folder: Path | None = None
    precision: str = ""

    @property
    def own_precision(self) -> bool:
        """Whether it is a precision of a model, computed by this package alone."""
        return self.folder is not None and self.precision in model_folder.PRECISIONS

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that generating needs."""
        if self.folder is None:
            return ()
        description = model_folder.read(self.folder)
        precision = self.precision if self.own_precision else BASELINE
        return tuple(self.folder / name for name in description.files(precision))

    @property
    def network_file(self) -> Path | None:
        """File of the network alone, the part that is quantized."""
        if self.folder is None or not self.own_precision:
            return None
        return self.folder / model_folder.read(self.folder).network_files[self.precision]


def of_model(model: Path, precisions: Sequence[str], *, untrained: bool = False) -> list[Contender]:
    """A contender for each precision of a model or runtime of its network, float32 first; precisions it lacks are left out.

    Args:
        model: folder.
        precisions: precisions, and other runtimes that are installed.
        untrained: whether its weights are random.
    """
    description = model_folder.read(model)
    foreign = [name for name in precisions if name not in model_folder.PRECISIONS]
    has = (*description.network_files, *foreign)
    short = description.name.removeprefix("calogan-")
    kind: Literal["model", "untrained"] = "untrained" if untrained else "model"
    return [
        Contender(f"{short} {name}", kind, model, name)
        for name in dict.fromkeys((BASELINE, *precisions))
        if name in has
    ]


def untrained(family: str, folder: Path) -> Path:
    """Freeze a network of a family with random weights, which do not affect its speed; returns its folder."""
    from calogan.generation import freezing  # noqa: PLC0415 - TensorFlow
    from calogan.networks.families import build_generator  # noqa: PLC0415

    network = Network(family=family)
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        weights = Path(scratch) / model_folder.WEIGHTS
        build_generator(network).save_weights(weights)
        config = Config(name=family, network=network, data=Data(energy_low=ENERGY.low, energy_high=ENERGY.high))
        freezing.freeze(weights, config, folder)
    return folder


def prepare(contender: Contender) -> None:
    """Import what the contender needs, so that memory and time of its model can be told apart from it."""
    if contender.folder is None:
        importlib.import_module("calogan.simulation.parametric")
    else:
        importlib.import_module("calogan.generation.generator" if contender.own_precision else _PEERS)


def load(contender: Contender, threads: int) -> Draw:
    """Load a contender; returns the function that draws its showers.

    Args:
        contender: what to load.
        threads: number of threads of one operation; other runtimes have one.

    Raises:
        ModelError: there is no such model or precision, or a file or package is missing.
        QuantizationError: the runtime cannot convert the network.
    """
    # A stream should import what a user of the contender would, and no more.
    if contender.folder is None:
        from calogan.simulation import parametric  # noqa: PLC0415

        return lambda energy, seed, first, _: parametric.simulate(energy, seed=seed, first=first)
    if contender.own_precision:
        from calogan.generation import generator  # noqa: PLC0415

        sampler = generator.load(contender.folder, precision=contender.precision, threads=threads)
    else:
        from calogan.benchmark.peers import loading  # noqa: PLC0415

        sampler = loading.load(contender.folder, contender.precision)

    def draw(energy: NDArray[np.float32], seed: int, first: int, sparse: bool) -> Events | Hits:
        if sparse:
            return sampler.sample(energy, seed=seed, first=first, sparse=True)
        return sampler.sample(energy, seed=seed, first=first)

    return draw
