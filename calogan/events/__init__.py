"""Showers and their primary energies: in memory, in files, as a stream, split into samples."""

import hashlib
from pathlib import Path

from calogan.events.files import EventFiles, open_events, read_events
from calogan.events.formats import FORMATS, WRITTEN_FORMATS
from calogan.events.hits import Hits, checked_hits
from calogan.events.records import (
    EnergyGaussian,
    EnergyList,
    EnergyRange,
    Events,
    EventSource,
    Spectrum,
    checked_events,
    parse_energy,
    require_within,
)
from calogan.events.splits import Selection, split_events, split_source
from calogan.events.stream import batches, load_if_small
from calogan.events.writing import fill_file, write_events
from calogan.packaged import data_file

__all__ = [
    "FORMATS",
    "WRITTEN_FORMATS",
    "EnergyGaussian",
    "EnergyList",
    "EnergyRange",
    "EventFiles",
    "EventSource",
    "Events",
    "Hits",
    "Selection",
    "Spectrum",
    "batches",
    "checked_events",
    "checked_hits",
    "fill_file",
    "load_if_small",
    "open_events",
    "packaged_sample",
    "parse_energy",
    "read_events",
    "read_spectrum",
    "require_within",
    "split_events",
    "split_source",
    "write_events",
]


def read_spectrum(text: str) -> Spectrum:
    """Read a spectrum: a text of `parse_energy`, or a file of showers, whose energies are taken in their order.

    Raises:
        EventsError: the file is damaged or contains no showers.
        RequestError: the text is no spectrum.
    """
    if not Path(text).exists():
        return parse_energy(text)
    values = open_events(text, shape=None).energy
    return EnergyList(values, hashlib.sha256(values.tobytes()).hexdigest())


def packaged_sample() -> Path:
    """Return the path of the 1,000 Geant4 showers that come with the package."""
    return data_file("showers", "geant4_electrons_2-500GeV.h5")
