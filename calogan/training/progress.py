"""The history of a training on disk, and whether a training may resume from it.

A history belongs to the sections data, network and training of the configuration and to the contents of the shower
files; other sections do not matter.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calogan import provenance
from calogan.atomic_files import write_text
from calogan.config import Config
from calogan.errors import TrainingError

_FILE = "progress.json"
_SECTIONS = ("data", "network", "training")


@dataclass(frozen=True)
class Epoch:
    """Result of one epoch.

    Attributes:
        stage: name of its stage, such as `shape` or `adversarial`; see `networks.stages`.
        number: epoch of the run, counted from 0.
        of: number of epochs of the whole run.
        losses: mean of each loss.
        score: physics score on the validation split, higher is better; None if the epoch was not scored.
        seconds: wall time.
        metrics: metrics on the validation split, measured with the score.
    """

    stage: str
    number: int
    of: int
    losses: Mapping[str, float]
    score: float | None
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Basis:
    """The configuration and files that a history belongs to.

    Attributes:
        sections: sections of the configuration, by name.
        inputs: name and SHA-256 of each file of showers, in their order; None if they are not recorded, as before 0.2.
    """

    sections: Mapping[str, Mapping[str, Any]]
    inputs: tuple[tuple[str, str], ...] | None


def basis(config: Config, inputs: Sequence[Path]) -> Basis:
    """The basis of a training with this configuration and these shower files; reads the files."""
    return Basis(_sections(config), tuple((path.name, provenance.sha256(path)) for path in inputs))


def write(folder: Path, of: Basis, history: Sequence[Epoch]) -> None:
    """Write the history of a training into its folder."""
    progress = {"config": of.sections, "inputs": of.inputs, "history": [asdict(epoch) for epoch in history]}
    text = json.dumps(progress, indent=1)
    write_text(folder / _FILE, text)


def read(folder: Path, expected: Basis) -> list[Epoch]:
    """Read the history in a folder; empty if there is none.

    Histories of older versions resume if their missing fields have defaults. Those of 0.1 contain no hashes: they are
    assumed to belong to the current files, whose hashes the next epoch records.

    Raises:
        TrainingError: the history cannot be read, or belongs to another configuration or to other showers.
    """
    path = folder / _FILE
    if not path.exists():
        return []
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        sections = {name: progress["config"][name] for name in _SECTIONS if name in progress["config"]}
        inputs = progress.get("inputs")
        basis = Basis(
            _sections(Config.model_validate(sections)),
            None if inputs is None else tuple((str(name), str(sha256)) for name, sha256 in inputs),
        )
        history = [Epoch(**epoch) for epoch in progress["history"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: is not the history of a training of this version ({error}); name another folder or remove {folder}"
        ) from error
    if changes := differences(basis, expected):
        raise TrainingError(f"{folder} holds another training: {'; '.join(changes)}; name another folder or remove it")
    return history


def differences(before: Basis, now: Basis) -> list[str]:
    """Describe what has changed since the history began; empty if the training may resume."""
    changes = [
        f"{section}.{name} was {before.sections[section][name]!r} and is {value!r}"
        for section, values in now.sections.items()
        for name, value in values.items()
        if value != before.sections[section][name]
    ]
    if before.inputs is None or now.inputs is None:
        return changes
    old, new = ({sha256: name for name, sha256 in inputs} for inputs in (before.inputs, now.inputs))
    removed = [name for sha256, name in old.items() if sha256 not in new]
    added = [name for sha256, name in new.items() if sha256 not in old]
    changes += [f"the showers in {name} have changed" for name in added if name in removed]
    changes += [f"{name} was read and is not there" for name in removed if name not in added]
    changes += [f"{name} was not there" for name in added if name not in removed]
    if not removed and not added and [sha256 for _, sha256 in before.inputs] != [sha256 for _, sha256 in now.inputs]:
        changes.append("the files of showers are in another order")
    return changes


def _sections(config: Config) -> dict[str, dict[str, Any]]:
    return config.model_dump(mode="json", include=set(_SECTIONS))
