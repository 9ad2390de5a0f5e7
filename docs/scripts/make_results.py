"""Write docs/results.md and its figures: the paper table by table, the packaged models and TFLite beside its values.

The Geant4 showers are those of the package and of --showers, which none of the models was trained with. Run by
`make docs PAGE=results SHOWERS=...`; a quiet machine of two cores takes an hour and a half.
"""

import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from calogan import quiet

quiet.load_tensorflow()

import click
import numpy as np
import published
from pages import physics_table, provenance_section, row, say
from published import ONE_RANGE, TITLES, Measured

from calogan import provenance
from calogan.benchmark import arithmetic, comparison, contenders, geant4_speed
from calogan.benchmark.cores import elapsed_ms, one_core
from calogan.benchmark.peers import loading
from calogan.benchmark.profiling import network_profiles
from calogan.benchmark.speed import Settings
from calogan.benchmark.streams import stream_rates
from calogan.cli.program import run
from calogan.config import Quantization, Validation
from calogan.events import EnergyRange, Events, open_events, packaged_sample
from calogan.generation import freezing, generator, model_folder
from calogan.generation.generator import Generator
from calogan.generation.random_numbers import latent_numbers
from calogan.networks import rewrites
from calogan.quantization.neural_compressor import compress
from calogan.quantization.operations import count_weight_bits
from calogan.reporting import pictures, plots
from calogan.simulation import parametric
from calogan.validation import validate
from calogan.validation.metrics import ENERGY_BINS_GEV, Estimate
from calogan.validation.report import ValidationReport

DOCS = Path(__file__).parents[1]
MODELS = ("rehm2021", "lean")
GENERATED, SEED = 5_000, 2  # about as many showers of each candidate
BINS = [f"{low}_{high}" for low, high in ENERGY_BINS_GEV]
SHOWN = {
    "sampling_fraction_shift": "sampling fraction, relative shift",
    **{f"resolution_shift_{bin_}gev": f"its resolution, relative shift, {bin_.replace('_', '-')} GeV" for bin_ in BINS},
    "worst_layer": "mean energy of the worst layer, relative shift",
    "x_tail_first": "first five cells of the profile along x, relative shift",
    "x_tail_last": "last five cells along x",
    "y_tail_first": "first five cells along y",
    "y_tail_last": "last five cells along y",
    "hits_shift": "hits, relative shift",
    "separation_cell_energy": "separation power, cell energies",
    "frechet_distance": "Frechet physics distance",
    "kernel_distance": "kernel physics distance",
    "coverage": "coverage",
    "layer_correlation": "correlations between layers, mean difference",
    "spread_x_mean": "spread of the centre along x at fixed Ep, worst bin, relative shift",
    "spread_y_std": "spread of the width along y at fixed Ep, worst bin, relative shift",
    "spread_core_share": "spread of the core at fixed Ep, worst bin, relative shift",
    "moment_shifts": "moments in bins of Ep, mean relative shift",
    "auc_high_level": "AUC of boosted trees",
    "jsd_high_level": "Jensen-Shannon divergence of their scores",
    "auc_low_level": "AUC of a convolutional network on cells",
}
NOTES = """\
- float32, bfloat16 and INC int8 are the frozen networks of the model, computed by TensorFlow with oneDNN.
- The other runtimes compute the same weights, converted for batches of a fixed size; features and outputs are float32, as for
  INC int8. The steps before and after the network are the same float32 graphs for all.
- TFLite float16 stores weights in half precision; XNNPACK widens them and computes in float32.
- TFLite int8: weights per channel, activations with zero points; operations without an integer kernel would stay float32.
- ONNX Runtime (static quantization, QDQ) and OpenVINO (NNCF's defaults) are columns where the extra `peers` is installed.
- Other runtimes and `one range` were calibrated with energies drawn flat over the range of the model, and no Geant4 shower.
- AUCs are those of equal numbers of showers, for the candidates and for the floor: half of the Geant4 showers, and as many of the
  other sample; see [metrics](metrics.md).
- The network alone is timed from features in memory to outputs in memory; a whole call starts with random numbers. The whole
  call of another runtime leaves TensorFlow for its network and returns: two more TensorFlow calls."""


