"""The image, built from its Dockerfile without a daemon, where root, buildah and debootstrap are to be had."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/calogan:test"
MOST_GB = 2.1  # what the packages take is in docs/decisions.md

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("buildah", "debootstrap", "python3.11"))),
        reason="needs root, buildah, debootstrap and Python 3.11",
    ),
]


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of the image."""
    subprocess.run([ROOT / "deploy" / "build_image.sh", IMAGE], check=True, env=os.environ | {"REVISION": "abc1234"})
    name = subprocess.check_output(["buildah", "from", IMAGE], text=True).strip()
    yield name
    subprocess.run(["buildah", "rm", name], check=True, capture_output=True)


def run(container: str, *command: str) -> str:
    return subprocess.check_output(["buildah", "run", "--isolation", "chroot", container, "--", *command], text=True)


def test_it_is_small_and_says_what_it_is(container: str) -> None:
    described = json.loads(subprocess.check_output(["buildah", "inspect", "--type", "image", IMAGE]))
    config = described["OCIv1"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc1234"
    packages = json.loads(run(container, "cat", config["Labels"]["calogan.sbom"]))
    assert packages["bomFormat"] == "CycloneDX"
    assert {"tensorflow-cpu", "ray", "mlflow", "psycopg-binary"} <= {item["name"] for item in packages["components"]}
    listed = json.loads(subprocess.check_output(["buildah", "images", "--json", IMAGE]))
    size, unit = listed[0]["size"].split()
    assert unit == "GB"
    assert float(size) < MOST_GB


def test_its_programs_work(container: str) -> None:
    assert run(container, "id", "--user").strip() == "10001"
    made = run(
        container,
        "sh",
        "-c",
        'cd /tmp && calogan generate --model lean --energy 50 --n 4 --seed 1 --out a.h5 && python -c "'
        "import h5py; print(dict(h5py.File('a.h5').attrs))\"",
    )
    assert "abc1234" in made
    # What a stripped library, or one that was left out by mistake, would break.
    modules = "mlflow.server.auth, pyarrow.parquet, ray.serve, ray.train.tensorflow, ray.tune, s3fs, psycopg, boto3"
    assert "fine" in run(container, "python", "-c", f"import {modules}; boto3.client; print('fine')")
