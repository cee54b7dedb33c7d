"""Models around models: one makes confidence mean what it says, one knows what it does not know."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_texts, load_model
from nivesh_lib.models.neural.embedding import remember_features
from nivesh_lib.models.text.linear import softmax
from nivesh_lib.models.wrappers.ood import Surprise

_SMALLEST = 1e-12  # probability that a logarithm still takes


def refuse_abstaining(fitted: TextClassifier) -> None:
    """Raise ValueError for a model that hands texts over: around it nobody would ask whether."""
    if hasattr(fitted, "accepts"):
        raise ValueError(
            f"a model of kind {fitted.kind!r} goes outermost, or what it hands over would be "
            "answered; wrap the model inside it first"
        )


class _Wrapper(TextClassifier):
    """A model that holds another, saved in a folder of its own."""

    model: TextClassifier | None
    random_state: int | None
    model_: TextClassifier

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit a copy of the model inside; what else is set stays as it was given."""
        self._check()
        self._fit_inner(as_texts(X), list(y))
        return self

    def _check(self) -> None:
        """Raise ValueError for an argument that cannot be used."""

    def _fit_inner(self, texts: list[str], labels: list[str]) -> None:
        self._take(self._copy_fitted(texts, labels))

    def _copy_fitted(self, texts: list[str], labels: list[str]) -> TextClassifier:
        if self.model is None:
            raise ValueError("model is None; pass the model to wrap, such as get_model('tfidf')")
        inner = clone(self.model)
        if self.random_state is not None:
            inner.set_params(random_state=self.random_state)
        return inner.fit(texts, labels)

    def _take(self, fitted: TextClassifier) -> None:
        check_is_fitted(fitted)
        refuse_abstaining(fitted)
        self.model_ = fitted
        self.classes_ = fitted.classes_

    def _plain_params(self) -> dict[str, Any]:
        return {name: value for name, value in super()._plain_params().items() if name != "model"}

    def _dump(self, directory: Path) -> dict[str, Any]:
        self.model_.save(directory / "model")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        classes = self.classes_.tolist()
        self._take(load_model(directory / "model"))
        if self.classes_.tolist() != classes:
            raise ValueError("the classes are not those of the model inside")
        self.model = clone(self.model_)


class Calibrated(_Wrapper):
    """Another model's answers, with probabilities at a temperature (Guo et al. 2017).

    It divides the logarithms of the probabilities, so it needs no logits, and changes no answer.

    Parameters
    ----------
    model : TextClassifier
        The model to wrap; ``fit`` fits a copy of it and leaves it alone.
    temperature : float
        Above 1 makes answers less sure, below 1 surer. It is given, not learned in ``fit``: the
        probabilities of a model's own training rows say nothing about it. Take it from
        out-of-fold rows, as `evaluation.calibration.cross_fitted_temperature` does.
    random_state : int, optional
        Seed of the model inside; None leaves it its own.

    Examples
    --------
    >>> from nivesh_lib.models.base import get_model
    >>> model = Calibrated(get_model("tfidf"), temperature=0.4)
    >>> model = model.fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "calibrated"

    def __init__(
        self,
        model: TextClassifier | None = None,
        temperature: float = 1.0,
        random_state: int | None = None,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.random_state = random_state

    @classmethod
    def of(cls, fitted: TextClassifier, *, temperature: float) -> Self:
        """Wrap a model that was fitted already."""
        wrapped = cls(model=clone(fitted), temperature=temperature)
        wrapped._check()
        wrapped._take(fitted)
        return wrapped

    def _check(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature!r} is not above 0 and finite")

    def _proba(self, texts: list[str]) -> np.ndarray:
        proba = self.model_._proba(texts)
        if self.temperature == 1:
            return proba
        return softmax(np.log(np.clip(proba, _SMALLEST, None)) / self.temperature)

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the labels of the model inside, also where rounding makes a tie."""
        check_is_fitted(self)
        return self.model_.predict(X)


