"""Out-of-distribution scores of texts, independent of the classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import cholesky, solve_triangular
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import KFold

from nivesh_lib.models.base import as_texts, prepare
from nivesh_lib.models.directory import read_tensors
from nivesh_lib.models.neural.embedding import FrozenEncoder

_RIDGE = 1e-8  # added to variances, which are about 1e-3 for features of unit length
_FOLDS = 5  # for out-of-fold distances of the training rows


@dataclass(eq=False, repr=False)
class OodScorer:
    """Mahalanobis distance from the training texts in the features of a frozen encoder.

    One Gaussian for all rows serves as well as one for each class (Kamoi and Kobayashi 2020, on
    Lee et al. 2018); its covariance is the estimate of Ledoit and Wolf 2004. No labels are needed.

    Parameters
    ----------
    backbone : str
        The encoder; see `backbones.find_backbone`.
    max_length : int
        Maximum number of tokens; longer texts are truncated.
    random_state : int, optional
        Seed of the folds.

    Examples
    --------
    >>> scorer = OodScorer().fit(["save tax", "pay rent", "save rent", "pay tax"])
    >>> scorer.score(["save tax", "will it rain tomorrow"]).argmax()
    np.int64(1)
    """

    backbone: str = "minilm"
    max_length: int = 128
    random_state: int | None = None

    def fit(self, X: Iterable[str]) -> Self:
        """Fit the Gaussian, and the mean and deviation of out-of-fold distances, on texts (n,).

        Raises
        ------
        ValueError
            Fewer than four texts.
        """
        texts = as_texts(X)
        if len(texts) < _FOLDS - 1:
            raise ValueError(f"{len(texts)} texts are too few to learn distances from; pass 4")
        self.encoder_ = FrozenEncoder.of(self.backbone, self.max_length)
        features = self.encoder_.features([prepare(text) for text in texts])
        # Distances of rows that the Gaussian was fitted on would be too small.
        folds = KFold(min(_FOLDS, len(texts)), shuffle=True, random_state=self.random_state or 0)
        held = np.empty(len(texts))
        for others, fold in folds.split(features):
            held[fold] = _distance(features[fold], *_gaussian(features[others]))
        self.centre_, self.whitening_ = _gaussian(features)
        self.mean_, self.std_ = float(held.mean()), max(float(held.std()), 1e-9)
        return self

    def score(self, X: Iterable[str]) -> np.ndarray:
        """Return the OOD score of each text, (n,).

        Its unit is the standard deviation of out-of-fold training texts, whose mean score is 0.
        """
        texts = [prepare(text) for text in as_texts(X)]
        if not texts:
            return np.empty(0)
        distance = _distance(self.encoder_.features(texts), self.centre_, self.whitening_)
        return (distance - self.mean_) / self.std_

    def dump(self, directory: Path) -> dict[str, Any]:
        """Write encoder and Gaussian into ``directory``; return what `restore` needs beside it."""
        state = self.encoder_.save(directory / "encoder")
        gaussian = {"centre": self.centre_, "whitening": self.whitening_}
        save_file(gaussian, directory / "distance.safetensors")
        return state | {"usual": self.mean_, "spread": self.std_}

    def restore(self, directory: Path, state: dict[str, Any]) -> Self:
        """Read what ``dump`` wrote and returned."""
        self.encoder_ = FrozenEncoder.restored(directory / "encoder", state, self.max_length)
        gaussian = read_tensors(directory, "distance.safetensors")
        self.centre_, self.whitening_ = gaussian["centre"], gaussian["whitening"]
        self.mean_, self.std_ = float(state["usual"]), float(state["spread"])
        return self


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (width,) and a whitening matrix (width, width)."""
    rows = features.astype(np.float64)
    covariance, _ = ledoit_wolf(rows)
    covariance += _RIDGE * np.eye(len(covariance))  # identical texts have covariance 0
    root = cholesky(covariance, lower=True)
    whitening = solve_triangular(root, np.eye(len(root)), lower=True).T
    return rows.mean(axis=0).astype(np.float32), np.ascontiguousarray(whitening, np.float32)


def _distance(features: np.ndarray, centre: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Return the squared Mahalanobis distance of each row, shape (n,) float64."""
    return (((features - centre) @ whitening).astype(np.float64) ** 2).sum(axis=1)
