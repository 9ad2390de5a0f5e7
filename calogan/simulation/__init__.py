"""Showers without a network: Geant4 itself and the parametrised simulation."""
