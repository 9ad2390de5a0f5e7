from pathlib import Path

import pytest

from calogan.exporting.base import Source, open_source


@pytest.fixture(scope="session")
def int8(tiny_model: Path) -> Source:
    return open_source(tiny_model, "int8")


@pytest.fixture(scope="session")
def float32(tiny_model: Path) -> Source:
    return open_source(tiny_model, "float32")
