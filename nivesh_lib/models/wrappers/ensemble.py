"""An ensemble of models of different kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from nivesh_lib.models.base import TextClassifier, as_texts, get_model, load_member
from nivesh_lib.models.text.linear import softmax

_LEAST = 1e-6  # a member that excludes a label does not exclude it for all
_DEFAULT = "tfidf", "static", "embedding", "transformer"
DEFAULT_MEMBERS: dict[str, dict[str, Any]] = {kind: {} for kind in _DEFAULT}


@dataclass(eq=False, repr=False)
class EnsembleClassifier(TextClassifier):
    """Members' probabilities joined: their average, or with weights their logarithmic pool.

    Models of n-grams, token vectors, frozen features and fine-tuned layers err on different
    queries, so that together they err less often than each (Dietterich 2000).

    Parameters
    ----------
    members : mapping, optional
        Name -> constructor arguments, with ``kind`` where the name is not that of a kind; by
        default TF-IDF, static model, frozen embedding and transformer.
    weights : mapping, optional
        Name -> its weight, see `log_pool`; learned beforehand, see `pool_weights`.
    random_state : int, optional
        Seed of every member without one of its own.
    """

    kind: ClassVar[str] = "ensemble"

    members: Mapping[str, Mapping[str, Any]] | None = None
    weights: Mapping[str, float] | None = None
    random_state: int | None = 42

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit every member on the same rows."""
        texts, labels = as_texts(X), list(y)
        chosen = DEFAULT_MEMBERS if self.members is None else self.members
        if not chosen:
            raise ValueError("members is empty; name at least one kind of model")
        self.members_ = {
            name: self._member(name, **params).fit(texts, labels) for name, params in chosen.items()
        }
        self.classes_ = next(iter(self.members_.values())).classes_
        return self

    def _member(self, name: str, **params: Any) -> TextClassifier:
        kind, settings = params.pop("kind", name), {"random_state": self.random_state, **params}
        return get_model(kind, **settings)

    @classmethod
    def of(
        cls, fitted: Mapping[str, TextClassifier], weights: Mapping[str, float] | None = None
    ) -> Self:
        """Join models, name -> model, that were fitted on the same rows.

        Raises
        ------
        ValueError
            Their classes differ.
        """
        models = dict(fitted)
        joined = cls({name: _described(name, model) for name, model in models.items()}, weights)
        joined.members_ = models
        joined.classes_ = next(iter(models.values())).classes_
        for name, model in models.items():
            if model.classes_.tolist() != joined.classes_.tolist():
                raise ValueError(f"the classes of {name} are not those of the first member")
        return joined

    def _proba(self, texts: list[str]) -> np.ndarray:
        found = [model._proba(texts) for model in self.members_.values()]
        if self.weights is None:
            return np.mean(found, axis=0)
        return log_pool(found, [self.weights[name] for name in self.members_])

    def _dump(self, directory: Path) -> dict[str, Any]:
        for name, model in self.members_.items():
            model.save(directory / name)
        return {"members": list(self.members_)}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        names = list(dict.fromkeys(state["members"]))  # each once, however often it is listed
        if not names:
            raise ValueError("members is empty")
        if self.weights is not None and sorted(self.weights) != sorted(names):
            raise ValueError("weights are of other members")
        self.members_ = {name: load_member(directory, name) for name in names}


def _described(name: str, model: TextClassifier) -> dict[str, Any]:
    """Return the constructor arguments of a member, with its kind where the name is another."""
    kind = {} if name == model.kind else {"kind": model.kind}
    return kind | model._plain_params()


def log_pool(probas: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the logarithmic pool of probabilities, each (rows, classes).

    It is proportional to the product of the members' probabilities, each to the power of its
    weight (Genest and Zidek 1986). Weights need not sum to one: a larger sum is surer.
    """
    scores = sum(
        weight * np.log(np.maximum(proba, _LEAST))
        for weight, proba in zip(weights, probas, strict=True)
    )
    return softmax(np.asarray(scores))


def pool_weights(probas: Sequence[np.ndarray], classes: np.ndarray) -> list[float]:
    """Return the weights from zero with which a pool predicts best, by log-likelihood.

    A normal prior, of standard deviation 1 around equal weights that sum to one, keeps them from
    growing without end where few rows are all answered rightly.

    Parameters
    ----------
    probas
        Of each member, (rows, classes), for rows that it was not trained on.
    classes
        The true class of each row, as its column.
    """
    logs = np.stack([np.log(np.maximum(proba, _LEAST)) for proba in probas])
    right = logs[:, np.arange(len(classes)), classes].mean(axis=1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.tensordot(weights, logs, axes=1)
        expected = (softmax(scores) * logs).sum(axis=2).mean(axis=1)
        away = (weights - start) / len(classes)
        value = logsumexp(scores, axis=1).mean() - weights @ right + away @ (weights - start) / 2
        return float(value), expected - right + away

    start, bounds = np.full(len(probas), 1 / len(probas)), [(0.0, None)] * len(probas)
    return [round(w, 4) for w in minimize(loss, start, jac=True, bounds=bounds).x.tolist()]
