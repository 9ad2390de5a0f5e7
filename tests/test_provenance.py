import hashlib
import json
import subprocess
from pathlib import Path

import pytest

import calogan
from calogan import provenance


def test_hashes_are_sha256(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1: the digest of "abc".
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert provenance.sha256(tmp_path / "abc") == provenance.digest("abc") == digest


def test_header_says_what_made_the_result(tmp_path: Path) -> None:
    source = tmp_path / "showers.h5"
    source.write_bytes(b"energy")
    header = provenance.header(seed=7, inputs=[source])
    assert header["calogan_version"] == calogan.__version__
    assert header["seed"] == "7"
    assert json.loads(header["inputs_sha256"]) == {"showers.h5": hashlib.sha256(b"energy").hexdigest()}
    assert {"numpy", "tensorflow"} <= json.loads(header["versions"]).keys()
    assert all(isinstance(value, str) for value in header.values())


def test_header_is_the_same_every_time_and_names_no_folder(tmp_path: Path) -> None:
    source = tmp_path / "showers.h5"
    source.write_bytes(b"energy")
    header = provenance.header(seed=7, inputs=[source])
    assert provenance.header(seed=7, inputs=[source]) == header
    assert str(tmp_path) not in json.dumps(header)


def test_inputs_of_one_name_keep_their_hashes_wherever_their_folders_lie(tmp_path: Path) -> None:
    hashes = []
    for place in ("here", "there"):
        paths = [tmp_path / place / name for name in ("a/run/s.h5", "b/run/s.h5", "b/s.h5", "b/other.h5")]
        for number, path in enumerate(paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]))
        hashes.append(json.loads(provenance.header(inputs=paths)["inputs_sha256"]))
    expected = ("a/run/s.h5", "b/run/s.h5", "b/s.h5", "other.h5")
    assert hashes[0] == {name: hashlib.sha256(bytes([i])).hexdigest() for i, name in enumerate(expected)}
    assert hashes[1] == hashes[0]


def test_an_input_named_twice_is_one_input(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(b"energy")
    assert list(provenance.input_hashes([path, path])) == ["s.h5"]


def test_header_leaves_out_what_is_not_known() -> None:
    assert not {"seed", "inputs_sha256"} & provenance.header().keys()
    assert provenance.header(seed=0)["seed"] == "0"


@pytest.mark.parametrize("fault", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_commit_is_unknown_where_git_does_not_answer(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.git_commit.__wrapped__() == "unknown"


def test_cpu_names_its_int8_features_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor : 0\nmodel name\t: Test CPU @ 3 GHz\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert provenance.cpu.__wrapped__() == {
        "model": "Test CPU @ 3 GHz",
        "isa": "AMX_INT8 AVX512_VNNI AVX512F AVX2",
    }


def test_cpu_is_unknown_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("no /proc here")

    monkeypatch.setattr(Path, "read_text", fail)
    assert provenance.cpu.__wrapped__()["isa"] == "unknown"
    assert provenance.cpu.__wrapped__()["model"]
