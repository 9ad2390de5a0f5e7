"""Training: likelihood, energy score and adversary; choice of the best epoch; several workers."""
