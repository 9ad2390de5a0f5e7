"""Write the table of values in the chart's README from the comments of its values: python docs/scripts/chart_values.py."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "calogan"
HEADING = "## Values\n"


def rows(chart: Path = CHART) -> list[str]:
    """Rows of the table: path of each value with a `# --` comment, the comment, the default."""
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    found: list[str] = []
    path: list[str] = []
    comment = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*# -- (.+)", line):
            comment = match[1]
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            path[len(match[1]) // 2 :] = [match[2]]
            if comment:
                default: Any = values
                for key in path:
                    default = default[key]
                found.append(f"| `{'.'.join(path)}` | {comment} | `{json.dumps(default)}` |")
            comment = ""
    return found


def main() -> None:
    """Replace what follows the heading."""
    readme = CHART / "README.md"
    before = readme.read_text(encoding="utf-8").partition(HEADING)[0]
    table = ["| value | meaning | default |", "|---|---|---|", *rows()]
    readme.write_text(before + HEADING + "\n" + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
