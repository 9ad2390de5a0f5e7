"""Showers from first principles or from formulas, without a network."""
