"""Calorimeter showers from a generator network quantized to int8, proved against Geant4."""

import importlib
import os
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calogan.generation.generator import Generator

__version__ = version("calogan")

# TensorFlow has its int8 operations from oneDNN, which it leaves out on processors without AVX-512 unless it is told
# otherwise before its import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# What the code in models that version 0.1.0 registered imports from here.
_OLD_NAMES = {"bundle": "calogan.generation.model_folder", "generator": "calogan.generation.generator"}


def load_model(model: str | Path, *, precision: str = "") -> "Generator":
    """Load a model, ready to sample.

    The code in registered models calls this function and nothing else of the package: its name and arguments stay.

    Args:
        model: packaged name, or folder.
        precision: one that the model has; the smallest of them if not given.

    Raises:
        ModelError: there is no such model, it is damaged, of another version, or does not have this precision.
    """
    # Inside, so that the package can be asked for its version without TensorFlow.
    from calogan.generation import generator, model_folder  # noqa: PLC0415

    folder = model_folder.find(model)
    offered = model_folder.read(folder).network_files
    smallest = next((name for name in reversed(model_folder.PRECISIONS) if name in offered), "int8")
    return generator.load(folder, precision=precision or smallest)


if not TYPE_CHECKING:  # which would take every name for one of this package

    def __getattr__(name: str) -> ModuleType:
        if name in _OLD_NAMES:
            return importlib.import_module(_OLD_NAMES[name])
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