@click.command()
@click.option("--showers", multiple=True, help="More Geant4 showers that no model has seen: file, folder or pattern.")
@click.option("--first", type=click.IntRange(60), help="Try the page: only so many showers, fewest rounds.")
@click.option("--folder", type=click.Path(path_type=Path), default=DOCS, help="Where to write results.md and figures/.")
def main(showers: tuple[str, ...], first: int | None, folder: Path) -> None:
    """Measure and write the page."""
    source = open_events((str(packaged_sample()), *showers))
    reference = source[: first or len(source)]
    draws = 1 if first else max(1, round(GENERATED / len(reference)))
    validation = Validation(draws=draws, cell_trainings=1 if first else 2)
    rounds, geant4_showers = (1, 3) if first else (7, 40)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    models = {name: _measure(name, reference, source.paths, validation, rounds) for name in MODELS}
    for name, measured in models.items():
        _draw(name, measured, folder / "figures")
    say("judging the parametrised simulation")
    energy = np.repeat(reference.energy, draws)
    simulated = parametric.simulate(energy, seed=SEED)
    baseline = validate.validate(reference, simulated, floor=False, thorough=True)
    times = _time_families(rounds)
    seconds = _geant4_seconds(geant4_showers)
    lines = [
        *_introduction(reference, showers, draws, models),
        *published.table_1(models),
        *published.figure_4(models),
        *published.table_2(models),
        *published.memory(models),
        *published.table_3(models),
        *published.figures_5_and_6(models),
        *published.tables_4_and_5(models),
        *published.sampling_fraction(models, BINS),
        *published.conv3d(_arithmetic(), times, *arithmetic.NETWORKS),
        *published.over_geant4(models, seconds, geant4_showers),
        *published.claim(models),
        *_more(models, baseline),
        f"`lean` in int8 generates {_times_the_parametrised(rounds):.1f} showers in the time of one from the parametrised simulation, flat in Ep.",
        "",
        "## What is compared",
        "",
        NOTES,
        "",
        *provenance_section(provenance.header(seed=SEED, inputs=source.paths)),
    ]
    (folder / "results.md").write_text("\n".join(lines), encoding="utf-8")
    say(f"wrote {folder / 'results.md'}")


def _measure(name: str, reference: Events, paths: tuple[Path, ...], validation: Validation, rounds: int) -> Measured:
    folder = model_folder.find(name)
    with tempfile.TemporaryDirectory() as scratch:
        others = {}
        if model_folder.read(folder).energy_bands:
            say(f"{name}: quantizing with one range")
            others[ONE_RANGE] = _one_range(folder, Path(scratch))
        compared = comparison.compare_precisions(
            folder,
            ("float32", "bfloat16", "int8", *loading.installed()),
            reference,
            validation=validation,
            rounds=rounds,
            others=others,
            inputs=paths,
            progress=lambda line: say(f"{name}: {line}"),
        )
    say(f"{name}: comparing int8 with float32")
    energy = np.repeat(reference.energy, validation.draws)
    # With the same random numbers, a classifier would see nearly the same showers in both samples.
    two = [
        generator.load(folder, precision=precision, threads=2).sample(energy, seed=SEED + number)
        for number, precision in enumerate(("float32", "int8"))
    ]
    separable = validate.validate(*two, floor=False).metrics["physics/auc_high_level"]
    say(f"{name}: timing operations")
    profiles = network_profiles(folder)
    say(f"{name}: streams and threads")
    settings = Settings(rounds=min(rounds, 3), batches=(generator.BATCH,))
    both = [each for each in contenders.of_model(folder, ("int8",)) if each.precision in ("float32", "int8")]
    streams: dict[str, dict[tuple[int, int], float]] = {each.precision: {} for each in both}
    for rate in stream_rates(both, settings):
        precision = rate.name.rpartition(" ")[2]
        streams[precision][rate.streams, rate.threads] = rate.showers_per_s.median
    return Measured(compared, profiles, streams, separable)


def _one_range(folder: Path, target: Path) -> Generator:
    """The model in int8 as Neural Compressor makes it without bands of energy, calibrated as the other runtimes are."""
    description = model_folder.read(folder)
    model = freezing.load_generator_network(folder, description)
    config = Quantization()
    energy = EnergyRange(*description.energy_range).draw(config.calibration_showers, 0)
    features, _ = model.prepare(energy, latent_numbers(len(energy), seed=0, model=description))
    network = compress(rewrites.lower(model.network, integer=True), np.asarray(features, np.float32), config)
    content, bits = network.SerializeToString(deterministic=True), count_weight_bits(network)
    model_folder.replace_network(
        folder, description, content, config.model_dump(mode="json"), weight_bits=bits, target=target
    )
    return generator.load(target, precision="int8")


def _draw(name: str, measured: Measured, folder: Path) -> None:
    reports = {TITLES[each]: measured.reports[each] for each in published.PRINTED}
    figures = {
        "profiles": plots.published_profiles(reports, reference_name="Geant4"),
        "sampling_fraction": plots.sampling_fraction(reports, reference_name="Geant4"),
        "cell_energy": plots.cell_energy(reports, reference_name="Geant4"),
        "streams": pictures.stream_rates({TITLES[each]: rates for each, rates in measured.streams.items()}),
    }
    for title, figure in figures.items():
        pictures.save(figure, folder / f"{name}_{title}.png")


