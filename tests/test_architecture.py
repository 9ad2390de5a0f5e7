import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import calogan

PACKAGE = Path(calogan.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The way of the data: a module imports only from modules above it.
ORDER = [
    "calogan",
    "calogan.errors",
    "calogan.whole_files",
    "calogan.geometry",
    "calogan.config",
    "calogan.provenance",
    "calogan.events.records",
    "calogan.events.formats",
    "calogan.events.files",
    "calogan.events.splits",
    "calogan.events.stream",
    "calogan.events.writing",
    "calogan.events",
    "calogan.production",
    "calogan.simulation",
    "calogan.simulation.medium",
    "calogan.simulation.profiles",
    "calogan.simulation.parametric",
    "calogan.simulation.tuning",
    "calogan.simulation.detector",
    "calogan.simulation.em_tables",
    "calogan.simulation.geant4_worker",
    "calogan.simulation.geant4",
    "calogan.simulation.engines",
    "calogan.networks",
    "calogan.networks.base",
    "calogan.networks.deposits",
    "calogan.networks.compound_poisson",
    "calogan.networks.flow",
    "calogan.networks.lean",
    "calogan.networks.rehm2021",
    "calogan.networks.conv3d",
    "calogan.networks.families",
    "calogan.training",
    "calogan.training.workers",
    "calogan.training.survey",
    "calogan.training.selection",
    "calogan.training.adversarial",
    "calogan.training.likelihood",
    "calogan.training.distance",
    "calogan.training.loop",
    "calogan.bundle",
    "calogan.cells",
    "calogan.rewrites",
    "calogan.lowering",
    "calogan.generator",
    "calogan.compression",
    "calogan.quantization",
    "calogan.tuning",
    "calogan.search",
    "calogan.inspection",
    "calogan.observables",
    "calogan.resampling",
    "calogan.partials",
    "calogan.metrics",
    "calogan.distributions",
    "calogan.distances",
    "calogan.classifiers",
    "calogan.cell_classifier",
    "calogan.similarity",
    "calogan.comparison",
    "calogan.validation",
    "calogan.definitions",
    "calogan.pictures",
    "calogan.plots",
    "calogan.report_tables",
    "calogan.report",
    "calogan.benchmark",
    "calogan.profiling",
    "calogan.comparators.base",
    "calogan.comparators.tflite",
    "calogan.comparators.onnx_runtime",
    "calogan.comparators.openvino_runtime",
    "calogan.comparators",
    "calogan.comparators.timing",
    "calogan.exporting.base",
    "calogan.exporting.saved_model",
    "calogan.exporting.graphs",
    "calogan.exporting.integer",
    "calogan.exporting.onnx_model",
    "calogan.exporting",
    "calogan.mlflow_model",
    "calogan.registry",
    "calogan.steps",
    "calogan.cores",
    "calogan.journal",
    "calogan.trials",
    "calogan.candidates",
    "calogan.serving",
    "calogan.serving.encodings",
    "calogan.serving.api",
    "calogan.serving.client",
    "calogan.serving.app",
    "calogan.quiet",
    "calogan.tables",
    "calogan.cli.screen",
    "calogan.cli.options",
    "calogan.cli.loading",
    "calogan.cli.showers",
    "calogan.cli.models",
    "calogan.cli.generation",
    "calogan.cli",
]

HEAVY = ("tensorflow", "keras", "ray", "mlflow", "matplotlib", "neural_compressor")
LIGHT = ("calogan", "calogan.errors", "calogan.events", "calogan.config", "calogan.bundle", "calogan.cli")


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


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_above(path: Path) -> None:
    place = ORDER.index(module_name(path))
    below = {name for name in imported(path) if ORDER.index(name) >= place}
    assert not below, f"{module_name(path)} imports {', '.join(sorted(below))}, which the list has below it"


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
