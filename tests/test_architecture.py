import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import calogan

PACKAGE = Path(calogan.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The order of the data, of the rooms and of the modules in each: a module imports only from above itself. A room is opened
# by its `__init__`, which imports nothing; that of `events` alone gives out the names of its modules and closes it.
ROOMS: dict[str, list[str]] = {
    "": ["errors", "packaged", "atomic_files", "quiet", "geometry", "provenance", "machine", "config"],
    "events": [
        "records",
        "hits",
        "hit_tables",
        "hit_files",
        "point_clouds",
        "formats",
        "files",
        "splits",
        "stream",
        "writing",
        "",
        "folders",
        "productions",
        "workers",
        "inspection",
    ],
    "simulation": [
        "",
        "medium",
        "profiles",
        "parametric",
        "tuning",
        "detector",
        "em_tables",
        "geant4_worker",
        "geant4",
        "engines",
    ],
    "networks": [
        "",
        "stages",
        "base",
        "deposits",
        "compound_poisson",
        "flow",
        "shower_shape",
        "lean",
        "sketch",
        "rehm2021",
        "conv3d",
        "families",
        "rewrites",
    ],
    "validation": [
        "",
        "observables",
        "resampling",
        "parts",
        "metrics",
        "distances",
        "distributions",
        "classifiers",
        "tree_classifier",
        "cell_classifier",
        "thorough",
        "fixed_energy",
        "spreads",
        "standard",
        "gates",
        "report",
        "validate",
    ],
    "training": [
        "",
        "survey",
        "selection",
        "workers",
        "arithmetic",
        "run",
        "calibration",
        "likelihood",
        "optimizers",
        "energy_score",
        "discriminators",
        "distance",
        "adversarial",
        "progress",
        "loop",
    ],
    "generation": [
        "",
        "model_folder",
        "random_numbers",
        "graphs",
        "compiled",
        "cell_tables",
        "cell_sampling",
        "freezing",
        "generator",
        "shards",
    ],
    "quantization": ["", "operations", "neural_compressor", "energy_bands", "quantize"],
    "exporting": ["", "base", "saved_model", "graphs", "integer", "onnx_model", "export"],
    "tracking": ["", "runs", "speeds", "candidates", "registry", "location", "shower_model"],
    "benchmark": [
        "",
        "cores",
        "precisions",
        "profiling",
        "arithmetic",
        "peak",
        "peers",
        "peers.base",
        "peers.tflite",
        "peers.onnx_runtime",
        "peers.openvino_runtime",
        "peers.loading",
        "comparison",
        "contenders",
        "stream",
        "speed",
        "streams",
        "outputs",
        "growth",
        "geant4_speed",
        "roofline",
        "speed_report",
        "machine_speed",
    ],
    "reporting": [
        "",
        "glossary",
        "pictures",
        "plots",
        "tables",
        "spread_tables",
        "speed_tables",
        "speed_pictures",
        "html",
        "terminal",
    ],
    "steps": [""],
    "search": [
        "",
        "records",
        "quantization_proposals",
        "quantization_trials",
        "generator_proposals",
        "generator_trials",
    ],
    "serving": [
        "",
        "keys",
        "answers",
        "encodings",
        "orders",
        "drawing",
        "golden",
        "metrics",
        "streaming",
        "endpoint",
        "doorman",
        "production_orders",
        "production_store",
        "producer",
        "productions",
        "inference_models",
        "inference_protocol",
        "grpc_service",
        "browser",
        "api",
        "edge",
        "server",
        "app",
        "client_orders",
        "client_connection",
        "client_productions",
        "client",
        "async_client",
    ],
    "cluster": ["", "connection", "checks", "state", "rollout", "jobs"],
    "cli": [
        "",
        "screen",
        "program",
        "options",
        "loading",
        "comparisons",
        "showers",
        "models",
        "speeds",
        "production",
        "generation",
        "cluster",
        "main",
    ],
}
ORDER = ["calogan"] + [
    ".".join(part for part in ("calogan", room, module) if part)
    for room, modules in ROOMS.items()
    for module in modules
]
TOP_MODULES = 10  # at most, directly in the package

HEAVY = ("tensorflow", "keras", "ray", "mlflow", "matplotlib", "neural_compressor")
LIGHT = (
    "calogan",
    "calogan.errors",
    "calogan.events",
    "calogan.config",
    "calogan.generation.model_folder",
    "calogan.cli.main",
    "calogan.serving.async_client",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "calogan")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module and node.module.split(".")[0] == "calogan":
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (name if name in ORDER else node.module for name in names)


def test_the_list_names_every_module() -> None:
    assert sorted(ORDER) == sorted(module_name(path) for path in FILES)


# The package itself gives out `load_model`, which imports what it needs when it is called.
@pytest.mark.parametrize("path", [path for path in FILES if module_name(path) != "calogan"], ids=module_name)
def test_a_module_imports_only_from_above(path: Path) -> None:
    place = ORDER.index(module_name(path))
    below = {name for name in imported(path) if ORDER.index(name) >= place}
    assert not below, f"{module_name(path)} imports {', '.join(sorted(below))}, which the list has below it"


def test_few_modules_lie_outside_of_rooms() -> None:
    assert len(list(PACKAGE.glob("*.py"))) - 1 <= TOP_MODULES


def test_every_room_has_a_docstring_of_one_line() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert len((text or "").splitlines()) == 1, f"{path}: expected a docstring of one line"


def test_tests_lie_in_the_rooms_they_test() -> None:
    tests = Path(__file__).parent
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    apart = {"helm", "ray_jobs", "deploy", "docs", "e2e"}
    for path in tests.rglob("test_*.py"):
        room, *_ = path.relative_to(tests).parts
        assert path.parent == tests or room in rooms | apart, f"{path} lies in no room"


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not answer.stdout.strip()


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    long = [node.name for node in functions if (node.end_lineno or node.lineno) - node.lineno >= 60]
    assert not long, f"functions of more than 60 lines: {', '.join(long)}"
