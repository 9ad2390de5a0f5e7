"""The model as MLflow serves it: energies in GeV -> showers. MLflow stores this file, not a pickled object."""

from typing import Any

import mlflow
import numpy as np


class ShowerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A generator of the one precision its artifacts hold."""

    # MLflow 3.17 warns of a `predict` without type hints in a way that no filter reaches; see there why it has none.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the generator from the artifacts of the logged model."""
        # This file lies in registered models, which later versions of the package load: it calls what stays.
        from calogan import load_model  # noqa: PLC0415 - MLflow imports this file only to record it

        self._generator = load_model(context.artifacts["model"])

    # No annotations: MLflow would read them as a schema, and the signature is given when the model is logged.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # noqa: ARG002
        """Draw one shower for each energy, shape (n, 25, 25, 25), GeV."""
        energy = np.asarray(model_input, dtype=np.float32).reshape(-1)
        return self._generator.sample(energy, seed=int((params or {}).get("seed", 0))).showers


mlflow.models.set_model(ShowerModel())
