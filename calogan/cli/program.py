"""Run a command as a program: any error or signal ends it with one line and an exit code."""

import signal
import sys
import time
from types import FrameType
from typing import NoReturn

import click

from calogan.cli.screen import screen
from calogan.errors import CaloganError

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_STOP_S = 10.0  # make forwards a signal that the process group has already received: that is one stop, not two


class _Stop:
    """Handler of the signals that stop a program: each acts like Ctrl-C, with its own exit code.

    Libraries clean up after a KeyboardInterrupt, and so do `finally` and `with`. Signals that follow soon after are
    ignored, so that they do not interrupt the clean-up.
    """

    def __init__(self) -> None:
        self.exit_code = 128 + signal.SIGINT
        self._last_stop = -_ONE_STOP_S

    def install(self) -> None:
        for number in _STOP_SIGNALS:
            if (
                signal.getsignal(number) != signal.SIG_IGN
            ):  # as nohup leaves SIGHUP, and a shell in the background SIGINT
                signal.signal(number, self)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if time.monotonic() - self._last_stop < _ONE_STOP_S:
            return
        self._last_stop = time.monotonic()
        self.exit_code = 128 + number
        raise KeyboardInterrupt


_stop = _Stop()


def catch_stop_signals() -> None:
    """Let SIGTERM and SIGHUP end this program like Ctrl-C; call again after a library installs its own handlers."""
    _stop.install()


def ignore_stop_signals() -> None:
    """Ignore all signals but SIGKILL from now on, while the program cleans up."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run(command: click.Command, name: str | None = None) -> NoReturn:
    """Run a command as a program: an error the caller can fix becomes one line and its exit code.

    Args:
        command: command to run with the arguments of the process.
        name: name of the program in its help; the name it was started with if None.

    Raises:
        SystemExit: always.
    """
    catch_stop_signals()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _fail(f"{error.format_message()}{where}", error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        screen.print("stopped", style="yellow", end="")
        screen.print("; nothing half-written is left")
        sys.exit(_stop.exit_code)
    except CaloganError as error:
        _fail(_cause(error), error.exit_code)
    except MemoryError as error:
        _fail(f"not enough memory ({_cause(error)}); ask for fewer showers at once", CaloganError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _cause(error: Exception) -> str:
    """Message of an error; Ray's copy of a task's error contains the traceback, and its cause is the error itself."""
    return str(getattr(error, "cause", error))


def _fail(message: str, exit_code: int) -> NoReturn:
    screen.print("error:", style="red", end=" ")
    screen.print(message)
    sys.exit(exit_code)
