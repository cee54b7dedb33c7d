"""The answer to a query in the shape that callers get."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nivesh_lib.models.base import TextClassifier, as_texts, load_model


class Predictor:
    """A loaded model that answers ``{intent, confidence, alternatives}``.

    An abstaining model adds ``abstained``: true means that the query should go to a person.
    """

    def __init__(self, model: TextClassifier, *, n_alternatives: int = 2) -> None:
        self.model = model
        self.n_alternatives = n_alternatives

    @classmethod
    def from_directory(cls, directory: Path | str) -> Predictor:
        """Load a model directory. Raises ModelError when it is not one."""
        return cls(load_model(directory))

    def predict(self, queries: Iterable[str]) -> list[dict[str, Any]]:
        """Return one answer for each query, in order."""
        texts = as_texts(queries)
        if not texts:
            return []
        answers = []
        proba = self.model.predict_proba(texts)
        for row in proba:
            # Stable, so that the first of equals wins here as in the model's own `predict`.
            order = (-row).argsort(kind="stable")[: self.n_alternatives + 1]
            ranked = [
                {"intent": str(self.model.classes_[i]), "confidence": round(float(row[i]), 4)}
                for i in order
            ]
            answers.append({**ranked[0], "alternatives": ranked[1:]})
        if accepts := getattr(self.model, "accepts", None):
            for answer, accepted in zip(answers, accepts(texts, proba), strict=True):
                answer["abstained"] = not accepted
        return answers
