"""Locate a model by its packaged name, folder or registry URI."""

import os
from pathlib import Path

from calogan.generation import model_folder


def locate(model: str | os.PathLike[str], precision: str) -> Path:
    """Return the folder of a model; a registry URI is downloaded first.

    Args:
        model: packaged name, folder, or `models:/NAME`, see `registry.fetch`.
        precision: the precision to fetch if the registry has several.

    Raises:
        ModelError: there is no such model.
        ServiceError: MLflow does not answer.
    """
    text = os.fspath(model)
    if not text.startswith(model_folder.REGISTRY):
        return model_folder.find(text)
    from calogan.tracking.registry import fetch  # noqa: PLC0415 - takes seconds, and most models do not need it

    return fetch(text, precision=precision)
