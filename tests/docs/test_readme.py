import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_rooms_are_those_of_the_package() -> None:
    command = [sys.executable, "-c", "import list_rooms; print(list_rooms.table())"]
    output = subprocess.run(command, cwd=ROOT / "docs" / "scripts", capture_output=True, text=True, check=True).stdout
    shown = README.partition("<!-- rooms -->\n")[2].partition("<!-- end of rooms -->")[0]
    assert shown == output, "README's table of rooms is outdated; regenerate it: make docs PAGE=rooms"


def test_its_python_runs_as_written(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(block.splitlines()) <= 4
    result = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(3, 25, 25, 25) [")
    assert not list(tmp_path.iterdir())
