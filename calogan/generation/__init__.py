"""From a trained network to showers: freeze it into a model folder, load it in any precision, sample."""
