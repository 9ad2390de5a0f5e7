"""MLflow: runs, the registry of models, and models in MLflow's interface."""
