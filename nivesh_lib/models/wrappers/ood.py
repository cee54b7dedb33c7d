"""Out-of-distribution scores of texts, independent of the classifier."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import cholesky, solve_triangular
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from nivesh_lib.models.base import as_texts, prepare
from nivesh_lib.models.directory import read_tensors
from nivesh_lib.models.neural.embedding import FrozenEncoder

_RIDGE = 1e-8  # added to variances, which are about 1e-3 for features of unit length
_LEAST_TEXTS = 4


@dataclass(eq=False, repr=False)
class OodScorer:
    """Mahalanobis distance from the training texts in the features of a frozen encoder.

    One Gaussian for all rows serves as well as one for each class (Kamoi and Kobayashi 2020, on
    Lee et al. 2018); its covariance is the estimate of Ledoit and Wolf 2004. No labels are needed.
    Where texts from outside are known, `exposed` adds what tells them from the training texts.

    Parameters
    ----------
    backbone : str
        The encoder; see `backbones.find_backbone`.
    max_length : int
        Maximum number of tokens; longer texts are truncated.

    Examples
    --------
    >>> scorer = OodScorer().fit(["save tax", "pay rent", "save rent", "pay tax"])
    >>> scorer.score(["save tax", "will it rain tomorrow"]).argmax()
    np.int64(1)
    """

    backbone: str = "minilm"
    max_length: int = 128

    def fit(self, X: Iterable[str]) -> Self:
        """Fit the Gaussian, and mean and deviation of the distances of texts (n,) left out of it.

        Raises
        ------
        ValueError
            Fewer than four texts.
        """
        texts = as_texts(X)
        if len(texts) < _LEAST_TEXTS:
            raise ValueError(
                f"{len(texts)} texts are too few to learn distances from; pass {_LEAST_TEXTS}"
            )
        self.encoder_ = FrozenEncoder.of(self.backbone, self.max_length)
        features = self._features(texts)
        self.centre_, self.whitening_, shrinkage = _gaussian(features)
        held = _left_out(_distance(features, self.centre_, self.whitening_), shrinkage)
        self.mean_, self.std_ = float(held.mean()), max(float(held.std()), 1e-9)
        self.direction_, self.usual_ = None, 0.0
        return self

    def exposed(self, X: Iterable[str], outside: Iterable[str]) -> Self:
        """Return a copy whose score also looks at what tells texts outside from training texts.

        Added is the logit of a logistic regression on the whitened features, in standard
        deviations of the training texts (outlier exposure, Hendrycks et al. 2019).

        Parameters
        ----------
        X, outside
            The texts that it was fitted on, (n,), and texts that belong to no label, (m,).
        """
        parts = [self._whitened(self._features(texts)) for texts in (X, outside)]
        is_outside = np.repeat([0, 1], [len(part) for part in parts])
        linear = LogisticRegression(class_weight="balanced", max_iter=200, tol=1e-3)
        (direction,) = linear.fit(np.concatenate(parts), is_outside).coef_
        logits = parts[0] @ direction
        spread, made = max(float(logits.std()), 1e-9), copy.copy(self)
        made.direction_ = (direction / spread).astype(np.float32)
        made.usual_ = float(logits.mean()) / spread
        return made

    def score(self, X: Iterable[str]) -> np.ndarray:
        """Return the OOD score of each text, (n,).

        Its unit is the standard deviation of training texts, each left out, whose mean is 0.
        """
        texts = as_texts(X)
        if not texts:
            return np.empty(0)
        features = self._features(texts)
        distance = _distance(features, self.centre_, self.whitening_)
        score: np.ndarray = (distance - self.mean_) / self.std_
        if self.direction_ is not None:
            score = score + self._whitened(features) @ self.direction_ - self.usual_
        return score

    def _features(self, texts: Iterable[str]) -> np.ndarray:
        return self.encoder_.features([prepare(text) for text in as_texts(texts)])

    def _whitened(self, features: np.ndarray) -> np.ndarray:
        """Return features (n, width) whose squares add up to about 1 in each training row."""
        whitened: np.ndarray = (features - self.centre_) @ self.whitening_
        return whitened / np.float32(whitened.shape[1] ** 0.5)

    def dump(self, directory: Path) -> dict[str, Any]:
        """Write encoder and Gaussian into ``directory``; return what `restore` needs beside it."""
        state = self.encoder_.save(directory / "encoder")
        tensors = {"centre": self.centre_, "whitening": self.whitening_}
        if self.direction_ is not None:
            tensors["direction"] = self.direction_
        save_file(tensors, directory / "distance.safetensors")
        return state | {"usual": self.mean_, "spread": self.std_, "usual_logit": self.usual_}

    def restore(self, directory: Path, state: dict[str, Any]) -> Self:
        """Read what ``dump`` wrote and returned."""
        self.encoder_ = FrozenEncoder.restored(directory / "encoder", state, self.max_length)
        tensors = read_tensors(directory, "distance.safetensors")
        self.centre_, self.whitening_ = tensors["centre"], tensors["whitening"]
        self.mean_, self.std_ = float(state["usual"]), float(state["spread"])
        self.direction_, self.usual_ = tensors.get("direction"), float(state.get("usual_logit", 0))
        return self


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the mean (width,), a whitening matrix (width, width) and the shrinkage (0 to 1)."""
    covariance, shrinkage = ledoit_wolf(features)
    covariance = covariance.astype(np.float64)
    covariance += _RIDGE * np.eye(len(covariance))  # identical texts have covariance 0
    root = cholesky(covariance, lower=True)
    whitening = solve_triangular(root, np.eye(len(root)), lower=True).T
    centre = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre, np.ascontiguousarray(whitening, np.float32), float(shrinkage)


def _left_out(distance: np.ndarray, shrinkage: float) -> np.ndarray:
    """Return the distance of each row, (n,), from the Gaussian of the other rows.

    Those of the rows that a Gaussian was fitted on are too small. Without a row the covariance is
    smaller by a matrix of rank one, whose inverse Sherman and Morrison 1950 give; the shrinkage
    is taken as it is.
    """
    n = len(distance)
    own = (1 - shrinkage) / n * distance  # below 1: the row's part of the covariance
    left_out: np.ndarray = (n / (n - 1)) ** 2 * distance / (1 - own)
    return left_out


def _distance(features: np.ndarray, centre: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Return the squared Mahalanobis distance of each row, shape (n,) float64."""
    return (((features - centre) @ whitening).astype(np.float64) ** 2).sum(axis=1)
