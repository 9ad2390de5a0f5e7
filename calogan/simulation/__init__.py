"""Showers without a network: Geant4 and the parametrised simulation."""
