"""Every route, asked what its schema allows and what it does not, by schemathesis: only answers the schema declares."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KEY = "key of the tests"
EXAMPLES = 30


@pytest.mark.slow
def test_answers_are_those_of_the_schema(serve_productions: Callable[..., Any], tmp_path: Path) -> None:
    limits = {"max_showers": 200, "max_production_showers": 1000, "max_productions": 100_000}
    url = serve_productions(tmp_path / "productions", **limits).url.removesuffix("/v1/productions")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{url}/openapi.json", "--header", f"X-API-Key: {KEY}", "--seed", "1"]
    command += ["--max-examples", str(EXAMPLES), "--generation-database", "none", "--no-color"]
    # A schema cannot say that low is below high, or that a tensor has as many numbers as its shape. And an Authorization
    # of another scheme, such as that of a proxy, does not matter beside the right X-API-Key, which is always sent here.
    command += ["--exclude-checks", "positive_data_acceptance,ignored_auth"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280)
    assert result.returncode == 0, result.stdout
