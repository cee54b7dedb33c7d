"""How far a text is from the training rows, whatever model answers it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import KFold

from nivesh_lib.models.base import as_texts, prepare
from nivesh_lib.models.neural.backbones import find_backbone
from nivesh_lib.models.neural.embedding import FrozenEncoder

_RIDGE = 1e-8  # features have length one, so that a variance is about 1e-3
_FOLDS = 5  # for the distances of training rows that their own statistics did not see


class Surprise:
    """Mahalanobis distance from the training rows in a frozen encoder's features.

    One Gaussian for all rows serves as well as one for each class (Kamoi and Kobayashi 2020, on
    Lee et al. 2018), with the covariance of Ledoit and Wolf 2004. No label is needed.

    Parameters
    ----------
    backbone : str
        The encoder; see `backbones.find_backbone`.
    max_length : int
        Word pieces of a text that the encoder reads.
    random_state : int, optional
        Seed of the parts of the training rows.

    Examples
    --------
    >>> known = Surprise().fit(["save tax", "pay rent", "save rent", "pay tax"])
    >>> known.of(["save tax", "will it rain tomorrow"]).argmax()
    np.int64(1)
    """

    encoder_: FrozenEncoder
    centre_: np.ndarray
    whitening_: np.ndarray
    usual_: float
    spread_: float

    def __init__(
        self, backbone: str = "minilm", max_length: int = 128, random_state: int | None = None
    ) -> None:
        self.backbone = backbone
        self.max_length = max_length
        self.random_state = random_state

    def fit(self, X: Iterable[str]) -> Self:
        """Learn what familiar texts look like.

        Raises
        ------
        ValueError
            Fewer than four texts.
        """
        texts = as_texts(X)
        if len(texts) < _FOLDS - 1:
            raise ValueError(f"{len(texts)} texts are too few to learn distances from; pass 4")
        self.encoder_ = FrozenEncoder(find_backbone(self.backbone), self.max_length)
        features = self.encoder_.features([prepare(text) for text in texts])
        # Rows lie near their own mean; those left out of it are as far away as new ones will be.
        parts = KFold(min(_FOLDS, len(texts)), shuffle=True, random_state=self.random_state or 0)
        held = np.empty(len(texts))
        for others, part in parts.split(features):
            held[part] = _distance(features[part], *_gaussian(features[others]))
        self.centre_, self.whitening_ = _gaussian(features)
        self.usual_, self.spread_ = float(held.mean()), max(float(held.std()), 1e-9)
        return self

    def of(self, X: Iterable[str]) -> np.ndarray:
        """Return the surprise of each text, shape (n,).

        In standard deviations of held-out training rows: 0 is usual, 3 is strange.
        """
        texts = [prepare(text) for text in as_texts(X)]
        if not texts:
            return np.empty(0)
        distance = _distance(self.encoder_.features(texts), self.centre_, self.whitening_)
        return (distance - self.usual_) / self.spread_

    def dump(self, directory: Path) -> dict[str, float]:
        """Write encoder and Gaussian below ``directory``; return the two numbers beside them."""
        from safetensors.numpy import save_file

        (directory / "encoder").mkdir()
        self.encoder_.save(directory / "encoder")
        gaussian = {"centre": self.centre_, "whitening": self.whitening_}
        save_file(gaussian, directory / "distance.safetensors")
        return {"usual": self.usual_, "spread": self.spread_}

    def restore(self, directory: Path, state: dict[str, Any]) -> Self:
        """Read what ``dump`` left."""
        from safetensors.numpy import load_file

        self.encoder_ = FrozenEncoder(directory / "encoder", self.max_length)
        gaussian = load_file(directory / "distance.safetensors")
        self.centre_, self.whitening_ = gaussian["centre"], gaussian["whitening"]
        self.usual_, self.spread_ = float(state["usual"]), float(state["spread"])
        return self


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (width,) and a matrix (width, width) that makes the covariance one."""
    rows = features.astype(np.float64)
    covariance, _ = ledoit_wolf(rows)
    covariance += _RIDGE * np.eye(len(covariance))  # texts that are all the same have none
    root = cholesky(covariance, lower=True)
    whitening = solve_triangular(root, np.eye(len(root)), lower=True).T
    return rows.mean(axis=0).astype(np.float32), np.ascontiguousarray(whitening, np.float32)


def _distance(features: np.ndarray, centre: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Return the squared Mahalanobis distance of each row, shape (n,) float64."""
    return (((features - centre) @ whitening).astype(np.float64) ** 2).sum(axis=1)
