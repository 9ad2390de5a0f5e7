"""Thin drivers for `ray job submit`: read options, call the steps as Ray tasks, log to MLflow."""

from calogan.quiet import load_tensorflow

# Here, because this is the first import of every driver and worker, whose screens should show only their progress.
load_tensorflow()
