"""Write docs/comparators.md: int8 in TensorFlow compared with the same network in TFLite, ONNX Runtime and OpenVINO.

Physics and speed of all of them in one table, with the quantities of tables 1, 3, 4 and 5 of arXiv 2103.10142. The
reference is not used for calibration, which needs only energies, and these are drawn at random. Run by
`make docs PAGE=comparators`.
"""

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path

from calogan import quiet

quiet.load_tensorflow()

import click
import numpy as np
import pages

from calogan import provenance
from calogan.benchmark.peers import loading
from calogan.benchmark.peers.loading import compare_speed
from calogan.benchmark.precisions import BenchmarkReport
from calogan.events import Events, packaged_sample, read_events
from calogan.generation import generator, model_folder
from calogan.generation.generator import Generator
from calogan.reporting.html import write_html
from calogan.simulation import parametric
from calogan.validation import validate
from calogan.validation.report import ValidationReport

PAGE = Path(__file__).parents[1] / "comparators.md"
DRAWS, SEED = 5, 2
OWN = {"float32": "float32", "bfloat16": "bfloat16", "int8": "INC int8"}  # precisions of the model, by their titles
PACKAGES = ("tensorflow", "neural-compressor-tf", "onnxruntime", "tf2onnx", "openvino", "nncf")
PHYSICS = {
    "y_mean": "table 3: mean y (cells)",
    "y_std": "table 3: std y (cells)",
    "z_mean": "table 3: mean z (layers)",
    "z_std": "table 3: std z (layers)",
    "composite_mse": "table 4: composite MSE",
    "pixelwise_mean": "table 5: pixel-wise mean",
    "pixelwise_std": "table 5: pixel-wise std",
    "pixelwise_relative": "pixel-wise, share of ECAL",
    "sampling_fraction_shift": "sampling fraction, relative shift",
    "x_tail_first": "first five cells along x, relative shift",
    "x_tail_last": "last five cells along x",
    "y_tail_first": "first five cells along y",
    "y_tail_last": "last five cells along y",
    "hits_shift": "hits, relative shift",
    "auc_high_level": "AUC of boosted trees",
}
NOTES = """\
- float32, bfloat16 and INC int8 are the frozen networks of the model, computed by TensorFlow with oneDNN.
- Comparators are converted from its weights, for batches of a fixed size; features and outputs are float32, as for INC int8.
- TFLite float16 stores weights in half precision; XNNPACK widens them and computes in float32.
- TFLite int8: weights per channel, activations with zero points; operations without an integer kernel would stay float32.
- ONNX Runtime int8: its static quantization, QDQ, weights per channel int8, activations uint8.
- OpenVINO int8: NNCF's defaults, with fast bias correction; operations that are not quantized run in float32.
- The network alone is timed from features in memory to outputs in memory. ONNX Runtime copies its outputs once, TFLite and
  OpenVINO return their own memory.
- The whole call of a comparator leaves TensorFlow for its network and returns: two more TensorFlow calls.
- Int8 operations are convolutions and matrix products; float operations are those left in float32 or bfloat16."""


@click.command()
@click.option("--model", default="lean", show_default=True, help="Packaged name or folder.")
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Interleaved rounds of timing.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the comparison as one HTML file too.")
def main(model: str, rounds: int, html: Path | None) -> None:
    """Measure and write the page."""
    folder = model_folder.find(model)
    offered = model_folder.read(folder).network_files
    samplers: dict[str, Generator] = {
        title: generator.load(folder, precision=precision) for precision, title in OWN.items() if precision in offered
    }
    for kind in loading.installed():
        say(f"converting to {kind}")
        samplers[kind] = loading.load(folder, kind)
    timed = compare_speed(folder, samplers, rounds=rounds, progress=lambda: say("timed a round"))
    reports = judge(samplers)
    PAGE.write_text(page(reports, timed), encoding="utf-8")
    if html:
        speed = {
            name: {"core-ms per shower": timing.ms_per_shower, "network, core-ms": timing.network_ms_per_shower}
            for name, timing in timed.timings.items()
        }
        title = f"Model {timed.model} in several runtimes"
        write_html(html, reports, title=title, speed=speed)


