"""The script from which MLflow rebuilds any of our models (models-from-code).

MLflow runs this file; nothing imports it.
"""

from __future__ import annotations

import mlflow
import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from nivesh_lib.models.base import load_model


class NiveshModel(PythonModel):
    """Texts in, a frame of intent, confidence and one column a class out."""

    def load_context(self, context):  # type: ignore[no-untyped-def]
        """Load the model directory that travels as the artifact ``model``."""
        self.model = load_model(context.artifacts["model"])

    def predict(  # type: ignore[override]
        self, model_input: list[str], params: dict | None = None
    ) -> pd.DataFrame:
        """Return one row for each text."""
        proba = pd.DataFrame(self.model.predict_proba(model_input), columns=self.model.classes_)
        answer = pd.DataFrame({"intent": proba.idxmax(axis=1), "confidence": proba.max(axis=1)})
        return pd.concat([answer, proba], axis=1)


mlflow.models.set_model(NiveshModel())
