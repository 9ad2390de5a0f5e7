"""Write docs/families.md: the generator families, trained on the same showers, against Geant4. Run by `make docs PAGE=families`."""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from calogan import quiet

quiet.load_tensorflow()

import click
import numpy as np
import pages

from calogan import provenance, steps
from calogan.benchmark.cores import elapsed_ms, one_core
from calogan.config import Config, Data, Network, Quantization, Training
from calogan.events import packaged_sample, read_events
from calogan.generation import generator
from calogan.generation.generator import Generator
from calogan.quantization import quantize
from calogan.simulation import parametric
from calogan.training.loop import Epoch
from calogan.validation import validate
from calogan.validation.report import ValidationReport

PAGE = Path(__file__).parents[1] / "families.md"
DRAWS, SEED, ROUNDS = 3, 2, 5
SPLITS = {"train": 0.86, "validation": 0.07, "calibration": 0.05, "test": 0.02}  # the packaged sample is the reference
TRAININGS = {
    # Small batches, because on a few cores the published networks lack training steps.
    "conv3d": Training(
        distance_epochs=6, warmup_epochs=0, adversarial_epochs=0, batch_size=8, shape_rate=1e-3, score_every=3
    ),
    "rehm2021": Training(
        distance_epochs=4, warmup_epochs=0, adversarial_epochs=0, batch_size=8, shape_rate=1e-3, score_every=2
    ),
    "lean": Training(pretraining_epochs=6, flow_epochs=20, warmup_epochs=0, adversarial_epochs=0),
}
PRECISIONS = {"conv3d": ("float32",), "rehm2021": ("float32", "int8"), "lean": ("float32", "int8")}
METRICS = {
    "sampling_fraction_shift": "sampling fraction, relative shift",
    "resolution_shift_150_300gev": "relative shift of its resolution, 150-300 GeV",
    "worst_layer": "mean energy of the worst layer, relative shift",
    "x_tail_first": "first five cells of the profile along x, relative shift",
    "y_tail_last": "last five cells along y",
    "y_std": "std y (cells)",
    "z_mean": "mean z (layers)",
    "z_std": "std z (layers)",
    "composite_mse": "composite MSE",
    "hits_shift": "hits, relative shift",
    "separation_cell_energy": "separation power, cell energies",
    "frechet_distance": "Frechet physics distance",
    "kernel_distance": "kernel physics distance",
    "coverage": "coverage",
    "width_fluctuation": "shower-to-shower spread of the width, relative shift",
    "auc_high_level": "AUC of boosted trees on 189 observables",
    "auc_low_level": "AUC of a convolutional network on cells",
}


@click.command()
@click.option(
    "--showers", type=click.Path(path_type=Path, exists=True), required=True, help="Geant4 showers to train on."
)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(".families"), show_default=True, help="Folder of models."
)
def main(showers: Path, folder: Path) -> None:
    """Train missing families, compare all with the packaged sample, write the page."""
    data = Data(path=str(showers.resolve()), **SPLITS)
    spent = {family: _trained(family, data, folder / family) for family in TRAININGS}
    samplers = {
        f"{family} {precision}": generator.load(folder / family, precision=precision)
        for family, precisions in PRECISIONS.items()
        for precision in precisions
    }
    inputs = (showers.resolve(), packaged_sample())
    PAGE.write_text(_page(_judge(samplers), _speeds(samplers), spent, inputs), encoding="utf-8")


def _trained(family: str, data: Data, folder: Path) -> dict[str, float]:
    """Train and quantize a family unless that is already done; returns minutes, epochs and showers."""
    config = Config(name=f"calogan-{family}", data=data, network=Network(family=family), training=TRAININGS[family])
    trained = steps.train_model(config, folder, on_epoch=partial(_say_epoch, family))
    if "int8" in PRECISIONS[family]:
        # The last layer of the published network outputs cells from 1e-6 to 1 GeV, for which 8 bits do not suffice.
        names = quantize.operation_names(folder)[-1:] if family == "rehm2021" else ()
        steps.quantize_model(config.model_copy(update={"quantization": Quantization(keep_float32=names)}), folder)
    return {
        "minutes": sum(epoch.seconds for epoch in trained.history) / 60,
        "epochs": len(trained.history),
        "best": trained.best.number + 1,
        "showers": len(steps.open_splits(config)["train"]),
    }


