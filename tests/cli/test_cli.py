import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import httpx
import mlflow
import numpy as np
import pytest
from click.testing import CliRunner

from calogan.cli.main import cli, main
from calogan.errors import QuantizationError
from calogan.events import Events, read_events, write_events
from calogan.generation import generator, model_folder
from calogan.generation.random_numbers import SEED_MAX
from calogan.serving.keys import KEY_VARIABLE
from calogan.simulation import parametric

MAIN = "from calogan.cli.main import main; print('ready', flush=True); main()"


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line as the installed script does, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["calogan", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, geant4: Events, tiny_model: Path) -> Path:
    """Folder with showers, with files that are none, and with a model of one precision."""
    folder = tmp_path_factory.mktemp("files")
    write_events(folder / "geant4.h5", geant4, header={})
    write_events(folder / "few.h5", geant4[:3], header={})
    (folder / "text.h5").write_text("no HDF5")
    (folder / "gates.toml").write_text("limit = [")
    model_folder.copy(tiny_model, folder / "float32", precisions=("float32",))
    return folder


def test_every_command_shows_examples() -> None:
    for name in cli.commands:
        shown = CliRunner().invoke(cli, [name, "--help"])
        assert shown.exit_code == 0
        _, _, examples = shown.output.partition("Examples:\n")
        assert f"calogan {name} " in examples, name


def test_help_lists_the_steps(run: Run) -> None:
    shown = run("--help")
    assert shown.code == 0
    assert all(name in shown.out for name in cli.commands)


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "Usage: calogan" in result.err


def simulate(**changed: object) -> list[object]:
    options = {"energy": 10, "n": 1, "out": "{tmp}/x.h5"} | changed
    return ["simulate", *(word for name, value in options.items() for word in (f"--{name}", value))]


