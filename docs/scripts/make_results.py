"""Write docs/results.md and published.md: the packaged model in every precision and the parametrised simulation.

The reference is the packaged sample. It was not used for the weights, the choice of the epoch and the calibration of
the packaged model, but for its design. Run by `make docs PAGE=results`.
"""

import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from calogan import quiet

quiet.load_tensorflow()

import click
import numpy as np
import pages
import published

from calogan import provenance
from calogan.benchmark.cores import elapsed_ms, one_core
from calogan.benchmark.precisions import BenchmarkReport, benchmark
from calogan.config import Benchmark
from calogan.events import Events, packaged_sample, read_events
from calogan.generation import generator
from calogan.reporting import plots
from calogan.reporting.tables import number
from calogan.simulation import parametric
from calogan.validation import validate
from calogan.validation.report import ValidationReport

FOLDER = Path(__file__).parents[1]
DRAWS, SEED = 5, 2
SHOWN = {
    "sampling_fraction_shift": "sampling fraction, relative shift",
    **{
        f"{name}_{energies}gev": f"{title}, {energies.replace('_', '-')} GeV"
        for name, title in (
            ("sampling_fraction_shift", "its shift"),
            ("resolution_shift", "relative shift of its resolution"),
        )
        for energies in ("2_50", "50_150", "150_300", "300_500")
    },
    "worst_layer": "mean energy of the worst layer, relative shift",
    "x_tail_first": "first five cells of the profile along x, relative shift",
    "x_tail_last": "last five cells along x",
    "y_tail_first": "first five cells along y",
    "y_tail_last": "last five cells along y",
    "y_mean": "mean y (cells)",
    "y_std": "std y (cells)",
    "z_mean": "mean z (layers)",
    "z_std": "std z (layers)",
    "composite_mse": "composite MSE",
    "pixelwise_relative": "pixel-wise difference from float32, share of ECAL",
    "hits_shift": "hits, relative shift",
    "separation_cell_energy": "separation power, cell energies",
    "frechet_distance": "Frechet physics distance",
    "kernel_distance": "kernel physics distance",
    "coverage": "coverage",
    "layer_correlation": "correlations between layers, mean difference",
    "width_fluctuation": "shower-to-shower spread of the width, relative shift",
    "moment_shifts": "moments in bins of Ep, mean relative shift",
    "auc_high_level": "AUC of boosted trees on 189 observables",
    "auc_high_level_repeated": "the same, five trainings on 60 %",
    "jsd_high_level": "Jensen-Shannon divergence of their scores",
    "auc_low_level": "AUC of a convolutional network on cells",
}
PAIRED = {
    "sampling_fraction_shift",
    "worst_layer",
    "x_tail_first",
    "x_tail_last",
    "y_tail_first",
    "y_tail_last",
    "hits_shift",
}


@click.command()
@click.option("--model", default="lean", show_default=True, help="Packaged name or folder.")
def main(model: str) -> None:
    """Measure and write the page."""
    reference = read_events(packaged_sample())
    energy = np.repeat(reference.energy, DRAWS)
    candidates = {"parametrised": parametric.simulate(energy, seed=SEED)}
    for precision in ("float32", "bfloat16", "float16", "int8"):
        candidates[precision] = generator.load(model, precision=precision, threads=2).sample(energy, seed=SEED)
        print(f"generated {precision}", file=sys.stderr)
    reports = {name: _validated(reference, events, candidates["float32"], name) for name, events in candidates.items()}
    timed = benchmark(model, ["bfloat16", "float16", "int8"], Benchmark(repetitions=9))
    (FOLDER / "figures").mkdir(exist_ok=True)
    plots.save_figures(reports, FOLDER / "figures")
    ratio = _times_the_parametrised(model)
    beside = _beside_float32(candidates["float32"], candidates["int8"], model)
    header = provenance.header(seed=SEED, inputs=(packaged_sample(),))
    source = pages.provenance_section(header)
    (FOLDER / "results.md").write_text("\n".join([*_page(reports, timed, ratio, beside), *source]), encoding="utf-8")
    (FOLDER / "published.md").write_text("\n".join([*published.page(reports, timed), *source]), encoding="utf-8")


