"""A model on disk: a folder of frozen TensorFlow graphs and their description.

    model.json                   family, range of energies, provenance, names and hashes of the files
    prepare.pb                   float32: energies and latent numbers -> features and context
    network.<precision>.pb       the part that is quantized: features -> outputs
    network.int8.<hash>.pb       the same in int8; the name contains the start of its SHA-256
    cells.npz                    `lean` only: tables of the cells, for the float32 tail
    generator.weights.h5         weights, to continue training or to quantize again

Graphs contain only operations and constants, and tables only plain numbers: nothing in the folder is executed as Python
or unpickled. The description is untrusted input and is checked before use. It is written last, in one atomic step, so
that a reader sees either the old model or the new one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calogan import provenance
from calogan.atomic_files import atomic_write, write_text
from calogan.config import Network, Quantization
from calogan.errors import ModelError, problems
from calogan.packaged import data_file

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
REGISTRY = "models:/"  # prefix of the names of models in the MLflow registry
DESCRIPTION, PREPARE, WEIGHTS, CELLS = "model.json", "prepare.pb", "generator.weights.h5", "cells.npz"
_LARGEST_DESCRIPTION = 2**20  # bytes; real ones have about three thousand
_LONGEST_MESSAGE = 300

PrecisionName = Annotated[str, Field(pattern=f"^({'|'.join(PRECISIONS)})$")]
Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]  # cannot leave the folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Energy = Annotated[float, Field(gt=0)]


class ModelDescription(BaseModel):
    """Description of a model.

    Attributes:
        name: registered name.
        family: generator family.
        latent_size: number of standard normal numbers for each shower.
        cell_noise: whether each cell needs another one.
        energy_range: lowest and highest Ep of the training, GeV.
        network_files: file of the network for each precision.
        quantization: the `config.Quantization` of the int8 network, or empty.
        header: provenance of the training.
        sha256: hash of each file; the version is derived from them.
        width, depth, kernel: of `lean`, see `config.Network`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: Name
    family: Name
    latent_size: int = Field(ge=1, le=10_000)
    cell_noise: bool
    energy_range: tuple[Energy, Energy]
    network_files: dict[PrecisionName, FileName] = Field(min_length=1)
    quantization: dict[str, Any]
    header: dict[Name, Text]
    sha256: dict[FileName, Sha256]
    width: int = 128
    depth: int = 2
    kernel: int = 3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.energy_range
        if low >= high:
            raise ValueError(f"energy_range: expected the lower energy first, got {low:g} to {high:g} GeV")
        Network.model_validate(self.model_dump(include={"family", "width", "depth", "kernel"}))
        if self.quantization:
            Quantization.model_validate(self.quantization)
        missing = {name for precision in self.network_files for name in self.files(precision)} - set(self.sha256)
        if missing:
            raise ValueError(f"sha256: has no hash of {', '.join(sorted(missing))}")
        return self

    def version(self, precision: str) -> str:
        """Short hash of everything that determines the showers of one precision."""
        files = self.files(precision)
        return provenance.digest(precision + "".join(self.sha256[file] for file in files))[:12]

    def files(self, precision: str) -> list[str]:
        """Names of the files that one precision needs."""
        return [PREPARE, self.network_files[precision], *([CELLS] if self.cell_noise else [])]


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in data_file("models").glob(f"*/{DESCRIPTION}"))


def find(model: str | os.PathLike[str]) -> Path:
    """Return the folder of a model, given its packaged name or a folder.

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


def find_writable(model: str | os.PathLike[str]) -> Path:
    """Return the folder of a model that may be modified.

    Raises:
        ModelError: there is no such model, or it is a packaged one.
    """
    folder = find(model)
    if folder.resolve().is_relative_to(data_file("models").resolve()):
        raise ModelError(
            f"{model} is a packaged model, which cannot be modified; make your own with "
            f"calogan quantize --model {folder.name} --out FOLDER"
        )
    return folder


def read(folder: Path) -> ModelDescription:
    """Read the description of a model.

    Raises:
        ModelError: it is damaged or was written by another version of this package.
    """
    path = folder / DESCRIPTION
    try:
        with path.open("rb") as file:
            return ModelDescription.model_validate_json(file.read(_LARGEST_DESCRIPTION))
    except (OSError, ValueError) as error:
        reason = problems(error) if isinstance(error, ValidationError) else str(error)
        # The message may quote the file, whose contents are arbitrary.
        reason = "".join(letter if letter.isprintable() else " " for letter in reason)[:_LONGEST_MESSAGE]
        raise ModelError(f"{path}: is damaged ({reason}); make the model again") from error


def write(folder: Path, description: ModelDescription) -> ModelDescription:
    """Write the description, the last step of writing a model; returns it."""
    write_text(folder / DESCRIPTION, json.dumps(description.model_dump(mode="json"), indent=1) + "\n")
    return description


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of newly written files, by name."""
    return {name: provenance.sha256(folder / name) for name in sorted(names)}


