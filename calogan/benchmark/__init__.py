"""Models in several precisions and runtimes, side by side: speed, size and physics, on one core."""
