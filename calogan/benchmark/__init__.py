"""Speed and size of models: precisions, operations and other runtimes, on one core."""
