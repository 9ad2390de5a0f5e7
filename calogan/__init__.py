"""Calorimeter showers from a generator network quantized to int8, proved against Geant4."""

import importlib
import os
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calogan.generation.generator import Generator
    from calogan.serving.async_client import AsyncClient as AsyncClient
    from calogan.serving.client import Client as Client

__version__ = version("calogan")

# TensorFlow's int8 operations come from oneDNN, which it disables on processors without AVX-512 unless this is set
# before its import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Imported when they are used, so that asking for the package's version loads nothing.
_CLIENTS = {"Client": "calogan.serving.client", "AsyncClient": "calogan.serving.async_client"}
# Names that the code in models registered by version 0.1.0 imports from here.
_OLD_NAMES = {"bundle": "calogan.generation.model_folder", "generator": "calogan.generation.generator"}


def load_model(model: str | Path, *, precision: str = "") -> "Generator":
    """Load a model, ready to sample.

    Registered models call only this function of the package, so its name and arguments must not change.

    Args:
        model: packaged name, or folder.
        precision: one that the model has; the smallest of them if not given.

    Raises:
        ModelError: there is no such model, it is damaged, of another version, or does not have this precision.
    """
    # Imported here, so that asking for the package's version does not load TensorFlow.
    from calogan.generation import generator, model_folder  # noqa: PLC0415

    folder = model_folder.find(model)
    offered = model_folder.read(folder).network_files
    smallest = next((name for name in reversed(model_folder.PRECISIONS) if name in offered), "int8")
    return generator.load(folder, precision=precision or smallest)


if not TYPE_CHECKING:  # a type checker would accept any name as an attribute of this package

    def __getattr__(name: str) -> ModuleType | type:
        if name in _CLIENTS:
            return getattr(importlib.import_module(_CLIENTS[name]), name)
        if name in _OLD_NAMES:
            return importlib.import_module(_OLD_NAMES[name])
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
