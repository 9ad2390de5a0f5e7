"""MLflow: runs, the registry of models, and the model as MLflow serves it."""