def check_files(folder: Path, description: ModelDescription, precision: str) -> None:
    """Check that the files of one precision exist and are unaltered.

    Raises:
        ModelError: the precision is unknown or not in this model, or a file is missing or altered.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision not in description.network_files:
        offered = ", ".join(description.network_files)
        raise ModelError(
            f"{folder}: model {description.name} has no {precision}, only {offered}; make it with calogan quantize"
        )
    for name in description.files(precision):
        check_file(folder, description, name)


def check_file(folder: Path, description: ModelDescription, name: str) -> None:
    """Check that a file is in the folder itself, not linked from elsewhere, and is unaltered.

    Raises:
        ModelError: the file is missing, outside the folder or altered.
    """
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path}: is missing; fetch or make the model again")
    if path.resolve().parent != folder.resolve():
        raise ModelError(f"{path}: is a link to a file outside the model; put the file itself there")
    if provenance.sha256(path) != description.sha256.get(name):
        raise ModelError(f"{path}: is not the file that was written (SHA-256 differs); fetch or make the model again")


def copy(source: Path, target: Path, *, precisions: tuple[str, ...] | None = None) -> ModelDescription:
    """Copy a model, or some of its precisions, into a folder; an existing model there is replaced.

    Raises:
        ModelError: a precision is not in the model, or a file of it is missing or altered.
    """
    description = read(source)
    keep = precisions or tuple(description.network_files)
    for precision in keep:
        check_files(source, description, precision)
    names = {name for precision in keep for name in description.files(precision)}
    if WEIGHTS in description.sha256:
        check_file(source, description, WEIGHTS)
        names.add(WEIGHTS)
    changes = {
        "network_files": {name: file for name, file in description.network_files.items() if name in keep},
        "quantization": description.quantization if "int8" in keep else {},
        "sha256": {name: hash_ for name, hash_ in description.sha256.items() if name in names},
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / DESCRIPTION).unlink(missing_ok=True)  # an incomplete copy must not look like a model
    for name in names:
        with atomic_write(target / name) as temporary:
            shutil.copyfile(source / name, temporary)
    return write(target, description.model_copy(update=changes))


def replace_network(
    folder: Path, description: ModelDescription, network: bytes, quantization: Mapping[str, Any]
) -> ModelDescription:
    """Replace the int8 network of a model in one atomic step: a reader gets either the old one or the new one.

    The new network has its own file name. The old file stays until the next replacement, for readers that have read the
    old description and are about to open it.

    Args:
        folder: the model.
        description: description read from the folder; the other files must be unaltered.
        network: the frozen graph.
        quantization: its configuration.

    Raises:
        ModelError: a file that is kept is missing or altered.
    """
    old = description.network_files.get("int8", "")
    for name in description.sha256.keys() - {old}:
        check_file(folder, description, name)
    hash_ = hashlib.sha256(network).hexdigest()
    file = f"network.int8.{hash_[:12]}.pb"
    with atomic_write(folder / file) as temporary:
        temporary.write_bytes(network)
    changes = {
        "network_files": {**description.network_files, "int8": file},
        "quantization": dict(quantization),
        "sha256": {name: hash_ for name, hash_ in description.sha256.items() if name != old} | {file: hash_},
    }
    replaced = write(folder, description.model_copy(update=changes))
    for path in folder.glob("network.int8*.pb"):
        if path.name not in {old, file}:
            path.unlink(missing_ok=True)
    return replaced
