"""The key of the endpoint, which its processes and its clients read from one variable of their environments."""

import os

KEY_VARIABLE = "CALOGAN_API_KEY"


def read_key() -> str:
    """Return the key, without the line end that a file of secrets may have put there; empty if there is none."""
    return os.environ.get(KEY_VARIABLE, "").strip()
