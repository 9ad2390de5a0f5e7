"""The command line: one sub-command per step. Only this room prints or sets up logging."""

import logging
import sys
from typing import NoReturn

import click

from calogan import __version__
from calogan.cli import generation, models, showers, speeds
from calogan.cli.cluster import cluster
from calogan.cli.program import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="calogan")
@click.option("-v", "--verbose", is_flag=True, help="Show the log messages of the libraries.")
def cli(verbose: bool) -> None:
    """Calorimeter showers from a generator network quantized to int8, proved against Geant4.

    \b
    The steps, in the order of the data:
      simulate -> inspect -> train -> quantize -> validate -> benchmark -> compare -> register -> generate -> serve
    Results go to files and standard output, progress to standard error. Exit codes: 0 done,
    1 the step failed, 2 the input cannot be used, 3 a physics gate failed, 4 a server does not answer.
    """  # noqa: D301 - click looks for the character, not for a backslash
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)


def main() -> NoReturn:
    """Run the command line."""
    run(cli, "calogan")


for command in (
    showers.simulate,
    showers.tune_parametric,
    showers.inspect,
    showers.convert,
    models.train,
    models.quantize,
    models.validate,
    speeds.benchmark,
    models.compare,
    models.register,
    models.export,
    generation.generate,
    generation.serve,
    cluster,
):
    cli.add_command(command)
