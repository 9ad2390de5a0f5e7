"""A model on disk: a folder of frozen TensorFlow graphs and what is to be known about them.

    model.json              family, version, range of energies, provenance, hashes of the files
    prepare.pb              float32: energies and latent numbers -> features and context
    network.<precision>.pb  the part that is quantized: features -> outputs
    cells.npz               `lean` only: tables of the cells, for the float32 tail
    generator.weights.h5    weights, to go on training or to quantize again

Graphs hold operations and constants only, tables plain numbers: nothing in the folder is executed as Python or unpickled.
"""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from calogan import provenance
from calogan.atomic_files import write_text
from calogan.errors import ModelError
from calogan.packaged import data_file

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
REGISTRY = "models:/"  # how a name begins that is one of the MLflow registry
DESCRIPTION, WEIGHTS, CELLS = "model.json", "generator.weights.h5", "cells.npz"


@dataclass(frozen=True)
class Bundle:
    """What is to be known about a model.

    Attributes:
        name: registered name.
        family: generator family.
        latent_size: standard normal numbers consumed for each shower.
        cell_noise: whether one more is consumed for each cell.
        energy_range: lowest and highest Ep the model was trained for, GeV.
        network_files: file of the network for each precision.
        quantization: the configuration int8 was made with, or empty.
        header: provenance of the training.
        sha256: hash of each file; the version is derived from them.
        width, depth, kernel: of `lean`, see `config.Network`.
    """

    name: str
    family: str
    latent_size: int
    cell_noise: bool
    energy_range: tuple[float, float]
    network_files: dict[str, str]
    quantization: dict[str, Any]
    header: dict[str, str]
    sha256: dict[str, str]
    width: int = 128
    depth: int = 2
    kernel: int = 3

    def version(self, precision: str) -> str:
        """Short hash of everything that decides the showers of one precision."""
        files = self.files(precision)
        return provenance.digest(precision + "".join(self.sha256[file] for file in files))[:12]

    def files(self, precision: str) -> list[str]:
        """Names of the files that one precision is computed from."""
        return ["prepare.pb", self.network_files[precision], *([CELLS] if self.cell_noise else [])]


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in data_file("models").glob(f"*/{DESCRIPTION}"))


def find(model: str | os.PathLike[str]) -> Path:
    """Return the folder of a model given by its packaged name or by a folder.

    Raises:
        ModelError: there is no such model.
    """
    text = os.fspath(model)
    if text in packaged_models():
        return data_file("models", text)
    if (Path(text) / DESCRIPTION).is_file():
        return Path(text)
    raise ModelError(
        f"no model {text!r}: give a packaged name ({', '.join(packaged_models()) or 'none here'}), "
        f"a folder with a {DESCRIPTION}, or {REGISTRY}NAME@ALIAS"
    )


def read(folder: Path) -> Bundle:
    """Read the description of a model.

    Raises:
        ModelError: it is damaged or was written by another version of this package.
    """
    try:
        fields = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        fields["energy_range"] = tuple(fields["energy_range"])
        return Bundle(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder / DESCRIPTION}: is damaged ({error}); make the model again") from error


def write(folder: Path, bundle: Bundle) -> Bundle:
    """Write the description, with the hashes of the files that are there; returns it."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".pb", ".h5", ".npz"})
    bundle = dataclasses.replace(bundle, sha256={path.name: provenance.sha256(path) for path in files})
    write_text(folder / DESCRIPTION, json.dumps(dataclasses.asdict(bundle), indent=1) + "\n")
    return bundle


def check_files(folder: Path, bundle: Bundle, precision: str) -> None:
    """Make sure that the files of one precision are there and are those that were written.

    Raises:
        ModelError: the precision is unknown or not in this model, or a file is missing or altered.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision not in bundle.network_files:
        offered = ", ".join(bundle.network_files)
        raise ModelError(
            f"{folder}: model {bundle.name} has no {precision}, only {offered}; make it with calogan quantize"
        )
    for name in bundle.files(precision):
        check_file(folder, bundle, name)


def check_file(folder: Path, bundle: Bundle, name: str) -> None:
    """Make sure that a file is there and is the one that was written.

    Raises:
        ModelError: it is missing or altered.
    """
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path}: is missing; fetch or make the model again")
    if provenance.sha256(path) != bundle.sha256.get(name):
        raise ModelError(f"{path}: is not the file that was written (SHA-256 differs); fetch or make the model again")


def copy(source: Path, target: Path, *, precisions: tuple[str, ...] | None = None) -> Bundle:
    """Copy a model, or only some of its precisions, into a new folder.

    Raises:
        ModelError: a precision is not in the model, or a file of it is missing or altered.
    """
    bundle = read(source)
    keep = {name: bundle.network_files.get(name, "") for name in precisions or bundle.network_files}
    for precision in keep:
        check_files(source, bundle, precision)
    names = {name for precision in keep for name in bundle.files(precision)}
    if WEIGHTS in bundle.sha256:
        check_file(source, bundle, WEIGHTS)
        names.add(WEIGHTS)
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, target / name)
    quantization = bundle.quantization if "int8" in keep else {}
    return write(target, dataclasses.replace(bundle, network_files=keep, quantization=quantization))
