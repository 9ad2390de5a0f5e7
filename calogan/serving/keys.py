"""The key of the endpoint, which servers and clients read from the same environment variable."""

import os

KEY_VARIABLE = "CALOGAN_API_KEY"


def read_key() -> str:
    """Return the key without a trailing newline, which secret files often add; empty if it is not set."""
    return os.environ.get(KEY_VARIABLE, "").strip()
