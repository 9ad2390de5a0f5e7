import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from calogan.errors import ModelError
from calogan.generation import model_folder
from calogan.tracking.location import locate


def test_names_and_folders_are_here_and_addresses_of_the_registry_are_fetched(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(uri: str, *, precision: str) -> Path:
        return Path("/fetched", uri, precision)

    monkeypatch.setitem(sys.modules, "calogan.tracking.registry", SimpleNamespace(fetch=fetch))
    assert locate("lean", "int8") == model_folder.find("lean")
    assert locate(tiny_model, "int8") == tiny_model
    assert locate("models:/lean@latest-int8", "int8") == Path("/fetched/models:/lean@latest-int8/int8")
    with pytest.raises(ModelError, match=r"no model 'nobody'.*or models:/NAME@ALIAS"):
        locate("nobody", "int8")


def test_a_model_that_is_here_does_not_wait_for_mlflow() -> None:
    code = "import sys; from calogan.tracking.location import locate; locate('lean', 'int8'); print('mlflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "False\n"
