"""Files that come with the package: configurations, detectors, gates, models, showers, templates."""

from importlib import resources
from pathlib import Path


def data_file(*parts: str) -> Path:
    """Path of a file or folder in `calogan/data`, which need not exist."""
    return Path(str(resources.files("calogan"))).joinpath("data", *parts)
