"""Repeated cross-validation on new folds and with new seeds, and the variance over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold

from nivesh_lib.evaluation.intervals import FoldInterval, fold_interval
from nivesh_lib.evaluation.resampling.cross_validation import (
    CrossValidation,
    cross_validate,
    predicted_labels,
)
from nivesh_lib.evaluation.scores import METRICS, headline_mask, point_scores
from nivesh_lib.records.results import HEADLINE


@dataclass(frozen=True)
class RepeatedCrossValidation:
    """Several cross-validations of one model.

    ``runs`` has the out-of-fold probabilities of each, the version's own folds first. ``scores``
    has a row for each fold: repeat, fold, n_train, n_test (rows left out), n_scored (those of
    them that headline scores use) and each metric. ``intervals`` has metric -> mean, standard
    deviation and interval over these rows.
    """

    runs: tuple[CrossValidation, ...]
    scores: pd.DataFrame
    intervals: dict[str, FoldInterval]


def repeated_cross_validate(
    model: Any,
    frame: pd.DataFrame,
    *,
    labels: Sequence[str],
    repeats: int,
    seed: int = 42,
    group: str | None = None,
) -> RepeatedCrossValidation:
    """Cross-validate ``repeats`` times: on the version's own folds, then on new ones.

    New folds are stratified and as many as the version has. Each repeat adds one to
    the ``random_state`` that the model and its parts are given, beginning with ``seed``.

    Parameters
    ----------
    group : str, optional
        A column of groups, such as near-duplicates, that stay in one fold. Without it, new folds
        may separate near-duplicates that the version's own folds keep together, and scores are
        too high.

    Raises
    ------
    ValueError
        Fewer than one repeat, or fewer than two folds.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least 1 is needed")
    n_folds = frame["fold"].nunique()
    groups = frame[group] if group else pd.Series(range(len(frame)), index=frame.index)
    runs = []
    for repeat in range(repeats):
        folds = frame["fold"].to_numpy()
        if repeat:
            folds = _new_folds(frame["intent"], groups, n_folds, seed + repeat)
        seeded = _seeded(model, seed + repeat)
        runs.append(cross_validate(seeded, frame.assign(fold=folds), labels=labels))
    scores = pd.concat(
        [fold_scores(run.oof, frame).assign(repeat=n) for n, run in enumerate(runs)],
        ignore_index=True,
    )
    return RepeatedCrossValidation(tuple(runs), scores, fold_intervals(scores))


def _new_folds(labels: pd.Series, groups: pd.Series, n_folds: int, seed: int) -> np.ndarray:
    folds = np.empty(len(labels), dtype=int)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(splitter.split(labels, labels, groups)):
        folds[held] = number
    return folds


def _seeded(model: Any, seed: int) -> Any:
    """Return a clone with every ``random_state``, its own or of a part, set to ``seed``."""
    names = [n for n in model.get_params() if n.rpartition("__")[2] == "random_state"]
    return clone(model).set_params(**dict.fromkeys(names, seed))


def fold_scores(oof: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each fold over the rows that headline scores use.

    Parameters
    ----------
    oof, frame
        The same rows in the same order.

    Returns
    -------
    DataFrame
        repeat (0), fold, n_train, n_test, n_scored and each metric. Folds without a scored row
        are left out.
    """
    true, folds = frame["intent"].to_numpy(), oof["fold"].to_numpy()
    predicted = predicted_labels(oof)
    natural = headline_mask(frame)
    rows = []
    for number in np.unique(folds):
        held = folds == number
        scored = held & natural
        if not scored.any():  # a fold of hard rows alone has no headline score
            continue
        rows.append(
            {
                "repeat": 0,
                "fold": int(number),
                "n_train": int((~held).sum()),
                "n_test": int(held.sum()),
                "n_scored": int(scored.sum()),
                **point_scores(true[scored], predicted[scored]),
            }
        )
    return pd.DataFrame(rows)


def fold_table(oofs: Mapping[str, pd.DataFrame], frame: pd.DataFrame) -> pd.DataFrame:
    """Return the variation over folds of each model's macro-F1.

    Returns
    -------
    DataFrame
        model, folds, mean, std, low, high (`fold_interval`), worst and best fold, correction.
    """
    rows = []
    for name, oof in oofs.items():
        scores = fold_scores(oof, frame)
        found, each = fold_intervals(scores)[HEADLINE], scores[HEADLINE]
        ends = (found.value, found.std, found.low, found.high, each.min(), each.max())
        rows.append((name, found.n, *ends, found.correction))
    columns = ["model", "folds", "mean", "std", "low", "high", "worst", "best", "correction"]
    return pd.DataFrame(rows, columns=columns)


def fold_intervals(scores: pd.DataFrame) -> dict[str, FoldInterval]:
    """Return the interval over folds of each metric.

    Parameters
    ----------
    scores
        As `fold_scores` returns them, of one or more repeats.
    """
    n_train, n_test = float(scores["n_train"].mean()), float(scores["n_test"].mean())
    return {
        metric: fold_interval(scores[metric].tolist(), n_train=n_train, n_test=n_test)
        for metric in METRICS
    }
