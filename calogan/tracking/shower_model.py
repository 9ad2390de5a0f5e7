"""The model in MLflow's interface: energies in GeV -> showers. MLflow stores this file, not a pickled object."""

from typing import Any

import mlflow
import numpy as np


class ShowerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A generator of the single precision in its artifacts."""

    # MLflow 3.17 warns about a `predict` without type hints, and no filter can suppress this; see below for the reason.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the generator from the artifacts of the logged model."""
        # Registered models contain this file, and later versions of the package load it: use only the stable interface.
        from calogan import load_model  # noqa: PLC0415 - MLflow also imports this file just to store it

        self._generator = load_model(context.artifacts["model"])

    # No annotations: MLflow would interpret them as a schema, but the signature is set when the model is logged.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # noqa: ARG002
        """Draw one shower for each energy, shape (n, 25, 25, 25), GeV."""
        energy = np.asarray(model_input, dtype=np.float32).reshape(-1)
        return self._generator.sample(energy, seed=int((params or {}).get("seed", 0))).showers


mlflow.models.set_model(ShowerModel())
