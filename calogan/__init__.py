"""Calorimeter showers from a generator network quantized to int8, proved against Geant4."""

import os
from importlib.metadata import version

__version__ = version("calogan")

# TensorFlow has its int8 operations from oneDNN, which it leaves out on processors without AVX-512 unless it is told
# otherwise before its import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