class Abstaining(_Wrapper):
    """Another model's answers, and which of them to act on.

    ``predict`` and ``predict_proba`` are those of the model inside: there is no label for what is
    out of scope. ``accepts`` says for each text whether to route it or hand it over. Its score,
    ``certainty``, is the confidence of the answer, which should be calibrated, times how familiar
    the text looks: a logistic function of its distance from the training rows, `Surprise`.

    Parameters
    ----------
    model : TextClassifier
        The model to wrap, best a `Calibrated` one; ``fit`` fits a copy of it and leaves it alone.
    threshold : float, optional
        Certainty from which on a text is accepted. None accepts every text: choose it on
        out-of-fold rows and out-of-scope queries, `evaluation.abstention.cross_fitted_routing`.
    midpoint, steepness : float
        Of the logistic function: the surprise at which a text is as likely in scope as out of it,
        and how fast that changes. The defaults come from `evaluation.abstention.fit_familiarity`
        on intents 1.1.0 and the choosing half of out_of_scope 1.0.0, for one query in ten out of
        scope.
    backbone : str
        The encoder; see `backbones.find_backbone`.
    max_length : int
        Word pieces of a text that the encoder reads.
    random_state : int, optional
        Seed of the model inside, None leaves it its own, and of the parts of the training rows.
    """

    kind: ClassVar[str] = "abstaining"

    def __init__(
        self,
        model: TextClassifier | None = None,
        threshold: float | None = None,
        midpoint: float = 2.69,
        steepness: float = 1.62,
        backbone: str = "minilm",
        max_length: int = 128,
        random_state: int | None = None,
    ) -> None:
        self.model = model
        self.threshold = threshold
        self.midpoint = midpoint
        self.steepness = steepness
        self.backbone = backbone
        self.max_length = max_length
        self.random_state = random_state

    @property
    def temperature(self) -> float | None:
        """The temperature of the model inside; None where that is not calibrated."""
        return getattr(getattr(self, "model_", self.model), "temperature", None)

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit the model inside, then learn what familiar texts look like."""
        texts, labels = as_texts(X), list(y)
        with remember_features():
            self._fit_inner(texts, labels)
            self.surprise_ = self._surprise().fit(texts)
        return self

    @classmethod
    def of(cls, fitted: TextClassifier, X: Iterable[str] | Surprise, **params: Any) -> Self:
        """Wrap a model that was fitted already on the texts ``X``, or on those of a `Surprise`."""
        if isinstance(X, Surprise):
            params |= {"backbone": X.backbone, "max_length": X.max_length}
        wrapped = cls(model=clone(fitted), **params)
        wrapped._take(fitted)
        wrapped.surprise_ = X if isinstance(X, Surprise) else wrapped._surprise().fit(X)
        return wrapped

    def _surprise(self) -> Surprise:
        return Surprise(self.backbone, self.max_length, self.random_state)

    def surprise(self, X: Iterable[str]) -> np.ndarray:
        """Return how far each text is from the training rows, shape (n,).

        In standard deviations of held-out training rows: 0 is usual, 3 is strange.
        """
        check_is_fitted(self)
        return self.surprise_.of(X)

    def certainty(self, X: Iterable[str], proba: np.ndarray | None = None) -> np.ndarray:
        """Return confidence times familiarity of each text, between 0 and 1, shape (n,).

        ``proba``, what `predict_proba` said of the texts, spares asking the model again.
        """
        texts = as_texts(X)
        with remember_features():  # a model inside may ask the same encoder
            familiarity = expit(self.steepness * (self.midpoint - self.surprise(texts)))
            known = self.predict_proba(texts) if proba is None else proba
        return known.max(axis=1, initial=0.0) * familiarity

    def accepts(self, X: Iterable[str], proba: np.ndarray | None = None) -> np.ndarray:
        """Return whether to act on the answer to each text, shape (n,); see `certainty`."""
        certainty = self.certainty(X, proba)
        if self.threshold is None:
            return np.ones(len(certainty), dtype=bool)
        return certainty >= self.threshold

    def _proba(self, texts: list[str]) -> np.ndarray:
        return self.model_._proba(texts)

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the labels of the model inside, for accepted texts and others."""
        check_is_fitted(self)
        return self.model_.predict(X)

    def _dump(self, directory: Path) -> dict[str, Any]:
        return super()._dump(directory) | self.surprise_.dump(directory)

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        super()._restore(directory, state)
        self.surprise_ = self._surprise().restore(directory, state)
