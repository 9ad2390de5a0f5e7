"""Provenance of results: code, versions, machine, seed, inputs."""

import functools
import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from calogan import __version__

COMMIT_VARIABLE = "CALOGAN_GIT_COMMIT"
_PACKAGES = ("numpy", "tensorflow", "keras", "neural-compressor-tf", "ray", "mlflow")
# CPU flags, in Linux's spelling, that determine the speed of int8 arithmetic, best first.
_ISA_FLAGS = {
    "amx_int8": "AMX_INT8",
    "avx512_vnni": "AVX512_VNNI",
    "avx_vnni": "AVX_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx512f": "AVX512F",
    "avx2": "AVX2",
}
_INTEGER_INSTRUCTIONS = {"AMX_INT8", "AVX512_VNNI", "AVX_VNNI"}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(text: str) -> str:
    """Return the SHA-256 of a text as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout this package runs from, or 'unknown' outside one.

    Without a checkout, such as in a container or a Ray job, an environment variable provides it.
    """
    commit = os.environ.get(COMMIT_VARIABLE)
    if commit:
        return commit
    try:
        answer = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"


@functools.cache
def cpu() -> dict[str, str]:
    """Return the model of this machine's CPU and its relevant features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines[:40])}
    flags = set(first.get("flags", "").split())
    isa = [name for flag, name in _ISA_FLAGS.items() if flag in flags]
    return {
        "model": first.get("model name", platform.processor() or "unknown"),
        "isa": " ".join(isa) or "unknown",
    }


def input_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name, in the given order.

    Files with the same name are distinguished by as few parent folders as necessary: `a/showers-00000.h5` and
    `b/showers-00000.h5`. So the result does not depend on the location of these folders.
    """
    files = {path.absolute().parts[1:]: path for path in paths}  # without the root, which is common to all
    ends = Counter(parts[-length:] for parts in files for length in range(1, len(parts) + 1))

    def name(parts: tuple[str, ...]) -> str:
        lengths = (length for length in range(1, len(parts)) if ends[parts[-length:]] == 1)
        return "/".join(parts[-next(lengths, len(parts)) :])

    return {name(parts): sha256(path) for parts, path in files.items()}


def has_integer_instructions(isa: str) -> bool:
    """Whether a processor adds products of 8-bit numbers in 32 bits; `isa` as in `cpu`.

    Other processors are slower and add pairs of products in 16 bits, where the sum of two large ones saturates.
    """
    return not _INTEGER_INSTRUCTIONS.isdisjoint(isa.split())


def header(*, seed: int | None = None, inputs: Iterable[Path] = ()) -> dict[str, str]:
    """Describe the origin of a result; the same code, machine, seed and inputs give the same header.

    It contains no time and no absolute path, so that files with a header are reproducible byte for byte.

    Args:
        seed: the seed of the result, if it has one.
        inputs: the input files of the result, recorded by their `input_hashes`.
    """
    versions = {name: _version(name) for name in _PACKAGES}
    fields = {
        "calogan_version": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": json.dumps({name: value for name, value in versions.items() if value}),
        "cpu_model": cpu()["model"],
        "cpu_isa": cpu()["isa"],
    }
    if seed is not None:
        fields["seed"] = str(seed)
    hashes = input_hashes(inputs)
    if hashes:
        fields["inputs_sha256"] = json.dumps(hashes)
    return fields


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
