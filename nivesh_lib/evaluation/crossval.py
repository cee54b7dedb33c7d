"""Out-of-fold probabilities on the folds that belong to the data version."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone


@dataclass(frozen=True)
class CrossValidation:
    """Probabilities for rows that the predicting model never saw.

    ``oof`` has ``id``, ``fold`` and one probability column for each label, rows in
    the order of the frame; ``fit_seconds`` has one entry for each fold; ``views`` has
    the labels that were predicted for other texts of the same rows.
    """

    oof: pd.DataFrame
    fit_seconds: tuple[float, ...]
    views: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable label for each row, shape (n,)."""
        return predicted_labels(self.oof)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted label for each row, shape (n,)."""
        return probabilities(self.oof).max(axis=1).to_numpy()


def probabilities(oof: pd.DataFrame) -> pd.DataFrame:
    """Return only the probability columns of an out-of-fold table."""
    return oof.drop(columns=["id", "fold"])


def predicted_labels(oof: pd.DataFrame) -> np.ndarray:
    """Return the most probable label for each row of an out-of-fold table, shape (n,)."""
    table = probabilities(oof)
    return table.columns.to_numpy(dtype=object)[table.to_numpy().argmax(axis=1)]


def cross_validate(
    model: Any,
    frame: pd.DataFrame,
    *,
    labels: Sequence[str],
    text: str = "query",
    label: str = "intent",
    fold: str = "fold",
    views: Mapping[str, Sequence[str]] | None = None,
) -> CrossValidation:
    """Fit a clone of ``model`` for each fold and predict the rows left out.

    Parameters
    ----------
    views : mapping, optional
        Name -> another text for each row of the frame, such as one with typos; predicted by
        the same models, never trained on.

    Raises
    ------
    ValueError
        Fewer than two folds in ``frame``.
    """
    folds = sorted(frame[fold].unique())
    if len(folds) < 2:
        raise ValueError(f"column {fold!r} holds {len(folds)} fold; at least 2 are needed")
    proba = pd.DataFrame(0.0, index=frame.index, columns=sorted(labels))
    seconds = []
    seen = {name: np.empty(len(frame), dtype=object) for name in views or {}}
    for k in folds:
        held = (frame[fold] == k).to_numpy()
        started = time.perf_counter()
        fitted = clone(model).fit(frame.loc[~held, text].tolist(), frame.loc[~held, label].tolist())
        seconds.append(time.perf_counter() - started)
        predicted = fitted.predict_proba(frame.loc[held, text].tolist())
        proba.loc[held, list(fitted.classes_)] = predicted
        for name, texts in (views or {}).items():
            seen[name][held] = fitted.predict([texts[n] for n in np.flatnonzero(held).tolist()])
    oof = pd.concat([frame[["id", fold]].rename(columns={fold: "fold"}), proba], axis=1)
    return CrossValidation(oof, tuple(seconds), seen)
