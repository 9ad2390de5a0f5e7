"""Thin drivers for `ray job submit`: read options, call the steps as Ray tasks, log to MLflow."""

from calogan.quiet import load_tensorflow

# Here, because this is the first import of a driver and of each of its workers: the screen is for their progress.
load_tensorflow()
