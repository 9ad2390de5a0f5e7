"""How fast and how large models are: precisions, operations, other runtimes, one core at a time."""