def _time_families(rounds: int) -> dict[str, dict[str, float]]:
    """Conv3D against Conv2D by batch and library."""
    batches = (1, 8) if rounds == 1 else (1, 16, published.BATCH)
    times = {}
    for batch, onednn in [*((batch, True) for batch in batches), (batches[-1], False)]:
        library = "oneDNN" if onednn else "Eigen, without oneDNN"
        say(f"Conv3D against Conv2D: batch {batch}, {library}")
        times[f"batch {batch}, {library}"] = arithmetic.time_families(batch, rounds=min(rounds, 3), onednn=onednn)
    return times


def _arithmetic() -> dict[str, int]:
    return {name: arithmetic.multiply_adds(make()) for name, make in arithmetic.MAKERS.items()}


def _geant4_seconds(showers: int) -> float:
    """CPU seconds of a Geant4 shower on one core, flat in Ep, without the start of Geant4."""
    say(f"timing {showers} Geant4 showers")
    return geant4_speed.measure(showers).cpu_s


def _times_the_parametrised(rounds: int) -> float:
    """Speed of `lean` in int8 relative to the parametrised simulation, flat in Ep, interleaved on one core."""
    network = generator.load("lean", precision="int8")
    energy = network.energy_range.draw(512, SEED)
    with one_core():
        ratios = [
            elapsed_ms(partial(parametric.simulate, energy, seed=SEED))
            / elapsed_ms(partial(network.sample, energy, seed=SEED))
            for _ in range(rounds + 1)
        ]
    return float(np.median(ratios[1:]))


def _introduction(reference: Events, showers: tuple[str, ...], draws: int, models: Mapping[str, Measured]) -> list[str]:
    timed = next(iter(models.values())).comparison.timed
    seeds = [
        json.loads(path.read_text())["seed"] for name in showers if (path := Path(name) / "production.json").is_file()
    ]
    made = f" and of `calogan simulate --engine geant4` with seed {', '.join(map(str, seeds))}" if seeds else ""
    return [
        "# Results",
        "",
        "Generated by `make docs PAGE=results`; do not edit.",
        "",
        "The tables and figures of Rehm et al. 2021 (arXiv 2103.10142) and of its slides in their order, printed values beside ours:",
        "`rehm2021` is the published network with the trained weights of this package, `lean` its own network. The conditions differ:",
        "there 200,000 showers of the CLIC detector simulation for training, a node of two Xeon 8280, TensorFlow 2.3 and the predecessor",
        f"of Neural Compressor; here {timed.header['cpu_model']} ({timed.header['cpu_isa']}). So ratios can be compared, but not times.",
        "",
        f"Physics: {len(reference):,} Geant4 showers of the package{made}, which no model was trained, selected or calibrated with, against",
        f"{draws * len(reference):,} showers of each candidate at the same energies and with the same random numbers. The design of `lean` was",
        "chosen with those of the package, so its results may be slightly optimistic. Errors are one standard deviation, by bootstrap",
        f"over showers. Speed: one core, medians of {timed.rounds} interleaved rounds; ratios are to float32 in the same round.",
        "",
    ]


def _more(models: Mapping[str, Measured], baseline: ValidationReport) -> list[str]:
    lines = [
        "## Beyond the paper",
        "",
        "The floor is Geant4 against Geant4, two disjoint halves of the sample. The gates are those of [physics](physics.md).",
        "",
    ]
    for model, measured in models.items():
        reports = {**measured.reports, "parametrised": baseline}
        lines += [
            f"### `{model}`",
            "",
            *physics_table(reports, SHOWN, [TITLES.get(name, name) for name in reports]),
            *_operation_counts(measured),
            "",
            f"Boosted trees distinguish INC int8 from float32, with other random numbers, with an AUC of {_text(measured.separable)}.",
            "",
            f"![cell energies of {model}](figures/{model}_cell_energy.png)",
            "",
        ]
    return lines


def _operation_counts(measured: Measured) -> list[str]:
    counted = {name: timing.operations for name, timing in measured.comparison.timed.timings.items()}
    integer = {name: each.integer_convolutions + each.integer_products for name, each in counted.items()}
    rows = {
        "int8 operations": {name: str(number) for name, number in integer.items()},
        "float operations": {name: str(each.float_arithmetic) for name, each in counted.items()},
    }
    names = [*measured.reports, "parametrised"]
    return [row(title, ["", *(cells.get(name, "") for name in names)]) for title, cells in rows.items()]


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.error:.3f}"


if __name__ == "__main__":
    run(main)
