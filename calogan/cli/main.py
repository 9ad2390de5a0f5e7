"""The command line: one sub-command per step. The only place that prints or sets up logging."""

import logging
import sys
from typing import NoReturn

import click

from calogan import __version__
from calogan.cli import generation, models, showers
from calogan.cli.screen import screen
from calogan.errors import CaloganError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="calogan")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries below log.")
def cli(verbose: bool) -> None:
    """Calorimeter showers from a generator network quantized to int8, proved against Geant4.

    \b
    The steps, in the order of the data:
      simulate -> inspect -> train -> quantize -> validate -> benchmark -> generate -> serve
    Results go to files and standard output, progress to standard error. Exit codes: 0 done,
    1 the step failed, 2 the input cannot be used, 3 a physics gate failed, 4 a server does not answer.
    """  # noqa: D301 - click looks for the character, not for a backslash
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)


def main() -> None:
    """Run the command line; an error of the caller's becomes one line and its exit code."""
    try:
        code = cli.main(prog_name="calogan", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "calogan"
        _fail(f"{error.format_message()} (see {where} --help)", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        screen.print("\nstopped", style="yellow", end="")
        screen.print("; nothing half-written is left")
        sys.exit(130)
    except CaloganError as error:
        _fail(str(error), error.exit_code)
    except MemoryError as error:
        _fail(f"not enough memory ({error}); ask for fewer showers at once, --n", CaloganError.exit_code)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, exit_code: int) -> NoReturn:
    screen.print("error:", style="red", end=" ")
    screen.print(message)
    sys.exit(exit_code)


for command in (
    showers.simulate,
    showers.tune_parametric,
    showers.inspect,
    showers.convert,
    models.train,
    models.quantize,
    models.validate,
    models.benchmark,
    models.export,
    generation.generate,
    generation.serve,
):
    cli.add_command(command)