def compare(**changed: object) -> list[object]:
    options = {"reference": "{files}/geant4.h5", "candidate": "{files}/geant4.h5"} | changed
    return ["validate", "--quick", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["siumlate"], "siumlate"),
        (simulate(bogus=1), "--bogus"),
        (simulate(energy=-5), "-5"),
        (simulate(energy=0), "'0'"),
        (simulate(energy="abc"), "abc"),
        (simulate(energy="500:2"), "500:2"),
        (simulate(energy="nan"), "nan"),
        (simulate(energy="2:inf"), "2:inf"),
        (simulate(energy="1:2:3"), "1:2:3"),
        (simulate(energy=1e6), "1000000"),
        (simulate(n=0), "0"),
        (simulate(n=-1), "-1"),
        (simulate(n="many"), "many"),
        (simulate(n=10**30), str(10**30)),
        (simulate(seed=-1), "-1"),
        (simulate(seed=2**63), str(2**63)),
        (simulate(seed=1.5), "1.5"),
        (simulate(engine="geant5"), "geant5"),
        (simulate(out="{tmp}/nowhere/x.h5"), "nowhere/x.h5"),
        (simulate(out="{files}"), "{files}"),
        (simulate(out="{tmp}/x.h5", **{"shard-size": 10}), "x.h5"),
        (simulate(out="{tmp}/folder", energy=5000), "5000"),
        (simulate(tuning="{tmp}/missing.toml"), "missing.toml"),
        (simulate(detector="no-such"), "no-such"),
        (simulate(format="par04"), "par04"),
        (["inspect", "{tmp}/missing.h5"], "missing.h5"),
        (["inspect", "{files}/text.h5"], "text.h5"),
        (["inspect", "{files}/geant4.h5", "--format", "calochallenge"], "geant4.h5"),
        (["inspect", "{files}/geant4.h5", "--picture", "{tmp}/nowhere/x.png"], "nowhere/x.png"),
        (["inspect", "{files}/geant4.h5", "--picture", "{tmp}/x.doc"], "x.doc"),
        (["convert", "{files}/text.h5", "-o", "{tmp}/x.h5"], "text.h5"),
        (["convert", "{files}/geant4.h5", "{files}/geant4.h5", "-o", "{tmp}/x.h5"], "more than once"),
        (["tune-parametric", "--reference", "{tmp}/missing.h5", "-o", "{tmp}/t.toml"], "missing.h5"),
        (["tune-parametric", "--reference", "{files}/few.h5", "-o", "{tmp}/t.toml"], "3 showers"),
        (compare(reference="{tmp}/missing.h5"), "missing.h5"),
        (compare(candidate="{tmp}/missing.h5"), "missing.h5"),
        (compare(candidate="{files}"), "{files}"),
        (compare(candidate="{files}/text.h5"), "text.h5"),
        (compare(candidate="{files}/few.h5"), "3"),
        (compare(gates="{files}/gates.toml"), "gates.toml"),
        (compare(gates="{tmp}/missing.toml"), "missing.toml"),
        (compare(json="{tmp}/nowhere/v.json"), "nowhere/v.json"),
        (compare(figures="{files}/text.h5"), "text.h5"),
        (["generate", "--model", "no-such", "-o", "{tmp}/x.h5"], "no-such"),
        (["generate", "--model", "{files}", "-o", "{tmp}/x.h5"], "{files}"),
        (["generate", "--model", "{model}", "--precision", "int4", "-o", "{tmp}/x.h5"], "int4"),
        (["generate", "--model", "{files}/float32", "--precision", "int8", "-o", "{tmp}/x.h5"], "int8"),
        (["generate", "--model", "{model}", "--energy", 5000, "-o", "{tmp}/x.h5"], "5000"),
        (["benchmark", "--model", "{model}", "--precision", "int8,int4"], "int4"),
        (["benchmark", "--model", "no-such"], "no-such"),
        (["compare", "--model", "{model}", "--precision", "int4"], "int4"),
        (["compare", "--model", "{model}", "--reference", "{tmp}/none.h5"], "none.h5"),
        (["serve", "--model", "no-such", "--port", 0], "no-such"),
        (["serve", "--model", "{model}", "--port", 70000], "70000"),
        (["quantize", "--model", "{tmp}/no-such"], "no-such"),
        (["quantize", "--model", "{model}", "--config", "no-such"], "no-such"),
        (["train", "--config", "{files}/gates.toml", "-o", "{tmp}/m"], "gates.toml"),
        (["train", "-o", "{files}/text.h5"], "text.h5"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_unusable_input_is_named_in_one_line(
    arguments: list[object], named: str, run: Run, files: Path, tiny_model: Path, tmp_path: Path
) -> None:
    places = {"tmp": tmp_path, "files": files, "model": tiny_model}
    result = run(*(str(word).format(**places) for word in arguments))
    assert result.code == 2
    assert result.out == ""
    assert re.fullmatch(r"error: .+\n", result.err)
    assert named.format(**places) in result.err
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_is_the_generators(run: Run, tmp_path: Path) -> None:
    largest = SEED_MAX - 1
    assert run(*simulate(out=tmp_path / "x.h5", seed=largest)).code == 0
    assert run(*simulate(out=tmp_path / "x.h5", seed=largest + 1)).code == 2


def test_too_little_memory_is_reported(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 57 TiB")

    monkeypatch.setattr(parametric, "simulate", too_much)
    result = run(*simulate(out=tmp_path / "x.h5"))
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("error: not enough memory (Unable to allocate 57 TiB); ask for fewer")


def test_a_step_that_fails_exits_with_1(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise QuantizationError("no [int8] here")

    monkeypatch.setattr(parametric, "simulate", fail)
    result = run(*simulate(out=tmp_path / "x.h5"))
    assert result.code == 1
    assert result.err.splitlines()[-1] == "error: no [int8] here"


def test_simulate_with_equal_seeds_gives_equal_bytes(run: Run, tmp_path: Path) -> None:
    for name, seed in (("a[b].h5", 3), ("b.h5", 3), ("c.h5", 4)):
        result = run("simulate", "--energy", "2:500", "--n", 20, "--seed", seed, "--out", tmp_path / name)
        assert result.code == 0
        assert f"wrote {tmp_path / name}: 20 showers" in result.err
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a[b].h5", "b.h5", "c.h5"))
    assert a == b != c


def test_simulate_into_a_folder_resumes_after_a_stop(run: Run, tmp_path: Path) -> None:
    arguments = ["simulate", "--n", 20, "--shard-size", 8, "--energy", "2:10", "--out", tmp_path / "p"]
    assert run(*arguments).code == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    assert sorted(whole) == [
        "manifest.json",
        "production.json",
        *(f"showers-{number:05d}.h5" for number in range(3)),
    ]
    (tmp_path / "p" / "showers-00001.h5").unlink()
    result = run(*arguments)
    assert "12 of 20 showers already exist" in result.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()} == whole
    assert run(*arguments, "--seed", 2).code == 2


def test_inspect_shows_a_file_and_tells_problems_by_its_exit(run: Run, files: Path, tmp_path: Path) -> None:
    result = run("inspect", files / "geant4.h5", "--json", tmp_path / "i.json", "--picture", tmp_path / "i.png")
    assert result.code == 0
    assert "clic: 25x25x25 cells in GeV" in result.out
    assert "no problem found" in result.err
    assert json.loads((tmp_path / "i.json").read_text())["showers"] == 200
    assert (tmp_path / "i.png").read_bytes()[:4] == b"\x89PNG"
    events = read_events(files / "few.h5")
    write_events(tmp_path / "bad.h5", Events(0 * events.showers, events.energy))
    result = run("inspect", tmp_path / "bad.h5")
    assert result.code == 1
    assert "problem: 3 of 3 showers hold no energy" in result.err


def test_convert_to_another_format_and_back(run: Run, files: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.h5", tmp_path / "back.h5"
    assert run("convert", files / "geant4.h5", "--format", "calochallenge", "-o", there).code == 0
    with h5py.File(there) as file:
        assert file["showers"].shape == (200, 15625)
        assert file["incident_energies"].shape == (200, 1)
    result = run("convert", there, "-o", back)
    assert "calochallenge: 15625 cells in MeV, layer after layer, 200 showers" in result.err
    first, last = read_events(files / "geant4.h5"), read_events(back)
    np.testing.assert_allclose(last.showers, first.showers, rtol=1e-6)
    np.testing.assert_allclose(last.energy, first.energy, rtol=1e-6)


def test_generate_in_parts_gives_the_bytes_of_one(
    run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("generate", "--model", tiny_model, "--n", 50, "--out", tmp_path / "a.h5").code == 0
    monkeypatch.setattr("calogan.cli.generation._PART", 20)
    assert run("generate", "--model", tiny_model, "--n", 50, "--out", tmp_path / "b.h5").code == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_generate_with_equal_seeds_gives_equal_bytes(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    for name, seed in (("a.h5", 3), ("b.h5", 3), ("c.h5", 4)):
        result = run("generate", "--model", tiny_model, "--n", 20, "--seed", seed, "--out", tmp_path / name)
        assert result.code == 0, result.err
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.h5", "b.h5", "c.h5"))
    assert a == b != c
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["precision"] == "int8"
        assert file.attrs["seed"] == "3"
        assert file.attrs["model_version"] == generator.load(tiny_model, precision="int8").version


def test_what_is_generated_can_be_validated(run: Run, tiny_model: Path, files: Path, tmp_path: Path) -> None:
    showers, report, figures = tmp_path / "showers.h5", tmp_path / "v.json", tmp_path / "figures"
    (tmp_path / "wide.toml").write_text('"physics/composite_mse" = { limit = 1e6 }')
    assert run("generate", "--model", tiny_model, "--n", 100, "-o", showers).code == 0
    command = compare(candidate=showers, gates=tmp_path / "wide.toml", json=report, figures=figures)
    result = run(*(str(word).format(files=files) for word in command))
    assert result.code == 0, result.err
    written = json.loads(report.read_text())
    assert written["gates"]["physics/composite_mse"]["verdict"] == "passed"
    assert written["showers"]["candidate"] == 100
    assert {path.name for path in figures.iterdir()} == {
        "shower_shapes.png",
        "sampling_fraction.png",
        "cell_energy.png",
        "hits_per_layer.png",
        "depth.png",
        "width.png",
    }
    for name in written["metrics"]:
        # What is compared in bins of Ep has a table of its own, without these names.
        in_bins = name.startswith(("physics/spread_", "physics/shift_")) and name.endswith("gev")
        assert in_bins or name in result.out
    assert "…" not in result.out


def test_several_candidates_are_compared_on_one_page(run: Run, files: Path, geant4: Events, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text('"physics/sampling_fraction_shift" = { limit = 0.1 }\n')
    doubled = write_events(tmp_path / "doubled.h5", Events(2 * geant4.showers, geant4.energy))
    command = compare(
        reference=files / "geant4.h5",
        candidate=files / "geant4.h5",
        gates=tmp_path / "g.toml",
        json=tmp_path / "v.json",
    )
    result = run(*command, "--candidate", f"twice={doubled}", "--html", tmp_path / "v.html")
    assert result.code == 3
    assert result.err.splitlines()[-1] == "error: twice: 1 of 1 gates failed: physics/sampling_fraction_shift"
    assert list(json.loads((tmp_path / "v.json").read_text())["candidates"]) == ["geant4", "twice"]
    page = (tmp_path / "v.html").read_text()
    assert "twice" in page
    assert 'http-equiv="Content-Security-Policy"' in page
    assert run(*command, "--candidate", files / "geant4.h5").code == 2


def test_float32_showers_and_seed_are_of_the_candidate_named(
    run: Run, files: Path, geant4: Events, tmp_path: Path
) -> None:
    """The metrics that need float32 showers are measured, and the classifier is that of the seed."""
    other = write_events(tmp_path / "other.h5", Events(1.01 * geant4.showers, geant4.energy))
    (tmp_path / "g.toml").write_text('"physics/sampling_fraction_shift" = { limit = 0.1 }')
    written = []
    for seed in (0, 5):
        command = compare(
            reference=files / "geant4.h5",
            candidate=f"int8={other}",
            float32=f"int8={files / 'geant4.h5'}",
            gates=tmp_path / "g.toml",
            seed=seed,
            json=tmp_path / "v.json",
        )
        result = run(*command, "--candidate", f"alone={other}")
        assert result.code == 0, result.err
        written.append(json.loads((tmp_path / "v.json").read_text())["candidates"])
    int8, alone = (written[1][name] for name in ("int8", "alone"))
    assert int8["metrics"]["physics/pixelwise_relative"]["value"] == pytest.approx(0.01, rel=0.01)
    assert "physics/pixelwise_relative" not in alone["metrics"]
    assert int8["provenance"]["seed"] == "5"
    assert {"geant4.h5", "other.h5"} == json.loads(int8["provenance"]["inputs_sha256"]).keys()
    assert written[0]["int8"]["metrics"] != int8["metrics"]
    result = run(*command, "--float32", "nobody=x.h5")
    assert (result.code, "no candidate is called 'nobody'; there are int8" in result.err) == (2, True)


def test_a_failed_gate_exits_with_3_and_is_named(run: Run, files: Path, geant4: Events, tmp_path: Path) -> None:
    limits = {"physics/sampling_fraction_shift": 0.1, "physics/y_mean_shift": 0.1}
    (tmp_path / "g.toml").write_text("\n".join(f'"{name}" = {{ limit = {limit} }}' for name, limit in limits.items()))
    doubled = write_events(tmp_path / "doubled.h5", Events(2 * geant4.showers, geant4.energy), header={})
    command = compare(candidate=doubled, gates=tmp_path / "g.toml", json=tmp_path / "v.json")
    result = run(*(str(word).format(files=files) for word in command))
    assert result.code == 3
    assert result.err.splitlines()[-1] == "error: 1 of 2 gates failed: physics/sampling_fraction_shift"
    assert (
        json.loads((tmp_path / "v.json").read_text())["gates"]["physics/sampling_fraction_shift"]["verdict"] == "failed"
    )


@pytest.mark.slow
def test_benchmark_times_precisions_and_stores_the_best_setting(
    run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALOGAN_MACHINE", str(tmp_path / "machine.json"))
    options = ["--quick", "--rounds", 1, "--beside", "nothing", "--json", tmp_path / "b", "--figures", tmp_path / "f"]
    result = run("benchmark", "--model", tiny_model, "--precision", "int8", *options)
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "b").read_text())
    assert [row["name"] for row in report["rows"]] == ["tiny float32", "tiny int8"]
    assert json.loads((tmp_path / "machine.json").read_text())["streams"] == report["best"]["streams"]
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"streams.png", "roofline.png"}
    assert "…" not in result.out


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning:mlflow")
def test_compare_lays_precisions_and_runtimes_side_by_side(
    run: Run, tiny_model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    options = ("--precision", "int8, tflite-int8", "--quick", "--rounds", 1, "--gates", "demo", "--mlflow")
    written = ("--json", tmp_path / "c.json", "--html", tmp_path / "c.html")
    result = run("compare", "--model", tiny_model, "--reference", files / "geant4.h5", *options, *written)
    mlflow.set_tracking_uri(None)
    assert result.code == 0, result.err
    assert "tiny against 200 Geant4 showers" in result.out
    summary = json.loads((tmp_path / "c.json").read_text())
    names = ["float32", "int8", "tflite-int8"]
    assert list(summary["precisions"]) == names
    page = (tmp_path / "c.html").read_text()
    for name in names:
        assert name in result.out
        assert name in page
        assert f"MLflow run of {name}: " in result.err


@pytest.mark.slow
def test_training_resumes_and_can_be_quantized(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (tmp_path / "t.toml").write_text(
        'name = "t"\n[network]\nwidth = 8\n[training]\nflow_epochs = 0\nshape_epochs = 1\nadversarial_epochs = 0\n'
        "[data]\ntrain = 0.1\nvalidation = 0.08\ncalibration = 0.06\ntest = 0.76\n[quantization]\ncalibration_showers = 16\n"
    )
    result = run("train", "--config", tmp_path / "t.toml", "-o", model)
    assert result.code == 0, result.err
    assert re.search(r"shape 1/1 .* physics score 0\.\d+", result.err)
    assert "shape 1/1" not in run("train", "--config", tmp_path / "t.toml", "-o", model).err
    result = run("quantize", "--model", model, "--config", tmp_path / "t.toml")
    assert result.code == 0, result.err
    assert result.out == f"{model}\n"
    assert "int8: 4 fused convolutions" in result.err
    assert run("generate", "--model", model, "--n", 2, "-o", tmp_path / "x.h5").code == 0


def test_an_interrupted_simulation_leaves_nothing(tmp_path: Path) -> None:
    # A shell starts background processes with SIGINT ignored, and children inherit that.
    command = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {MAIN}"
    arguments = ["simulate", "--n", "100000", "-o", str(tmp_path / "x.h5")]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped; nothing half-written is left"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def endpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and key that `calogan serve` prints."""
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE} | {"COLUMNS": "40"}
    command = [sys.executable, "-c", MAIN, "serve", "--model", str(tiny_model), "--port", "0"]
    command += ["--productions", str(tmp_path_factory.mktemp("productions"))]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        output = process.stderr.readline() + process.stderr.readline()
        match = re.search(r"key of the endpoint: (\w+) .* (http://\S+)/docs\ncurl .*/v1/showers", output)
        assert match, output
        key, address = match.groups()
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport) as client:
            assert client.get(f"{address}/health").is_success
        yield address, key
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""


def test_what_is_served_is_what_is_generated_here(
    endpoint: tuple[str, str], run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, key = endpoint
    monkeypatch.setenv(KEY_VARIABLE, key)
    options = ["--energy", "2:400", "--n", 30, "--seed", 9, "-o"]
    assert run("generate", "--url", address, *options, tmp_path / "there.h5").code == 0
    assert run("generate", "--model", tiny_model, *options, tmp_path / "here.h5").code == 0
    here, there = read_events(tmp_path / "here.h5"), read_events(tmp_path / "there.h5")
    assert here.showers.tobytes() == there.showers.tobytes()


def test_a_production_that_an_endpoint_makes_is_the_one_made_here(
    endpoint: tuple[str, str], run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, key = endpoint
    monkeypatch.setenv(KEY_VARIABLE, key)
    options = ["--energy", "log:2:400", "--n", 50, "--seed", 9, "--shard-size", 20, "--out"]
    assert run("generate", "--url", address, *options, tmp_path / "there").code == 0
    assert run("generate", "--model", tiny_model, "--workers", 1, *options, tmp_path / "here").code == 0
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "manifest.json"}
        for name in ("here", "there")
    )
    assert sorted(there) == ["production.json", *(f"showers-0000{number}.arrow" for number in range(3))]
    assert here == there
    again = run("generate", "--url", address, *options, tmp_path / "there")
    assert "all 50 showers already exist" in again.err
    listed = httpx.get(f"{address}/v1/productions", headers={"X-API-Key": key}).json()
    assert listed == {"productions": []}


def test_a_wrong_or_missing_key_is_reported(
    endpoint: tuple[str, str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    result = run("generate", "--url", endpoint[0], "-o", tmp_path / "x.h5")
    assert (result.code, KEY_VARIABLE in result.err) == (2, True)
    monkeypatch.setenv(KEY_VARIABLE, "wrong")
    result = run("generate", "--url", endpoint[0], "-o", tmp_path / "x.h5")
    assert (result.code, "refused the key" in result.err) == (4, True)


def test_no_endpoint_exits_with_4(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run("generate", "--url", f"http://127.0.0.1:{port}", "-o", tmp_path / "x.h5")
    assert result.code == 4
    assert result.err.splitlines()[-1].startswith(f"error: http://127.0.0.1:{port} cannot be reached")


def test_a_taken_port_is_reported_before_the_model_is_loaded(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = run("serve", "--model", "no-such", "--port", port)
    assert result.code == 2
    assert f"port {port}" in result.err
