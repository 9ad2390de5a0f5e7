"""A model on disk: a folder of frozen TensorFlow graphs and their description.

    model.json                         family, range of energies, provenance, names and hashes of the files
    prepare.<hash>.pb               float32: energies and latent numbers -> features and context
    network.<precision>.<hash>.pb   the part that is quantized: features -> outputs
    cells.<hash>.npz                `lean` only: tables of the cells, for the float32 tail
    generator.<hash>.weights.h5     weights, to continue training or to quantize again

Graphs contain only operations and constants, and tables only plain numbers: nothing in the folder is executed as Python
or unpickled. The description is untrusted input and is checked before use.

File names contain the start of the file's SHA-256, so that one model never overwrites a file of another. The description
is written last, in one atomic step: even if a writer is killed, the folder holds either the old model or the new one.
"""

import hashlib
import itertools
import json
import os
import re
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
DESCRIPTION = "model.json"
# Roles of the files; in models of 0.1.0 the role is the whole name.
PREPARE, WEIGHTS, CELLS = "prepare.pb", "generator.weights.h5", "cells.npz"
NETWORKS: dict[str, str] = {precision: f"network.{precision}.pb" for precision in PRECISIONS}
_ROLE = re.compile(r"(?P<stem>.+?)(?P<suffix>\.weights\.h5|\.pb|\.npz)")
_HASH_DIGITS = 12  # in the name of a file
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
        weight_bits: bits of the weights of the int8 network, with their sign; None in models of 0.1.0, which all have 8.
        energy_bands: energies, GeV, at which the int8 network changes the ranges of its activations.
        prepare, weights, cells: files of the graph before the network, of the weights and of the tables.
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
    prepare: FileName = PREPARE
    weights: FileName = WEIGHTS
    cells: FileName = CELLS
    weight_bits: Literal[7, 8] | None = None
    energy_bands: tuple[Energy, ...] = Field((), max_length=100)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.energy_range
        if low >= high:
            raise ValueError(f"energy_range: expected the lower energy first, got {low:g} to {high:g} GeV")
        Network.model_validate(self.model_dump(include={"family", "width", "depth", "kernel"}))
        if any(first >= second for first, second in itertools.pairwise(self.energy_bands)):
            raise ValueError(f"energy_bands: expected increasing energies, got {self.energy_bands}")
        if self.quantization:
            Quantization.model_validate(self.quantization)
        missing = {name for precision in self.network_files for name in self.files(precision)} - set(self.sha256)
        if missing:
            raise ValueError(f"sha256: has no hash of {', '.join(sorted(missing))}")
        return self

    def version(self, precision: str) -> str:
        """Short hash of everything that determines the showers of one precision."""
        hashes = "".join(self.sha256[file] for file in self.files(precision))
        bands = ",".join(map(str, self.bands(precision)))
        return provenance.digest(precision + hashes + bands)[:12]

    def bands(self, precision: str) -> tuple[float, ...]:
        """Energies at which the network of a precision changes the ranges of its activations, GeV."""
        return self.energy_bands if precision == "int8" else ()

    def may_saturate(self, precision: str) -> bool:
        """Whether sums of two products of 8-bit numbers may exceed 16 bits in a network."""
        return precision == "int8" and self.weight_bits != 7

    def files(self, precision: str) -> list[str]:
        """Names of the files that one precision needs."""
        return [self.prepare, self.network_files[precision], *([self.cells] if self.cell_noise else [])]


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
    """Write the description, the last step of writing a model; returns it.

    Files of the model that it replaces stay until the next time, for who has read the old description and is about to
    open them; older ones are deleted.
    """
    try:
        replaced = set(read(folder).sha256)
    except ModelError:  # there is none that anyone could have read
        replaced = set()
    write_text(folder / DESCRIPTION, json.dumps(description.model_dump(mode="json"), indent=1) + "\n")
    for path in folder.iterdir():
        if _is_stored(path.name) and path.name not in replaced.union(description.sha256):
            path.unlink(missing_ok=True)
    return description


