"""The base class of classifiers that wrap one other classifier."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_texts, load_member


def refuse_abstaining(fitted: TextClassifier) -> None:
    """Raise ValueError for a model that abstains: a wrapper around it would ignore that."""
    if hasattr(fitted, "accepts"):
        raise ValueError(
            f"a model of kind {fitted.kind!r} goes outermost: a wrapper would ignore that it "
            "abstains. Wrap the model inside it first"
        )


def fit_copy(
    model: TextClassifier, texts: list[str], labels: list[str], random_state: int | None
) -> TextClassifier:
    """Return a fitted copy of a model, with ``random_state`` where that is not None."""
    copy = clone(model)
    if random_state is not None:
        copy.set_params(random_state=random_state)
    return copy.fit(texts, labels)


class Wrapper(TextClassifier):
    """A classifier around ``model``; the fitted one, ``model_``, is saved in a subfolder."""

    model: TextClassifier | None
    random_state: int | None
    model_: TextClassifier

    @classmethod
    def of(cls, fitted: TextClassifier, **params: Any) -> Self:
        """Wrap a fitted model; ``params`` are the wrapper's own arguments.

        Raises
        ------
        ValueError
            The model abstains or is of another kind than is wrapped, or an argument is out of its
            range.
        """
        wrapped = cls(model=clone(fitted), **params)
        wrapped._check()
        wrapped._take(fitted)
        return wrapped

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit a copy of the wrapped model; the wrapper's own settings are not learned."""
        self._check()
        self._fit_inner(as_texts(X), list(y))
        return self

    def _fit_inner(self, texts: list[str], labels: list[str]) -> None:
        self._take(self._copy_fitted(texts, labels))

    def _copy_fitted(self, texts: list[str], labels: list[str]) -> TextClassifier:
        if self.model is None:
            raise ValueError("model is None; pass the model to wrap, such as get_model('tfidf')")
        return fit_copy(self.model, texts, labels, self.random_state)

    def _take(self, fitted: TextClassifier) -> None:
        check_is_fitted(fitted)
        refuse_abstaining(fitted)
        self.model_ = fitted
        self.classes_ = fitted.classes_

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the wrapped model's labels, also where rounding causes a tie."""
        check_is_fitted(self)
        return self.model_.predict(X)

    def _proba(self, texts: list[str]) -> np.ndarray:
        return self.model_._proba(texts)

    def _dump(self, directory: Path) -> dict[str, Any]:
        self.model_.save(directory / "model")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._take(load_member(directory, "model"))
        self.model = clone(self.model_)
