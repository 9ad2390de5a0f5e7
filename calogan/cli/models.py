"""Commands that train, quantize, validate, time and export models."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calogan import quiet
from calogan.atomic_files import write_json
from calogan.cli import comparisons, options
from calogan.cli.comparisons import Paths
from calogan.cli.loading import names
from calogan.cli.screen import examples, progress_bars, screen
from calogan.errors import GateError, RequestError
from calogan.events import open_events, packaged_sample
from calogan.events.files import find_files
from calogan.generation.model_folder import find
from calogan.reporting import terminal
from calogan.tracking.location import locate

if TYPE_CHECKING:
    from calogan.training.loop import Epoch
    from calogan.validation.report import ValidationReport


@click.command(
    epilog=examples(
        "calogan train --config tiny --out my-model/",
        "calogan train --config mine.toml --out my-model/  # resumes after a stop",
    )
)
@options.config
@options.model_dir
def train(config: str, out: Path) -> None:
    """Train a generator on Geant4 showers; an interrupted run resumes."""
    from calogan.config import load_config  # noqa: PLC0415

    loaded = load_config(config)
    quiet.load_tensorflow()
    from calogan import steps  # noqa: PLC0415

    with progress_bars() as progress:
        task = progress.add_task("training", total=None)

        def show(epoch: "Epoch") -> None:
            score = "" if epoch.score is None else f"  physics score {epoch.score:.3f}"
            losses = "  ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
            progress.console.print(f"{epoch.stage} {epoch.number + 1}/{epoch.of}  {losses}{score}")
            progress.update(task, total=epoch.of, completed=epoch.number + 1)

        result = steps.train_model(loaded, out, on_epoch=show)
    if result.stop_reason:
        screen.print(f"stopped early: {result.stop_reason}")
    screen.print(f"best epoch: {result.best.stage} {result.best.number + 1}, physics score {result.best.score:.3f}")
    click.echo(out)


@click.command(epilog=examples("calogan quantize --model my-model/ --config tiny"))
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Folder of a trained model.")
@options.config
@click.option("-o", "--out", type=options.FOLDER, help="Write another folder instead of adding to the model's.")
def quantize(model: Path, config: str, out: Path | None) -> None:
    """Quantize a model to int8 with Intel Neural Compressor."""
    from calogan.config import load_config  # noqa: PLC0415

    loaded = load_config(config)
    quiet.load_tensorflow()
    from calogan import steps  # noqa: PLC0415
    from calogan.benchmark.precisions import benchmark as time_precisions  # noqa: PLC0415
    from calogan.generation.graphs import read_graph  # noqa: PLC0415
    from calogan.provenance import cpu, has_integer_instructions  # noqa: PLC0415
    from calogan.quantization.operations import count_operations, slow_integer_note  # noqa: PLC0415

    with screen.status("quantizing"):
        description = steps.quantize_model(loaded, model, out)
    counted = count_operations(read_graph((out or model) / description.network_files["int8"]))
    screen.print(
        f"int8: {counted.integer_convolutions} fused convolutions, {counted.integer_products} products, "
        f"weights of {description.weight_bits} bits; {counted.float_arithmetic} left in floating point"
    )
    isa = cpu()["isa"]
    if not has_integer_instructions(isa):
        with screen.status("timing"):
            timed = time_precisions(out or model, ("int8",), loaded.benchmark)
        screen.print(slow_integer_note(isa, timed.timings["int8"].network_speedup))
    click.echo(out or model)


@click.command(
    epilog=examples(
        "calogan validate --reference geant4.h5 --candidate showers.h5 --html report.html --json v.json",
        "calogan validate --reference geant4.h5 --candidate other.h5 --gates mine.toml --figures figures/",
        "calogan validate --reference g4/ --candidate float32=a.h5 --candidate int8=b.h5 --float32 int8=a.h5 --html v.html",
    )
)
@options.comparison
def validate(**arguments: Any) -> None:
    """Compare showers with Geant4; exit code 3 if a gate fails."""
    comparison = comparisons.parse(**arguments)
    if not comparison.quick:
        quiet.load_tensorflow()
    from calogan.validation import validate  # noqa: PLC0415

    def compare(reference: Paths, candidate: Paths, float32: Paths, **settings: Any) -> "ValidationReport":
        named = (reference, candidate, *([float32] if float32 else []))
        sources = [open_events(paths) for paths in named]
        float32_source = sources[2] if float32 else None
        inputs = [path for source in sources for path in source.paths]
        with screen.status("comparing") as status:
            return validate.validate(
                sources[0], sources[1], float32=float32_source, inputs=inputs, progress=status.update, **settings
            )

    comparisons.run(comparison, compare)


@click.command(
    epilog=examples(
        "calogan compare --model rehm2021 --html compare.html",
        "calogan compare --model rehm2021 --reference g4/ --precision int8,tflite-int8 --draws 2 --json c.json",
        "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 calogan compare --model rehm2021 --mlflow",
    )
)
@options.model
@click.option(
    "--reference",
    multiple=True,
    help="Geant4 showers: file, folder or pattern; repeatable. Default: the packaged ones.",
)
@click.option(
    "--precision",
    default="float32,bfloat16,int8,tflite-float16,tflite-int8",
    show_default=True,
    help="Precisions, and other runtimes (also onnxruntime-int8, openvino-int8), separated by commas.",
)
@click.option("--draws", type=click.IntRange(1), default=1, show_default=True, help="Showers for each Geant4 shower.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Interleaved rounds of timing.")
@click.option("--gates", default="default", show_default=True, help="Limits: of the package, or a TOML file.")
@click.option("--quick", is_flag=True, help="Skip the comparison of whole distributions.")
@options.json
@click.option("--html", type=options.FILE, callback=options.in_a_folder, help="Report to write, one file.")
@click.option("--mlflow", is_flag=True, help="Log a run for each precision to MLflow (MLFLOW_TRACKING_URI).")
def compare(
    model: str,
    reference: Paths,
    precision: str,
    draws: int,
    rounds: int,
    gates: str,
    quick: bool,
    json_file: Path | None,
    html: Path | None,
    mlflow: bool,
) -> None:
    """Generate, validate and time a model in several precisions and runtimes, all in one table."""
    quiet.load_tensorflow()
    from calogan.benchmark import comparison  # noqa: PLC0415
    from calogan.config import Validation  # noqa: PLC0415
    from calogan.reporting import html as page  # noqa: PLC0415

    source = open_events(reference or (packaged_sample(),))
    precisions = names(precision)
    folder = locate(model, precisions[0])
    trainings = 0 if quick else Validation().cell_trainings
    validation = Validation(gates=gates, draws=draws, thorough=not quick, cell_trainings=trainings)
    with screen.status("comparing") as status:
        compared = comparison.compare_precisions(
            folder,
            precisions,
            source,
            validation=validation,
            rounds=rounds,
            inputs=source.paths,
            progress=status.update,
        )
    summary = compared.summary()
    if json_file:
        write_json(json_file, summary)
    if html:
        title = f"{compared.timed.model} in several precisions"
        page.write_html(html, compared.reports, title=title, speed=compared.timed.speeds())
    terminal.show(terminal.summary_table(summary, title=f"{compared.timed.model} against {len(source)} Geant4 showers"))
    if mlflow:
        for name, run_id in comparison.log_comparison(compared, folder).items():
            screen.print(f"MLflow run of {name}: {run_id}")


@click.command(
    epilog=examples(
        "calogan export --model lean --precision int8 --format savedmodel --out lean-int8/",
        "calogan export --model lean --precision int8 --format onnx --out lean-int8.onnx  # one shower a call",
    )
)
@options.model
@options.precision
@click.option("--format", "file_format", type=click.Choice(("savedmodel", "onnx")), required=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=1, show_default=True, help="Showers a call, for onnx.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    callback=options.in_a_folder,
    required=True,
    help="Folder of a SavedModel, or ONNX file, to write.",
)
def export(model: str, precision: str, file_format: str, batch: int, out: Path) -> None:
    """Write a model for programs without this package, checked against the original before it gets its final name."""
    quiet.load_tensorflow()
    from calogan.exporting import export  # noqa: PLC0415

    with screen.status("exporting"):
        result = export.export(locate(model, precision), precision, file_format, out, batch=batch)
    screen.print(
        f"compared with the model, {100 * result.difference.mean():.2g} % of the energy of a shower lies in other cells "
        f"(at most {100 * result.difference.max():.2g} %; the mean may be {100 * result.limit:g} %)"
    )
    click.echo(out)


@click.command(
    epilog=examples(
        "calogan register --model lean",
        "calogan register --model my-model/ --reference geant4.h5 --gates mine.toml",
        "calogan register --model lean --keep-champion --wait 600  # when a service is installed",
    )
)
@options.model
@click.option("--precision", default="int8,float32", show_default=True, help="Precisions, separated by commas.")
@click.option(
    "--reference", multiple=True, help="Geant4 showers the model has not seen: file, folder or pattern; repeatable."
)
@click.option("--gates", default="default", show_default=True, help="Limits: of the package, or a TOML file.")
@click.option("--keep-champion", is_flag=True, help="Leave precisions alone that have a champion, whichever it is.")
@click.option("--wait", type=click.FloatRange(0), default=0, show_default=True, help="Seconds to wait for MLflow.")
def register(
    model: str, precision: str, reference: tuple[str, ...], gates: str, keep_champion: bool, wait: float
) -> None:
    """Register a model in MLflow and make it the champion if it passes all gates; exit code 3 if it does not.

    MLFLOW_TRACKING_URI is the address of MLflow. Without --reference, the model is judged by the Geant4 showers of the
    package. Nothing happens if the champion is this very model.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise RequestError(
            "MLFLOW_TRACKING_URI is not set; export MLFLOW_TRACKING_URI=http://... with MLflow's address"
        )
    folder, precisions = find(model), names(precision)
    quiet.load_tensorflow()
    from calogan import steps  # noqa: PLC0415
    from calogan.tracking.registry import wait_for_server  # noqa: PLC0415

    with screen.status("waiting for MLflow") as status:
        wait_for_server(wait)
        files = [path for pattern in reference for path in find_files(pattern)]
        registered = steps.register_model(
            folder, precisions, reference=files, gates=gates, keep_champion=keep_champion, progress=status.update
        )
    for name, version in registered.items():
        screen.print(f"{name}: {'champion' if version.champion else 'registered, but it did not pass all gates'}")
        click.echo(version.uri)
    if not registered:
        screen.print(f"{', '.join(precisions)}: champion already")
    failed = [name for name, version in registered.items() if not version.champion]
    if failed:
        raise GateError(
            f"{', '.join(failed)} did not become champion: run with -v for the gates, or see validation.json in MLflow"
        )
