"""Are showers right? Observables, metrics with their errors, classifiers, gates, the report."""