def judge(samplers: Mapping[str, Generator]) -> dict[str, ValidationReport]:
    """Compare each with the packaged sample, and the parametrised simulation too."""
    reference = read_events(packaged_sample())
    energy = np.repeat(reference.energy, DRAWS)
    float32 = samplers["float32"].sample(energy, seed=SEED)
    reports = {"parametrised": _judge("parametrised", reference, parametric.simulate(energy, seed=SEED), None)}
    for name, sampler in samplers.items():
        reports[name] = _judge(name, reference, sampler.sample(energy, seed=SEED), float32)
    return reports


def _judge(name: str, reference: Events, candidate: Events, float32: Events | None) -> ValidationReport:
    say(f"judging {name}")
    inputs = (packaged_sample(),)
    return validate.validate(reference, candidate, float32=float32, floor=name == "float32", inputs=inputs)


def page(reports: Mapping[str, ValidationReport], timed: BenchmarkReport) -> str:
    """The page as Markdown."""
    names = list(reports)
    showers = reports["float32"].showers
    lines = [
        "# Comparators of int8",
        "",
        "Generated by `make docs PAGE=comparators`; do not edit.",
        "",
        f"The network of `{timed.model}` in several runtimes, and the parametrised simulation. The steps before and after the",
        "network are the same float32 graphs for all. Table numbers are those of Rehm et al. 2021, arXiv 2103.10142.",
        "",
        f"Physics: {showers['reference']} Geant4 showers of the packaged sample against {showers['candidate']} of each candidate at the same",
        "energies and with the same random numbers. The comparators were calibrated with energies drawn flat over the range",
        "of the model, and with no Geant4 shower. The model card describes how the sample influenced the model. The floor is",
        "Geant4 against Geant4, two disjoint halves. Errors are one standard deviation, by bootstrap over showers.",
        "",
        f"Speed: one thread pinned to one core of {timed.header['cpu_model']} ({timed.header['cpu_isa']}), batches of",
        f"{timed.batch_size}, medians of {timed.rounds} interleaved rounds; ratios are to float32 in the same round. Only ratios carry over to",
        "another machine.",
        "",
        *pages.header_row(reports),
        *_speed_rows(names, timed),
        *pages.physics_rows(reports, PHYSICS),
        "",
        "## What is compared",
        "",
        NOTES,
        "",
        *pages.provenance_section(provenance.header(seed=SEED, inputs=(packaged_sample(),)) | _versions()),
    ]
    return "\n".join(lines)


def _speed_rows(names: list[str], timed: BenchmarkReport) -> list[str]:
    rows: dict[str, list[str]] = {}
    for name in names:
        timing = timed.timings.get(name)
        cells = {
            "table 1: network alone, core-ms per shower": timing and f"{timing.network_ms_per_shower:.3f}",
            "table 1: network alone, times faster": timing and f"{timing.network_speedup:.2f}",
            "whole call, core-ms per shower": timing
            and f"{timing.ms_per_shower:.3f} ± {timing.ms_per_shower_error:.3f}",
            "whole call, times faster": timing and f"{timing.speedup:.2f}",
            "network, MB": timing and f"{timing.size_mb:.2f}",
            "int8 operations": timing
            and str(timing.operations.integer_convolutions + timing.operations.integer_products),
            "float operations": timing and str(timing.operations.float_arithmetic),
        }
        for title, cell in cells.items():
            rows.setdefault(title, [""]).append(cell or "")
    return [f"| {title} | {' | '.join(cells)} |" for title, cells in rows.items()]


def _versions() -> dict[str, str]:
    installed = {package.metadata["Name"].lower().replace("_", "-") for package in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
