"""Options shared by several commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from calogan.events import FORMATS, WRITTEN_FORMATS
from calogan.generation.model_folder import PRECISIONS
from calogan.generation.random_numbers import SEED_MAX

_Command = TypeVar("_Command", bound=Callable[..., Any])
FILE, FOLDER = click.Path(dir_okay=False, path_type=Path), click.Path(file_okay=False, path_type=Path)


def in_a_folder(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file whose folder is missing before the work starts, not after it."""
    if path and not path.parent.is_dir():
        raise click.BadParameter(f"{path}: {path.parent} is not a folder; create it first.")
    return path


def engine(command: _Command) -> _Command:
    """Add the options of `engines.load_engine`: --engine, --tuning, --detector, --field and --cut."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def comparison(command: _Command) -> _Command:
    """Add the options of `comparisons.parse`."""
    for option in reversed(_COMPARISON):
        command = option(command)
    return command


energy = click.option("--energy", default="2:500", show_default=True, help="Ep in GeV: 200, 2:500 (flat) or log:2:500.")
n = click.option("--n", type=click.IntRange(1, 10**9), default=1000, show_default=True, help="How many showers.")
seed = click.option(
    "--seed", type=click.IntRange(0, SEED_MAX - 1), default=1, show_default=True, help="Equal seeds, equal bytes."
)
out = click.option(
    "-o", "--out", type=FILE, callback=in_a_folder, required=True, help="File to write: .h5, .arrow, .parquet or .npz."
)
out_or_folder = click.option("-o", "--out", required=True, help="File, by its name, or folder or s3:// URL for shards.")
shard_size = click.option("--shard-size", type=click.IntRange(1), help="Showers in each file, when --out is a folder.")
workers = click.option("--workers", type=click.IntRange(1), help="Processes, when --out is a folder.  [default: cores]")
model = click.option("--model", default="lean", show_default=True, help="Packaged name, folder, or models:/NAME@ALIAS.")
precision = click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True)
config = click.option("--config", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
json = click.option("--json", "json_file", type=FILE, callback=in_a_folder, help="Also write the results as JSON.")
threads = click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores to use.")
model_dir = click.option("-o", "--out", type=FOLDER, required=True, help="Folder of the model.")
read_format = click.option(
    "--format", "file_format", type=click.Choice(FORMATS), help="Format of the files; recognised when not given."
)
written_format = click.option(
    "--format",
    "file_format",
    type=click.Choice(WRITTEN_FORMATS),
    help="By default that of the name: .arrow, .parquet and .npz hold hits, .h5 all cells (clic).",
)
_ENGINE = (
    click.option(
        "--engine",
        type=click.Choice(["parametric", "geant4"]),
        default="parametric",
        show_default=True,
        help="Grindhammer-Peters parametrisation, or real Geant4 (needs the extra geant4).",
    ),
    click.option("--tuning", type=FILE, help="Constants of the parametrisation, see tune-parametric."),
    click.option("--detector", default="clic", show_default=True, help="Geant4: packaged detector or TOML file."),
    click.option("--field", type=float, default=4.0, show_default=True, help="Geant4: magnetic field, T."),
    click.option("--cut", type=float, default=0.7, show_default=True, help="Geant4: production cut, mm."),
)
_COMPARISON = (
    click.option(
        "--reference", multiple=True, required=True, help="Geant4 showers: file, folder or pattern; repeatable."
    ),
    click.option(
        "--candidate",
        multiple=True,
        required=True,
        help="Showers of any generator: file, folder or pattern; repeatable, NAME=FILE to name it.",
    ),
    click.option(
        "--float32",
        multiple=True,
        help="Showers of the float32 model with the energies and seed of the candidates; NAME=FILE for one of them.",
    ),
    click.option("--gates", default="default", show_default=True, help="Limits: of the package, or a TOML file."),
    click.option(
        "--seed",
        type=click.IntRange(0, SEED_MAX - 1),
        default=0,
        show_default=True,
        help="Seed of the bootstrap, the classifiers and the halves of the reference.",
    ),
    click.option("--quick", is_flag=True, help="Skip the comparison of whole distributions: seconds, not minutes."),
    json,
    click.option("--html", "html_file", type=FILE, callback=in_a_folder, help="Report to write, one file."),
    click.option("--figures", type=FOLDER, help="Folder for the figures."),
)
