"""One exception for each failure that a caller can act on.

Every message says what was wrong, what was expected and what to do. The command line prints the
message and exits with `exit_code`; the endpoint answers with `http_status`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def problems(error: "ValidationError") -> str:
    """Describe the invalid values of a record: the name of each, and the reason."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())


class CaloganError(Exception):
    """Base of all errors that the caller can fix, as opposed to bugs of this package."""

    exit_code = 1
    http_status = 500


class RequestError(CaloganError):
    """A request for showers cannot be met: impossible energy, number, seed or precision."""

    exit_code = 2
    http_status = 422


class ConfigError(CaloganError):
    """A configuration has an unknown key or an impossible value."""

    exit_code = 2


class EventsError(CaloganError):
    """A file of showers is missing, damaged or not in a known layout."""

    exit_code = 2


class OutputError(CaloganError):
    """A file cannot be written: its folder is missing or read-only, the disk is full, or a folder has its name."""

    exit_code = 2


class ModelError(CaloganError):
    """A model is missing or damaged, or does not have the requested precision."""

    exit_code = 2
    http_status = 404


class SimulationError(CaloganError):
    """The Geant4 engine is not installed or a simulation died."""


class TrainingError(CaloganError):
    """Training reached a state it cannot continue from, such as a loss that is not a number."""


class QuantizationError(CaloganError):
    """A network could not be quantized, or the result is not int8."""


class GateError(CaloganError):
    """A report did not pass its physics gates."""

    exit_code = 3
    http_status = 409


class ServiceError(CaloganError):
    """A server this command needs (endpoint, MLflow, Ray) does not answer as expected."""

    exit_code = 4
    http_status = 503
