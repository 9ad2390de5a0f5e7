"""The benchmark of a machine: contenders, arrangements, growth and roofline in one run."""

import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from calogan import machine, provenance
from calogan.benchmark import contenders, geant4_speed, growth, outputs, roofline, speed, streams
from calogan.benchmark.contenders import Contender
from calogan.benchmark.geant4_speed import Geant4Speed
from calogan.benchmark.peers import loading
from calogan.benchmark.speed import Row, Settings
from calogan.benchmark.speed_report import SpeedReport
from calogan.errors import SimulationError
from calogan.events import open_events, packaged_sample
from calogan.generation import model_folder

BESIDE = ("geant4", "parametric", "peers", "rehm2021", "conv3d")
PARTS = ("streams", "growth", "roofline")

Progress = Callable[[str], None]


def measure(
    model: Path,
    precisions: Sequence[str],
    settings: Settings,
    *,
    beside: Collection[str] = BESIDE,
    parts: Collection[str] = PARTS,
    progress: Progress = lambda _: None,
) -> SpeedReport:
    """Measure a model, and other ways to make showers beside it, in one run.

    Args:
        model: folder of the model.
        precisions: its precisions; float32 is added.
        settings: number of rounds and so on.
        beside: some of `BESIDE`; other runtimes and Geant4 are left out where they are not installed.
        parts: some of `PARTS`: arrangements of streams and threads, growth with the number of showers, roofline.
        progress: called with a line before each step.

    Raises:
        ServiceError: a stream ended early.
        GateError: the showers of a contender are wrong.
        ModelError: there is no such precision.
    """
    description = model_folder.read(model)
    for precision in precisions:
        model_folder.check_files(model, description, precision)
    reference = open_events(packaged_sample())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        groups = _groups(model, precisions, beside, Path(scratch))
        for group in groups:
            check = partial(outputs.check, reference=reference, showers=settings.checked)
            rows += speed.measure(group, settings, check=check, progress=progress)
        geant4 = _geant4(settings, progress) if "geant4" in beside else None
        own = [each for each in groups[0] if each.own_precision]
        chosen = [each for each in own if each.precision in (contenders.BASELINE, own[-1].precision)]
        rates = streams.stream_rates(chosen, settings, progress=progress) if "streams" in parts else []
        grown = []
        if "growth" in parts:
            progress(f"{chosen[-1].name}: up to {settings.growth:,} showers in a row")
            grown = growth.measure(chosen[-1], settings.growth)
        limits = None
        if "roofline" in parts:
            progress("the limits of a core")
            limits = roofline.measure(rows)
    last = [rate for rate in rates if rate.name == chosen[-1].name]
    return SpeedReport(
        model=description.name,
        rows=rows,
        geant4=geant4,
        rates=rates,
        best=streams.best(last) if last else None,
        growth=grown,
        roofline=limits,
        settings=settings,
        header=provenance.header() | {"cores": str(len(os.sched_getaffinity(0)))},
    )


def steps(model: Path, precisions: Sequence[str], settings: Settings, *, beside: Collection[str] = BESIDE) -> int:
    """Number of lines that `measure` gives to `progress`, for a bar."""
    others = loading.installed() if "peers" in beside else []
    own = contenders.of_model(model, (*precisions, *others))
    sizes = [len(own), *([1] if "parametric" in beside else [])]
    sizes += [len(own)] if "rehm2021" in beside else []
    sizes += [len(precisions)] if "conv3d" in beside else []
    arranged = len(streams.arrangements(machine.cores()))
    return sum(2 * size + settings.rounds + 2 for size in sizes) + arranged + len(PARTS)


def setting(report: SpeedReport) -> machine.Setting | None:
    """The best arrangement, for the endpoint; None if none was measured."""
    best = report.best
    if best is None:
        return None
    alone = [rate for rate in report.rates if rate.streams == 1 and rate.name == best.name]
    return machine.Setting(
        cpu=provenance.cpu()["model"],
        cores=machine.cores(),
        streams=best.streams,
        threads=best.threads,
        batch=best.batch,
        threads_alone=streams.best(alone).threads if alone else 1,
    )


def _groups(model: Path, precisions: Sequence[str], beside: Collection[str], scratch: Path) -> list[list[Contender]]:
    """Contenders that are timed in turn: those of a model together, with its float32 network as their baseline."""
    others = loading.installed() if "peers" in beside else []
    groups = [contenders.of_model(model, (*precisions, *others))]
    if "parametric" in beside:
        groups.append([Contender("parametrised", "parametric")])
    packaged = model_folder.find("rehm2021")
    if "rehm2021" in beside and packaged.resolve() != model.resolve():
        groups.append(contenders.of_model(packaged, (*precisions, *others)))
    if "conv3d" in beside:
        folder = contenders.untrained("conv3d", scratch / "conv3d")
        groups.append(contenders.of_model(folder, [each for each in precisions if each != "int8"], untrained=True))
    return groups


def _geant4(settings: Settings, progress: Progress) -> Geant4Speed | None:
    progress(f"Geant4: {settings.geant4_showers} showers on one core, then on each")
    try:
        return geant4_speed.measure(settings.geant4_showers)
    except SimulationError as error:
        progress(f"Geant4 is left out: {error}")
        return None