def _times_the_parametrised(model: str) -> float:
    """Speed of int8 relative to the parametrised simulation, flat in Ep, interleaved on one core."""
    network = generator.load(model, precision="int8")
    energy = network.energy_range.draw(512, SEED)
    with one_core():
        rounds = [
            elapsed_ms(partial(parametric.simulate, energy, seed=SEED))
            / elapsed_ms(partial(network.sample, energy, seed=SEED))
            for _ in range(6)
        ]
    return statistics.median(rounds[1:])


def _beside_float32(float32: Events, int8: Events, model: str) -> list[str]:
    """Lines about the effect of quantization alone."""
    print("comparing int8 with float32", file=sys.stderr)
    # With the same random numbers, a classifier would see nearly the same showers in both samples.
    other = generator.load(model, precision="float32", threads=2).sample(float32.energy, seed=SEED + 1)
    independent = validate.validate(other, int8, floor=False).metrics
    paired = validate.validate(float32, int8, floor=False).metrics
    shown = {name: title for name, title in SHOWN.items() if name in PAIRED}
    return [
        "## int8 compared with float32 of the same model",
        "",
        "With the same energies and random numbers in both, so that only quantization makes a difference:",
        "",
        "| metric | int8 against float32 |",
        "|---|---|",
        *(f"| {title} | {paired[f'physics/{name}'].value:.1e} |" for name, title in shown.items()),
        "",
        f"Boosted trees distinguish {len(int8)} int8 showers from as many float32 ones, with different random numbers, with an AUC of",
        f"{number(independent['physics/auc_high_level'])}.",
        "",
    ]


def _validated(reference: Events, candidate: Events, float32: Events, name: str) -> ValidationReport:
    print(f"judging {name}", file=sys.stderr)
    network = name != "parametrised"
    return validate.validate(
        reference,
        candidate,
        float32=float32 if network else None,
        floor=name == "float32",
        thorough=True,
        cell_trainings=5 if name in {"parametrised", "float32", "int8"} else 0,
    )


def _page(
    reports: Mapping[str, ValidationReport], timed: BenchmarkReport, ratio: float, beside: list[str]
) -> list[str]:
    numbers = reports["float32"].showers
    lines = [
        "# Results",
        "",
        "Generated by `make docs PAGE=results`; do not edit.",
        "",
        f"Model `{timed.model}`, {numbers['reference']} Geant4 showers of the packaged sample against {numbers['candidate']} showers of each",
        "candidate at the same energies. These showers were not used for the weights, the choice of the epoch and the int8",
        "calibration of the model, but for its design: settings of the flow, the coupling of neighbours and the comparison of",
        "variants. So the results may be slightly optimistic. The floor is Geant4 against Geant4,",
        "two disjoint halves of the sample. Errors are one standard deviation, by bootstrap over showers.",
        "",
        *pages.header_row(reports),
        *pages.physics_rows(reports, SHOWN),
    ]
    lines += [
        "",
        "![shower shapes](figures/shower_shapes.png)",
        "![sampling fraction](figures/sampling_fraction.png)",
        "![cell energies](figures/cell_energy.png)",
        "",
        *beside,
        "## Speed",
        "",
        f"One core of {timed.header['cpu_model']} ({timed.header['cpu_isa']}), {timed.rounds} interleaved rounds. Only ratios carry over to another machine.",
        "",
        "| precision | core-ms per shower, all included | ratio | network alone, core-ms | ratio | network, MB | int8 convolutions | float operations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, timing in timed.timings.items():
        counted = timing.operations
        lines.append(
            f"| {name} | {timing.ms_per_shower:.3f} ± {timing.ms_per_shower_error:.3f} | {timing.speedup:.2f} | "
            f"{timing.network_ms_per_shower:.3f} | {timing.network_speedup:.2f} | {timing.size_mb:.2f} | "
            f"{counted.integer_convolutions} | {counted.float_arithmetic} |"
        )
    return [
        *lines,
        "",
        f"int8 generates {ratio:.1f} showers in the time of one from the parametrised simulation, flat in Ep.",
        "",
    ]


if __name__ == "__main__":
    main()
