"""Scores by number of training rows: would more labels help, or a better model?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from nivesh_lib.evaluation.scores import headline_mask, paired_difference, score
from nivesh_lib.records.estimate import Estimate, as_columns
from nivesh_lib.records.results import HEADLINE

WORTH = 0.02  # the smallest gain that justifies twice the labels


@dataclass(frozen=True)
class LearningCurve:
    """Scores for training parts of growing size, each half of the next.

    ``table`` has a row for each size: ``rows`` (to train on, on average over folds), ``share`` of
    them, each metric with ``_low`` and ``_high``. ``last_gain`` is the gain in ``metric`` of the
    last doubling on the same test rows, and ``predictions`` the predicted labels, share -> shape
    (n,), in the order of the frame.
    """

    table: pd.DataFrame
    metric: str
    last_gain: Estimate
    predictions: dict[float, np.ndarray]


def learning_curve(
    model: Any,
    frame: pd.DataFrame,
    *,
    halvings: int = 3,
    metric: str = HEADLINE,
    n_boot: int = 2000,
    seed: int = 42,
) -> LearningCurve:
    """Return out-of-fold scores for all of each fold's training rows, a half, a quarter, ….

    Smaller parts are subsets of larger ones, stratified by label, and depend on ``seed`` alone.
    All sizes are tested on the same natural rows. The intervals are about other test rows, not
    about other draws of the training parts.

    Raises
    ------
    ValueError
        ``halvings`` below one, fewer than two folds, or parts too small to have two labels.
    """
    folds = sorted(frame["fold"].unique())
    if halvings < 1 or len(folds) < 2:
        raise ValueError(f"need 1 halving and 2 folds at least: {halvings}, {len(folds)}")
    texts, true = (frame[name].to_numpy(dtype=object) for name in ("query", "intent"))
    shares = [0.5**n for n in range(halvings, -1, -1)]
    predictions = {share: np.empty(len(frame), dtype=object) for share in shares}
    sizes = dict.fromkeys(shares, 0)
    rng = np.random.default_rng(seed)
    for number in folds:
        held = (frame["fold"] == number).to_numpy()
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
    """Return ``rows`` in an order of which each prefix is stratified by label."""
    place = np.empty(len(rows))
    for label in np.unique(true[rows].astype(str)):
        of_label = np.flatnonzero(true[rows] == label)
        shuffled = rng.permutation(of_label)
        place[shuffled] = (np.arange(len(shuffled)) + rng.random(len(shuffled))) / len(shuffled)
    return rows[np.argsort(place, kind="stable")]
