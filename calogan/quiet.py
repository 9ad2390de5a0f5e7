"""Load TensorFlow without the lines its native code writes to standard error before it can be told not to."""

import os


def load_tensorflow() -> None:
    """Import TensorFlow with standard error closed meanwhile; what Python raises is raised all the same."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("LOGLEVEL", "ERROR")  # Intel Neural Compressor
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401, PLC0415
        import tensorflow as tf  # noqa: PLC0415

        tf.get_logger().setLevel("ERROR")  # the compressor calls what TensorFlow calls deprecated
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
