"""Whether the showers that a benchmark times are right: a wrong result is no speed."""

from collections.abc import Mapping

import numpy as np

from calogan.benchmark.stream import Stream, energies
from calogan.errors import GateError
from calogan.events import Events, EventSource
from calogan.geometry import CLIC
from calogan.validation.observables import sampling_fraction
from calogan.validation.parts import energy_difference

FROM_FLOAT32 = 0.3  # of the energy of a shower may lie in other cells than those of float32, on average
FROM_GEANT4 = 0.1  # relative deviation of the mean of ECAL/Ep
_BATCH = 16


def check(streams: Mapping[str, Stream], reference: EventSource, *, showers: int) -> None:
    """Draw the same showers with every stream and compare them, with each other and with Geant4.

    A precision of a model must give the same bytes in calls of any size and as hits; no contender may give unreadable
    cells; a precision must be close to float32, and a trained model or simulation to the mean response of Geant4.

    Args:
        streams: of one model, or of a simulation; float32 first, if there is one.
        reference: Geant4 showers.
        showers: number of showers to draw.

    Raises:
        GateError: some are wrong.
    """
    baseline: Events | None = None
    for name, stream in streams.items():
        drawn: Events = stream.ask("sample", showers=showers, batch=showers)
        _require(name, np.isfinite(drawn.showers).all(), "has cells that are not finite numbers")
        _require(name, (drawn.showers >= 0).all(), "has cells with negative energies")
        if stream.contender.own_precision:
            for what, settings in {"in smaller calls": {}, "as hits": {"sparse": True}}.items():
                again = stream.ask("digest", showers=showers, batch=_BATCH, **settings)
                _require(
                    name, again == stream.ask("digest", showers=showers, batch=showers), f"gives other showers {what}"
                )
        baseline = drawn if baseline is None else baseline
        changed, whole = energy_difference(baseline.showers, drawn.showers).sum(axis=0)
        share = changed / max(whole, CLIC.threshold_gev)
        _require(name, share <= FROM_FLOAT32, f"has {share:.0%} of its energy in other cells than float32")
        if stream.contender.kind != "untrained":
            _compare_with_geant4(name, drawn, reference)


def _compare_with_geant4(name: str, drawn: Events, reference: EventSource) -> None:
    """The mean response, at energies drawn flat over the range of the reference."""
    some = reference[: min(len(reference), 1000)]
    ours = sampling_fraction(drawn.showers, energies(len(drawn)).astype(np.float64))
    theirs = sampling_fraction(some.showers, some.energy.astype(np.float64))
    shift = ours.mean() / theirs.mean() - 1
    error = np.hypot(ours.std() / np.sqrt(len(ours)), theirs.std() / np.sqrt(len(theirs))) / theirs.mean()
    text = f"deposits {1 + shift:.2f} times the energy of Geant4"
    _require(name, abs(shift) <= FROM_GEANT4 + 3 * error, text)


def _require(name: str, fine: bool | np.bool_, what: str) -> None:
    if not fine:
        raise GateError(f"{name} {what}: its speed means nothing; validate the model (calogan validate)")
