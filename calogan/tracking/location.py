"""Where a model is, whatever it is named by: the package, a folder or the registry."""

import os
from pathlib import Path

from calogan.generation import model_folder


def locate(model: str | os.PathLike[str], precision: str) -> Path:
    """Return the folder of a model, fetched from the registry if its name says so.

    Args:
        model: packaged name, folder, or `models:/NAME`, see `registry.fetch`.
        precision: the one that is meant where the registry has several.

    Raises:
        ModelError: there is no such model.
        ServiceError: MLflow does not answer.
    """
    text = os.fspath(model)
    if not text.startswith(model_folder.REGISTRY):
        return model_folder.find(text)
    from calogan.tracking.registry import fetch  # noqa: PLC0415 - MLflow takes seconds, which most models do without

    return fetch(text, precision=precision)
