"""Temperature scaling and selective prediction around any classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_texts
from nivesh_lib.models.neural.embedding import cached_features
from nivesh_lib.models.neural.training import MAX_LENGTH
from nivesh_lib.models.text.linear import softmax
from nivesh_lib.models.wrappers.ood import OodScorer
from nivesh_lib.models.wrappers.wrapper import Wrapper

_SMALLEST = 1e-12  # lower bound of probabilities whose logarithm is taken


@dataclass(eq=False, repr=False)
class Calibrated(Wrapper):
    """A classifier with temperature-scaled probabilities (Guo et al. 2017).

    The logarithms of the probabilities are divided by the temperature, so that no logits are
    needed; predicted labels do not change.

    Parameters
    ----------
    model : TextClassifier
        The model to wrap; ``fit`` fits a copy.
    temperature : float
        Above 1 lowers confidence, below 1 raises it. It is not learned in ``fit``, since
        probabilities of training rows are biased; estimate it on out-of-fold rows, see
        `evaluation.confidence.calibration.cross_fitted_temperature`.
    random_state : int, optional
        Seed of the wrapped model; None keeps its own.

    Examples
    --------
    >>> from nivesh_lib.models.base import get_model
    >>> model = Calibrated(get_model("tfidf"), temperature=0.4)
    >>> model = model.fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "calibrated"

    model: TextClassifier | None = None
    temperature: float = 1.0
    random_state: int | None = None

    def _check(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature!r} is not above 0 and finite")

    def _proba(self, texts: list[str]) -> np.ndarray:
        proba = super()._proba(texts)
        if self.temperature == 1:
            return proba
        return softmax(np.log(np.clip(proba, _SMALLEST, None)) / self.temperature)


@dataclass(eq=False, repr=False)
class Abstaining(Wrapper):
    """A selective classifier: predictions with a mask of those to accept.

    ``predict`` and ``predict_proba`` are those of the wrapped model; there is no label for
    out-of-scope texts. ``accepts`` returns for each text whether to use the prediction or to
    abstain. Its score, ``certainty``, is the confidence, which should be calibrated, times a
    logistic function of the out-of-distribution score; see `OodScorer`.

    Parameters
    ----------
    model : TextClassifier
        The model to wrap, preferably a `Calibrated` one; ``fit`` fits a copy.
    threshold : float, optional
        Minimum certainty of accepted texts; None accepts all. Choose it on out-of-fold rows and
        out-of-scope queries, see `evaluation.confidence.selective`.
    midpoint, steepness : float
        Parameters of the logistic function: the OOD score at which a text is equally likely in and
        out of scope, and the slope. The defaults were fitted on intents 1.2.0 and the choosing
        half of out_of_scope 1.1.0, with one query in ten out of scope.
    backbone : str
        The encoder of `OodScorer`; see `backbones.find_backbone`.
    max_length : int
        Maximum number of tokens that the encoder reads.
    random_state : int, optional
        Seed of the wrapped model; None keeps its own.
    """

    kind: ClassVar[str] = "abstaining"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"max_length": MAX_LENGTH}

    model: TextClassifier | None = None
    threshold: float | None = None
    midpoint: float = 2.75
    steepness: float = 1.29
    backbone: str = "minilm"
    max_length: int = 128
    random_state: int | None = None

    @property
    def temperature(self) -> float | None:
        """The temperature of the wrapped model; None if it is not calibrated."""
        return getattr(getattr(self, "model_", self.model), "temperature", None)

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit a copy of the wrapped model and the OOD scorer on the same texts."""
        self._check()
        texts, labels = as_texts(X), list(y)
        with cached_features():
            self._fit_inner(texts, labels)
            self.ood_scorer_ = self._new_scorer().fit(texts)
        return self

    @classmethod
    def of(  # type: ignore[override]
        cls, fitted: TextClassifier, X: Iterable[str] | OodScorer, **params: Any
    ) -> Self:
        """Wrap a fitted model.

        Parameters
        ----------
        fitted : TextClassifier
            The model to wrap.
        X : iterable of str or OodScorer
            The texts it was fitted on, or a scorer fitted on them.
        **params
            Constructor arguments.
        """
        if isinstance(X, OodScorer):
            params |= {"backbone": X.backbone, "max_length": X.max_length}
        wrapped = super().of(fitted, **params)
        wrapped.ood_scorer_ = X if isinstance(X, OodScorer) else wrapped._new_scorer().fit(X)
        return wrapped

    def _new_scorer(self) -> OodScorer:
        return OodScorer(self.backbone, self.max_length)

    def ood_score(self, X: Iterable[str]) -> np.ndarray:
        """Return the out-of-distribution score of each text, (n,); see `OodScorer.score`."""
        check_is_fitted(self)
        return self.ood_scorer_.score(X)

    def certainty(self, X: Iterable[str], proba: np.ndarray | None = None) -> np.ndarray:
        """Return the certainty of each text, (n,), between 0 and 1.

        ``proba``, what `predict_proba` returned for the texts, avoids a second prediction.
        """
        texts = as_texts(X)
        with cached_features():  # the wrapped model may use the same encoder
            in_scope = expit(self.steepness * (self.midpoint - self.ood_score(texts)))
            proba = self.predict_proba(texts) if proba is None else proba
        return proba.max(axis=1, initial=0.0) * in_scope

    def accepts(self, X: Iterable[str], proba: np.ndarray | None = None) -> np.ndarray:
        """Return a boolean mask (n,) of the texts to predict; see `certainty` for ``proba``."""
        certainty = self.certainty(X, proba)
        if self.threshold is None:
            return np.ones(len(certainty), dtype=bool)
        return certainty >= self.threshold

    def _dump(self, directory: Path) -> dict[str, Any]:
        return super()._dump(directory) | self.ood_scorer_.dump(directory)

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        super()._restore(directory, state)
        self.ood_scorer_ = self._new_scorer().restore(directory, state)