def store(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Write the files of a model; a model already in the folder stays valid until `write`.

    Args:
        folder: output folder; created if missing.
        contents: content of each file, by role: `PREPARE`, `WEIGHTS`, `CELLS` or one of `NETWORKS`.

    Returns:
        the fields of the description that name these files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {role: hashlib.sha256(content).hexdigest() for role, content in contents.items()}
    names = {role: _stored_name(role, hash_) for role, hash_ in hashes.items()}
    for role, name in names.items():
        if not (folder / name).is_file() or provenance.sha256(folder / name) != hashes[role]:
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(contents[role])
    networks = {precision: names[role] for precision, role in NETWORKS.items() if role in names}
    others = {PREPARE: "prepare", WEIGHTS: "weights", CELLS: "cells"}
    return {
        "network_files": networks,
        "sha256": {name: hashes[role] for role, name in sorted(names.items())},
        **{field: names[role] for role, field in others.items() if role in names},
    }


def _stored_name(role: str, hash_: str) -> str:
    return _ROLE.sub(rf"\g<stem>.{hash_[:_HASH_DIGITS]}\g<suffix>", role)


def _is_stored(name: str) -> bool:
    """Whether a file has a name that `store` gives."""
    plain = re.sub(rf"\.[0-9a-f]{{{_HASH_DIGITS}}}(?=\.)", "", name)
    return plain in {PREPARE, WEIGHTS, CELLS, *NETWORKS.values()}


def _contents(folder: Path, description: ModelDescription, precisions: Iterable[str]) -> dict[str, bytes]:
    """Contents of the files of a model, with the networks of some precisions, in the form that `store` expects.

    Raises:
        ModelError: a precision is not in the model, or a file of it is missing or altered.
    """
    names = {PREPARE: description.prepare, WEIGHTS: description.weights, CELLS: description.cells}
    names = {role: name for role, name in names.items() if name in description.sha256}
    for precision in precisions:
        check_files(folder, description, precision)
        names[NETWORKS[precision]] = description.network_files[precision]
    for name in names.values():
        check_file(folder, description, name)
    return {role: (folder / name).read_bytes() for role, name in names.items()}


def check_files(folder: Path, description: ModelDescription, precision: str) -> None:
    """Check that the files of one precision exist and are unaltered.

    Raises:
        ModelError: the precision is unknown or not in this model, or a file is missing or altered.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision not in description.network_files:
        offered = ", ".join(description.network_files)
        how = "make it with calogan quantize" if precision == "int8" else "choose one of these"
        raise ModelError(f"{folder}: model {description.name} has no {precision}, only {offered}; {how}")
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
    copied = precisions or tuple(description.network_files)
    files = store(target, _contents(source, description, copied))
    without: dict[str, Any] = {} if "int8" in copied else {"quantization": {}, "weight_bits": None, "energy_bands": ()}
    return write(target, description.model_copy(update=files | without))


def replace_network(
    folder: Path,
    description: ModelDescription,
    network: bytes,
    quantization: Mapping[str, Any],
    *,
    weight_bits: int | None = None,
    energy_bands: tuple[float, ...] = (),
    target: Path | None = None,
) -> ModelDescription:
    """Replace the int8 network of a model in one atomic step: a reader gets either the old one or the new one.

    Args:
        folder: the model.
        description: description read from the folder; the other files must be unaltered.
        network: the frozen graph.
        quantization: its configuration.
        weight_bits: number of bits of its weights.
        energy_bands: energies at which it changes the ranges of its activations, GeV.
        target: output folder of the model with this network; the same folder if None.

    Raises:
        ModelError: a file that is kept is missing or altered.
    """
    target = target or folder
    others = [precision for precision in description.network_files if precision != "int8"]
    files = store(target, _contents(folder, description, others) | {NETWORKS["int8"]: network})
    how = {"quantization": dict(quantization), "weight_bits": weight_bits, "energy_bands": energy_bands}
    return write(target, description.model_copy(update=files | how))
