"""Load TensorFlow without the start-up lines that its native code writes to standard error."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def load_tensorflow() -> None:
    """Import TensorFlow with standard error closed; Python exceptions still propagate."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("LOGLEVEL", "ERROR")  # Intel Neural Compressor
    original, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401, PLC0415
        import tensorflow as tf  # noqa: PLC0415

        tf.get_logger().setLevel("ERROR")  # the compressor calls deprecated functions
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(nowhere)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Close standard output and error to native code and to Python; exceptions still propagate."""
    sys.stdout.flush()
    sys.stderr.flush()
    original, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        for target, source in enumerate(original, start=1):
            os.dup2(source, target)
            os.close(source)
        os.close(nowhere)
