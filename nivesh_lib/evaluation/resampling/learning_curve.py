"""How a score grows with the rows to learn from: more labels, or a better model?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from nivesh_lib.evaluation.scores import headline_mask, paired_difference, score
from nivesh_lib.records.estimate import Estimate, as_columns

WORTH = 0.02  # a gain that would be worth twice the labels


@dataclass(frozen=True)
class LearningCurve:
    """Scores for training parts of growing size, each half of the next.

    ``table`` has a row for each size: ``rows`` (to train on, on average over folds), ``share`` of
    them, accuracy and macro_f1 with ``_low`` and ``_high``. ``last_gain`` is what the last
    doubling added to ``metric`` on the same tested rows, and ``predictions`` the labels predicted,
    share -> shape (n,), in the order of the frame.
    """

    table: pd.DataFrame
    metric: str
    last_gain: Estimate
    predictions: dict[float, np.ndarray]

    @property
    def reading(self) -> str:
        """Say in one line whether more labels or a better model would help."""
        half, whole = (round(rows) for rows in self.table["rows"].iloc[-2:])
        name = {"accuracy": "accuracy", "macro_f1": "macro-F1"}[self.metric]
        gain = self.last_gain
        said = f"From {half:,} to {whole:,} rows {name} rose by {gain}: ".replace(
            "rose by -", "changed by -"
        )
        if gain.low > 0:
            return said + "more labels still help."
        if gain.high < WORTH:
            return said + "more labels of this kind add little; look for a better model."
        return said + "too few rows to say whether more labels would help."


def learning_curve(
    model: Any,
    frame: pd.DataFrame,
    *,
    halvings: int = 3,
    metric: str = "macro_f1",
    text: str = "query",
    label: str = "intent",
    fold: str = "fold",
    n_boot: int = 2000,
    seed: int = 42,
) -> LearningCurve:
    """Return scores out of fold for the whole of each fold's training rows, a half, a quarter, ….

    Smaller parts lie within larger ones and keep the labels' shares; which rows they have depends
    on ``seed`` alone. All sizes are tested on the same natural rows. The intervals are about
    other tested rows, not about other draws of the training parts.

    Raises
    ------
    ValueError
        ``halvings`` below one, fewer than two folds, or parts too small to have two labels.
    """
    folds = sorted(frame[fold].unique())
    if halvings < 1 or len(folds) < 2:
        raise ValueError(f"need 1 halving and 2 folds at least: {halvings}, {len(folds)}")
    texts, true = frame[text].to_numpy(dtype=object), frame[label].to_numpy(dtype=object)
    shares = [0.5**n for n in range(halvings, -1, -1)]
    predictions = {share: np.empty(len(frame), dtype=object) for share in shares}
    sizes = dict.fromkeys(shares, 0)
    rng = np.random.default_rng(seed)
    for number in folds:
        held = (frame[fold] == number).to_numpy()
        order = _nested_order(true, np.flatnonzero(~held), rng)
        for share in shares:
            rows = order[: round(share * len(order))]
            if len(set(true[rows])) < 2:
                raise ValueError(
                    f"{len(rows)} of {len(order)} training rows have fewer than two labels; "
                    f"use fewer halvings than {halvings}"
                )
            fitted = clone(model).fit(texts[rows].tolist(), true[rows].tolist())
            predictions[share][held] = fitted.predict(texts[held].tolist())
            sizes[share] += len(rows)
    natural = headline_mask(frame)
    table = [
        {"rows": sizes[share] / len(folds), "share": share}
        | as_columns(score(true[natural], predicted[natural], n_boot=n_boot, seed=seed))
        for share, predicted in predictions.items()
    ]
    gain = paired_difference(
        true[natural],
        predictions[1.0][natural],
        predictions[0.5][natural],
        metric=metric,
        n_boot=n_boot,
        seed=seed,
    )
    return LearningCurve(pd.DataFrame(table), metric, gain, predictions)


def _nested_order(true: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``rows`` so ordered that each beginning has the labels in about their shares."""
    place = np.empty(len(rows))
    for label in np.unique(true[rows].astype(str)):
        of_label = np.flatnonzero(true[rows] == label)
        shuffled = rng.permutation(of_label)
        place[shuffled] = (np.arange(len(shuffled)) + rng.random(len(shuffled))) / len(shuffled)
    return rows[np.argsort(place, kind="stable")]
