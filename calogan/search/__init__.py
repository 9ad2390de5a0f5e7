"""Searches for a quantization or a generator: proposals, trials and their records."""
