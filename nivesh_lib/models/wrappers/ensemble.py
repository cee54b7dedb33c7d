"""An ensemble of models of different kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nivesh_lib.models.base import TextClassifier, as_texts, get_model, load_member

DEFAULT_MEMBERS: dict[str, dict[str, Any]] = {"tfidf": {}, "embedding": {}, "transformer": {}}


@dataclass(eq=False, repr=False)
class EnsembleClassifier(TextClassifier):
    """The average of the members' probabilities.

    Models of n-grams, frozen features and fine-tuned layers err on different queries, so that the
    average errs less often than each (Dietterich 2000).

    Parameters
    ----------
    members : mapping, optional
        Kind -> constructor arguments; by default TF-IDF, frozen embedding and transformer.
    random_state : int, optional
        Seed of every member without one of its own.
    """

    kind: ClassVar[str] = "ensemble"

    members: Mapping[str, Mapping[str, Any]] | None = None
    random_state: int | None = 42

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit every member on the same rows."""
        texts, labels = as_texts(X), list(y)
        chosen = DEFAULT_MEMBERS if self.members is None else self.members
        if not chosen:
            raise ValueError("members is empty; name at least one kind of model")
        self.members_ = {
            kind: get_model(kind, **{"random_state": self.random_state, **params}).fit(
                texts, labels
            )
            for kind, params in chosen.items()
        }
        self.classes_ = next(iter(self.members_.values())).classes_
        return self

    @classmethod
    def of(cls, fitted: Mapping[str, TextClassifier]) -> Self:
        """Join models, kind -> model, that were fitted on the same rows.

        Raises
        ------
        ValueError
            Their classes differ.
        """
        models = dict(fitted)
        joined = cls(members={kind: model.get_params() for kind, model in models.items()})
        joined.members_ = models
        joined.classes_ = next(iter(models.values())).classes_
        for kind, model in models.items():
            if model.classes_.tolist() != joined.classes_.tolist():
                raise ValueError(f"the classes of {kind} are not those of the first member")
        return joined

    def _proba(self, texts: list[str]) -> np.ndarray:
        return np.mean([model._proba(texts) for model in self.members_.values()], axis=0)

    def _dump(self, directory: Path) -> dict[str, Any]:
        for kind, model in self.members_.items():
            model.save(directory / kind)
        return {"members": list(self.members_)}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        names = list(dict.fromkeys(state["members"]))  # each once, however often it is listed
        if not names:
            raise ValueError("members is empty")
        self.members_ = {kind: load_member(directory, kind) for kind in names}
