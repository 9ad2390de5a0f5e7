"""Write README's table of rooms from the docstrings of the rooms. Run by `make docs PAGE=rooms`.

The order is that of imports in tests/test_architecture.py.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
AROUND = {
    "calogan/data/": "Configurations, detectors, gates, the packaged model and showers, templates.",
    "deploy/": "The demo, the Serve configuration, the container image.",
    "helm/calogan/": "The chart.",
    "docs/": "This documentation as a site; `docs/scripts/` makes its generated pages.",
    "tests/": "The same rooms.",
}
_TABLE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)", re.DOTALL)


def main() -> None:
    """Replace the table between its two comments."""
    text = README.read_text(encoding="utf-8")
    README.write_text(_TABLE.sub(lambda _: f"{table()}\n", text), encoding="utf-8")


def table() -> str:
    """The table of the rooms and their purposes, in the order of imports."""
    rows = {}
    for room, modules in order().items():
        if not room:
            rows["calogan/"] = f"The foundation of all other rooms: {', '.join(f'`{name}`' for name in modules)}."
        elif modules == [""]:
            rows[f"calogan/{room}.py"] = purpose(ROOT / "calogan" / f"{room}.py")
        else:
            rows[f"calogan/{room}/"] = purpose(ROOT / "calogan" / room / "__init__.py")
    rows["ray_jobs/"] = purpose(ROOT / "ray_jobs" / "__init__.py")
    lines = (f"| `{path}` | {text} |" for path, text in (rows | AROUND).items())
    return "\n".join(["| room | what it is for |", "|---|---|", *lines])


def order() -> dict[str, list[str]]:
    """The modules of each room, from the architecture test."""
    source = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROOMS" and node.value:
            rooms: dict[str, list[str]] = ast.literal_eval(node.value)
            return rooms
    raise LookupError("tests/test_architecture.py has no ROOMS")


def purpose(path: Path) -> str:
    """The first line of a docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
