"""Shared code of `calogan validate` and the Ray job `validate`: parse the options, compare, write the results."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from calogan.atomic_files import write_text
from calogan.cli.screen import screen
from calogan.errors import RequestError
from calogan.events import open_events
from calogan.reporting import terminal

if TYPE_CHECKING:
    from calogan.validation.gates import Gate
    from calogan.validation.report import ValidationReport

Paths: TypeAlias = tuple[str, ...]
# (files of the reference, of the candidate, of the float32 model, **settings of `validate.validate`) -> report
Compare: TypeAlias = "Callable[..., ValidationReport]"


@dataclass(frozen=True)
class Comparison:
    """The parsed options of `options.comparison`.

    Attributes:
        reference: files, folders or patterns of Geant4 showers.
        candidates: file, folder or pattern of each candidate, by its name.
        float32: showers of the float32 model, by the name of the candidate generated from the same latent numbers.
        gates: limits by name of the metric.
        seed: see `validate.validate`.
        quick: skip the comparison of whole distributions.
        json_file, html_file, figures: output files and folder; None to skip.
    """

    reference: Paths
    candidates: Mapping[str, str]
    float32: Mapping[str, str]
    gates: "Mapping[str, Gate]"
    seed: int
    quick: bool
    json_file: Path | None
    html_file: Path | None
    figures: Path | None


def parse(
    *,
    reference: Paths,
    candidate: Paths,
    float32: Paths,
    gates: str,
    seed: int,
    quick: bool,
    json_file: Path | None,
    html_file: Path | None,
    figures: Path | None,
) -> Comparison:
    """Parse the options.

    Raises:
        RequestError: the names of the candidates are ambiguous or unknown.
        ConfigError: the gates cannot be read.
    """
    from calogan.validation.gates import load_gates  # noqa: PLC0415

    candidates = named_files(candidate)
    files = float32_files(float32, candidates)
    return Comparison(reference, candidates, files, load_gates(gates), seed, quick, json_file, html_file, figures)


def run(comparison: Comparison, compare: Compare) -> None:
    """Compare every candidate, print its table, and write the files it names.

    Raises:
        GateError: a gate failed; all files are written.
    """
    from calogan.config import Validation  # noqa: PLC0415
    from calogan.validation.report import require_no_failure  # noqa: PLC0415

    settings = {
        "gates": comparison.gates,
        "seed": comparison.seed,
        "thorough": not comparison.quick,
        "cell_trainings": 0 if comparison.quick else Validation().cell_trainings,
    }
    reports = {}
    for name, path in comparison.candidates.items():
        float32 = (comparison.float32[name],) if name in comparison.float32 else ()
        reports[name] = compare(comparison.reference, (path,), float32, **settings)
        terminal.show(terminal.report_table(reports[name], name))
        terminal.show(terminal.spread_table(reports[name], name))
    _write(comparison, reports)
    require_no_failure(reports)


def named_files(texts: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=FILE`; a file without a name is named after its stem.

    Raises:
        RequestError: two candidates have the same name.
    """
    files: dict[str, str] = {}
    for text in texts:
        name, path = _name_and_path(text)
        # A pattern is named after its letters, or after its folder.
        name = name or Path(path).stem.strip("*?-_.[]") or Path(path).parent.name or "candidate"
        if name in files:
            raise RequestError(f"two candidates are called {name!r}; give names: --candidate NAME=FILE")
        files[name] = path
    return files


def float32_files(texts: Iterable[str], candidates: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=FILE`, where NAME is a candidate; a file without a name applies to every candidate.

    Raises:
        RequestError: there is no such candidate, or one candidate has two files.
    """
    names, files = list(candidates), dict[str, str]()
    for text in texts:
        name, path = _name_and_path(text)
        if name and name not in names:
            raise RequestError(f"--float32 {text}: no candidate is called {name!r}; there are {', '.join(names)}")
        for candidate in [name] if name else names:
            if candidate in files:
                raise RequestError(
                    f"--float32 {text}: {candidate} has {files[candidate]} already; name the candidate of each, "
                    "--float32 NAME=FILE, and give several files as a folder or a pattern"
                )
            files[candidate] = path
    return files


def _name_and_path(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    return (name, path) if separator and not Path(text).exists() else ("", text)


def _write(comparison: Comparison, reports: "Mapping[str, ValidationReport]") -> None:
    from calogan.reporting import html  # noqa: PLC0415
    from calogan.validation.report import write_report  # noqa: PLC0415

    if comparison.json_file:
        if len(reports) == 1:
            write_report(comparison.json_file, *reports.values())
        else:
            write_text(comparison.json_file, html.to_json(reports))
    if comparison.html_file:
        shown = {"Geant4": open_events(comparison.reference)}
        shown |= {name: open_events(path) for name, path in comparison.candidates.items()}
        html.write_html(comparison.html_file, reports, pictures=html.typical_showers(shown))
        screen.print(f"wrote {comparison.html_file}")
    if comparison.figures:
        from calogan.reporting import plots  # noqa: PLC0415

        comparison.figures.mkdir(parents=True, exist_ok=True)
        for path in plots.save_figures(reports, comparison.figures):
            screen.print(f"wrote {path}")
