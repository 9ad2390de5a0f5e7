"""Training: likelihood, energy score and adversary; which epoch is kept; several workers."""
