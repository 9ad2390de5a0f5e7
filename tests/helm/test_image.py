"""The container image, checked by its Dockerfile only: no build, so no daemon is needed."""

import re
import shutil
import subprocess
from pathlib import Path

import helm_python
import numpy as np
import pytest
import yaml

from calogan import provenance

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"

Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    """Instructions of the Dockerfile, continued lines joined, `ARG` defaults filled in."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]
    defaults = dict(value.split("=", 1) for name, value in pairs if name == "ARG")
    return [(name, re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], value)) for name, value in pairs]


@pytest.fixture(scope="module")
def final_stage(instructions: list[Instruction]) -> list[Instruction]:
    last = max(number for number, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[last:]


def test_bases_are_pinned_to_a_python_that_has_constraints(instructions: list[Instruction]) -> None:
    bases = {value.split()[0] for name, value in instructions if name == "FROM"}
    assert bases == {"python:3.11-slim-bookworm"}
    assert (ROOT / "constraints" / "3.11.txt").is_file()


def test_package_is_installed_with_the_constraints_of_its_python(instructions: list[Instruction]) -> None:
    (install,) = [value for name, value in instructions if name == "RUN" and "--constraint" in value]
    ((command, ending),) = re.findall(r'pins="constraints/\$\((.+?)\)(\.txt)" ', install)
    assert '--constraint "$pins"' in install
    name = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.strip() + ending  # noqa: S602
    assert (ROOT / "constraints" / name).is_file()


def test_drivers_are_installed_with_the_package(instructions: list[Instruction]) -> None:
    sources = [part for name, value in instructions if name == "COPY" for part in value.split()[:-1]]
    assert {"calogan", "ray_jobs"} < set(sources)


def test_user_is_the_number_the_chart_runs_as(final_stage: list[Instruction]) -> None:
    users = [value for name, value in final_stage if name == "USER"]
    with helm_python.Chart.load(ROOT / "helm" / "calogan") as chart:
        rendered = chart.render({}, name="demo")
    pod = yaml.safe_load(rendered["calogan/templates/mlflow-deployment.yaml"])["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert users == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    assert final_stage.index(("USER", users[0])) > max(
        number for number, (name, _) in enumerate(final_stage) if name == "RUN"
    )


@pytest.mark.parametrize("tool", ["bash", "grep", "wget"])
def test_tools_of_kuberays_probes_are_installed(final_stage: list[Instruction], tool: str) -> None:
    (install,) = [value for name, value in final_stage if name == "RUN" and "apt-get install" in value]
    assert tool in install.split()


def test_programs_are_on_the_path_of_login_shells(final_stage: list[Instruction]) -> None:
    # A login shell of Debian resets PATH; /usr/local/bin stays on it.
    assert ("COPY", "--from=build /packages /usr/local") in final_stage
    assert ("COPY", "--from=build /calogan /usr/local") in final_stage


def test_build_context_is_what_the_dockerfile_copies(instructions: list[Instruction]) -> None:
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    sources = {
        part
        for name, value in instructions
        if name == "COPY" and not value.startswith("--from")
        for part in value.split()[:-1]
    }
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources


def test_showers_and_models_record_the_commit_of_the_image(instructions: list[Instruction]) -> None:
    variables = dict(value.split("=", 1) for name, value in instructions if name == "ENV" for value in value.split())
    assert variables[provenance.COMMIT_VARIABLE] == "unknown", "the default of the argument REVISION"
    labels = next(value for name, value in instructions if name == "LABEL")
    assert "org.opencontainers.image.revision=unknown" in labels
    assert "calogan.sbom=/usr/local/share/calogan/sbom.cdx.json" in labels


def test_what_only_compilers_and_tests_need_is_left_out(tmp_path: Path) -> None:
    left_out = (
        "botocore/data/ec2/api.json.gz",
        "kubernetes/aio/client.py",
        "numpy/lib/core.a",
        "pandas/tests/test_frame.py",
        "pyarrow/libarrow_flight.so.1",
        "ray/__pycache__/a.pyc",
        "ray/dashboard/main.js.map",
        "scipy/special/cython_special.pxd",
        "tensorflow/include/op.h",
    )
    for path in left_out:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    kept = [
        "botocore/data/endpoints.json",
        "botocore/data/s3/api.json.gz",
        "jinja2/tests.py",
        "kubernetes/client.py",
        "llvmlite/binding.py",
        "numpy/testing/core.py",
        "pyarrow/lib.py",
        "ray/serve.py",
    ]
    for path in kept:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    subprocess.run(["sh", DOCKERFILE.with_name("slim.sh"), tmp_path], check=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == kept


def test_libraries_with_paths_of_their_wheel_are_not_stripped(tmp_path: Path) -> None:
    """The tool that gave them these paths moved their segments, and they would no longer load."""
    source = next(path for path in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"))
    library = tmp_path / "numpy.libs" / source.name
    library.parent.mkdir()
    shutil.copy(source, library)
    subprocess.run(["sh", DOCKERFILE.with_name("slim.sh"), tmp_path], check=True)
    assert library.read_bytes() == source.read_bytes()


def test_no_secret_is_written_into_the_image(instructions: list[Instruction]) -> None:
    settings = " ".join(value for name, value in instructions if name in {"ARG", "ENV", "RUN"})
    assert not re.search(r"\w*(KEY|TOKEN|PASSWORD|SECRET)\w*=", settings, flags=re.IGNORECASE)
