"""Calorimeter showers from a generator network quantized to int8, proved against Geant4."""

from importlib.metadata import version

__version__ = version("calogan")