def _judge(samplers: Mapping[str, Generator]) -> dict[str, ValidationReport]:
    """Compare everything with the packaged sample."""
    reference = read_events(packaged_sample())
    energy = np.repeat(reference.energy, DRAWS)
    candidates = {"parametrised": partial(parametric.simulate, energy, seed=SEED)}
    candidates |= {name: partial(sampler.sample, energy, seed=SEED) for name, sampler in samplers.items()}
    reports = {}
    for name, draw in candidates.items():
        _say(f"judging {name}")
        reports[name] = validate.validate(
            reference, draw(), floor=name == "parametrised", thorough=True, cell_trainings=2
        )
    return reports


def _speeds(samplers: Mapping[str, Generator]) -> dict[str, float]:
    """Core-ms for a shower, everything included: median of interleaved rounds on one core."""
    energy = next(iter(samplers.values())).energy_range.draw(generator.BATCH, SEED)
    calls = {name: partial(sampler.sample, energy, seed=SEED) for name, sampler in samplers.items()}
    calls["parametrised"] = partial(parametric.simulate, energy, seed=SEED)
    with one_core():
        rounds = [{name: elapsed_ms(call) / len(energy) for name, call in calls.items()} for _ in range(ROUNDS + 1)]
    return {name: float(np.median([spent[name] for spent in rounds[1:]])) for name in calls}


def _page(
    reports: Mapping[str, ValidationReport],
    speeds: Mapping[str, float],
    spent: Mapping[str, Mapping[str, float]],
    inputs: tuple[Path, ...],
) -> str:
    numbers = reports["parametrised"].showers
    header = provenance.header(seed=SEED, inputs=inputs)
    lines = [
        "# Families of generators",
        "",
        "Generated by `make docs PAGE=families SHOWERS=...`; do not edit.",
        "",
        f"All families were trained on the same {spent['lean']['showers']:.0f} Geant4 showers, on one core, and are compared with the",
        f"{numbers['reference']} Geant4 showers of the packaged sample, which none of them has seen, with {numbers['candidate']} showers of each. `lean` is trained",
        "by likelihood, the published networks by the energy score ([training.md](training.md)): their adversarial recipe takes",
        "days on two cores. The comparison shows what a family achieves with little computing, not what it could achieve. The packaged",
        "`lean` was trained with more showers: [results.md](results.md). The floor is Geant4 against Geant4, two disjoint",
        "halves. Errors are one standard deviation, by bootstrap over showers.",
        "",
        *pages.header_row(reports),
        *pages.physics_rows(reports, METRICS, floor="parametrised"),
        "| core-ms per shower, all included | | " + " | ".join(f"{speeds[name]:.3g}" for name in reports) + " |",
        "",
        "| family | minutes of training | epochs | best epoch |",
        "|---|---|---|---|",
        *(
            f"| {name} | {cost['minutes']:.0f} | {cost['epochs']:.0f} | {cost['best']:.0f} |"
            for name, cost in spent.items()
        ),
        "",
        f"Speed: one core of {header['cpu_model']} ({header['cpu_isa']}), flat in Ep, medians of {ROUNDS} interleaved rounds.",
        "",
        *pages.provenance_section(header),
    ]
    return "\n".join(lines)


def _say_epoch(family: str, epoch: Epoch) -> None:
    score = "" if epoch.score is None else f"  physics score {epoch.score:.2g}"
    _say(
        f"{family} {epoch.number + 1}/{epoch.of} {epoch.stage} {epoch.seconds:.0f} s {json.dumps(dict(epoch.losses))}{score}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
