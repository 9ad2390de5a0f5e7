"""Validation of showers: observables, metrics with their errors, classifiers, gates, the report."""
