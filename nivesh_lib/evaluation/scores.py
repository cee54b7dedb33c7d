"""Scores of predicted labels: metrics with intervals, tables per class, confusions and slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from nivesh_lib.evaluation.intervals import MIN_ROWS, Z, bootstrap_rows, percentile_interval, wilson
from nivesh_lib.records.estimate import Estimate, as_columns
from nivesh_lib.records.results import REQUIRED_SCORES

_ENOUGH = 2  # rows for each pair of labels, from which a resample's macro-F1 is not biased low
_BLOCK_CELLS = 4_000_000  # cells of confusion matrices that are held at once

Column = Sequence[str] | np.ndarray | pd.Series  # one label for each row


# --- metrics ---------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A score of predicted labels between 0 and 1, computed from confusion matrices.

    ``of`` maps counts of shape (draws, k, k), true labels as rows, to scores of shape (draws,).
    ``name`` is its key in records and tables, ``title`` its name in text. ``biased_if_rare`` says
    that resamples score too low where labels have few rows, so that `score` takes the jackknife.
    """

    name: str
    title: str
    of: Callable[[np.ndarray], np.ndarray]
    biased_if_rare: bool = False


def _accuracy(counts: np.ndarray) -> np.ndarray:
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    support, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return (f1 * (support > 0)).sum(axis=-1) / (support > 0).sum(axis=-1)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", REQUIRED_SCORES["accuracy"], _accuracy),
        Metric("macro_f1", REQUIRED_SCORES["macro_f1"], _macro_f1, biased_if_rare=True),
    )
}


def label_codes(*columns: Column) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each column as numbers of the sorted labels of all, and these labels, shape (k,)."""
    arrays = [np.asarray(list(column), dtype=object) for column in columns]
    labels, inverse = np.unique(np.concatenate(arrays), return_inverse=True)
    return np.split(inverse, np.cumsum([len(a) for a in arrays])[:-1]), labels


def confusion_counts(
    true: np.ndarray, predicted: np.ndarray, k: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return confusion matrices (draws, k, k) of codes (n,), true labels as rows.

    Parameters
    ----------
    rows
        Row numbers of each draw, shape (draws, n); without it all rows once, in one draw.
    """
    cells = (true * k + predicted)[np.arange(len(true))[None] if rows is None else rows]
    cells = cells + np.arange(len(cells))[:, None] * k**2
    return np.bincount(cells.ravel(), minlength=len(cells) * k**2).reshape(len(cells), k, k)


def _jackknife(metric: Metric, counts: np.ndarray) -> tuple[float, float]:
    """Return the interval of a metric from leaving out each row once; counts (k, k).

    Efron and Tibshirani 1993, chapter 11. A resample loses and doubles rows of rare labels, so
    that its macro-F1 is biased low, and so are its percentiles: with 77 labels of five rows their
    coverage in simulation was 76-83 %, that of this interval 95 %.
    """
    k, cells = len(counts), np.argwhere(counts)  # rows of one cell leave the same matrix behind
    rows, block = counts[tuple(cells.T)], max(1, _BLOCK_CELLS // counts.size)
    scores = np.empty(len(cells))
    for start in range(0, len(cells), block):
        part = cells[start : start + block]
        without = np.broadcast_to(counts, (len(part), k, k)).copy()
        without[np.arange(len(part)), *part.T] -= 1
        scores[start : start + block] = metric.of(without)
    n, mean = rows.sum(), np.average(scores, weights=rows)
    spread = Z * np.sqrt((n - 1) / n * (rows * (scores - mean) ** 2).sum())
    value = metric.of(counts[None])[0]
    return max(0.0, float(value - spread)), min(1.0, float(value + spread))


def score(
    y_true: Column, y_pred: Column, *, n_boot: int = 2000, seed: int = 42
) -> dict[str, Estimate]:
    """Return each of `METRICS` with its percentile bootstrap interval over rows.

    The intervals are about other queries for the same predictions, not about other
    training sets (Efron and Tibshirani 1993, chapter 13). Macro-F1 averages over
    the labels that occur in ``y_true``; where these have too few rows for a bootstrap, its
    interval is the jackknife's. A score of 0 or 1, from which no resample differs, gets
    Wilson's: twelve right answers out of twelve do not make a model perfect.

    Raises
    ------
    ValueError
        No rows, or different lengths.
    """
    if len(y_true) != len(y_pred) or not len(y_true):
        raise ValueError(f"need two equally long, non-empty columns: {len(y_true)}, {len(y_pred)}")
    (true, predicted), labels = label_codes(y_true, y_pred)
    n, k = len(true), len(labels)
    counts = confusion_counts(true, predicted, k)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for rows in bootstrap_rows(n, n_boot, seed, cells=k**2):
        resampled = confusion_counts(true, predicted, k, rows)
        for name, metric in METRICS.items():
            drawn[name].append(metric.of(resampled))
    rare = n < _ENOUGH * len(np.unique(true)) ** 2
    found = {}
    for name, metric in METRICS.items():
        value = float(metric.of(counts)[0])
        if value in (0.0, 1.0):
            low, high = wilson(value, n)
        elif rare and metric.biased_if_rare:
            low, high = _jackknife(metric, counts[0])
        else:
            low, high = percentile_interval(np.concatenate(drawn[name]))
        found[name] = Estimate(value, low, high, n)
    return found


def point_scores(y_true: Column, y_pred: Column) -> dict[str, float]:
    """Return each of `METRICS` without an interval."""
    (true, predicted), labels = label_codes(y_true, y_pred)
    counts = confusion_counts(true, predicted, len(labels))
    return {name: float(metric.of(counts)[0]) for name, metric in METRICS.items()}


def paired_difference(
    y_true: Column,
    y_pred: Column,
    y_other: Column,
    *,
    metric: str = "accuracy",
    n_boot: int = 2000,
    seed: int = 42,
) -> Estimate:
    """Return ``metric`` of ``y_pred`` minus that of ``y_other`` on the same rows.

    Both are resampled together, so that what is hard for both cancels out; `Estimate` documents
    the coverage of the interval.
    """
    (true, first, second), labels = label_codes(y_true, y_pred, y_other)
    n, k, of = len(true), len(labels), METRICS[metric].of

    def difference(rows: np.ndarray | None = None) -> np.ndarray:
        return of(confusion_counts(true, first, k, rows)) - of(
            confusion_counts(true, second, k, rows)
        )

    drawn = [difference(rows) for rows in bootstrap_rows(n, n_boot, seed, cells=k**2)]
    return Estimate(float(difference()[0]), *percentile_interval(np.concatenate(drawn)), n)


def rare_labels(y_true: Column, *, below: int = 10) -> dict[str, int]:
    """Return the labels with fewer than ``below`` rows and their rows, the rarest first.

    Macro-F1 weighs each of them as much as any other label, so single rows move it.
    """
    names, rows = np.unique(np.asarray(list(y_true), dtype=object), return_counts=True)
    counted = sorted(zip(rows.tolist(), names.tolist(), strict=True))
    return {name: n for n, name in counted if n < below}


# --- labels ----------------------------------------------------------------------


def per_class(y_true: Column, y_pred: Column, labels: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall, F1 and support for each label, in the order of ``labels``."""
    precision, recall, f1, support = precision_recall_fscore_support(
        y_true, y_pred, labels=list(labels), zero_division=0.0
    )
    columns = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    return pd.DataFrame(columns, index=pd.Index(labels, name="intent"))


def confusion(y_true: Column, y_pred: Column, labels: Sequence[str]) -> pd.DataFrame:
    """Return counts with true labels as rows and predicted labels as columns."""
    matrix = confusion_matrix(y_true, y_pred, labels=list(labels))
    return pd.DataFrame(
        matrix, index=pd.Index(labels, name="true"), columns=pd.Index(labels, name="predicted")
    )


def top_confusions(
    y_true: Column, y_pred: Column, labels: Sequence[str], n: int = 5
) -> pd.DataFrame:
    """Return the ``n`` most frequent wrong pairs, with their rows and share of the true label."""
    counts = confusion(y_true, y_pred, labels)
    pairs = pd.DataFrame({"rows": counts.stack()}).reset_index()
    pairs["share of true"] = pairs["rows"] / pairs["true"].map(counts.sum(axis=1))
    wrong = pairs[(pairs["true"] != pairs["predicted"]) & (pairs["rows"] > 0)]
    ordered = wrong.sort_values(["rows", "share of true"], ascending=False, kind="stable")
    return ordered.head(n).reset_index(drop=True)


def changed_confusions(
    y_true: Column, y_before: Column, y_pred: Column, labels: Sequence[str], n: int = 8
) -> pd.DataFrame:
    """Return the wrong pairs whose rows changed most from one model's predictions to another's.

    ``true``, ``predicted``, and the number of rows ``before`` and ``after``; the largest change
    first.
    """
    before, after = (confusion(y_true, column, labels).stack() for column in (y_before, y_pred))
    pairs = pd.DataFrame({"before": before, "after": after}).sort_index().reset_index()
    change = (pairs["after"] - pairs["before"]).abs()
    changed = pairs[(pairs["true"] != pairs["predicted"]) & (change > 0)]
    order = change[changed.index].sort_values(ascending=False, kind="stable").index
    return changed.loc[order].head(n).reset_index(drop=True)


# --- slices ----------------------------------------------------------------------


def headline_mask(frame: pd.DataFrame) -> np.ndarray:
    """Return the rows that headline scores use, a mask of shape (n,).

    Left out are rows picked because a model failed on them, which would bias the score and count
    only as a slice of their own; and, out of fold, the rows of a label that is in one fold only:
    no model that predicts them has seen their label. Where that holds for all labels, all count.
    """
    counted = np.ones(len(frame), dtype=bool)
    if "selection" in frame:
        counted &= (frame["selection"] != "hard").to_numpy()
    if "fold" not in frame or frame["fold"].nunique() < 2:
        return counted
    folds = frame.groupby("intent", dropna=False)["fold"].transform("nunique")
    seen = counted & (folds > 1).to_numpy()
    return seen if seen.any() else counted


def masks_by_column(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a mask for each value of each column that exists, named ``column=value``."""
    return {
        f"{column}={value}": (frame[column] == value).to_numpy()
        for column in columns
        if column in frame
        for value in sorted(frame[column].dropna().unique())
    }


def masks_by_tag(frame: pd.DataFrame, column: str = "traits") -> dict[str, np.ndarray]:
    """Return a mask for each word of a column of space-separated tags; empty without it."""
    if column not in frame:
        return {}
    words = frame[column].fillna("").str.split()
    return {
        f"{column}={word}": words.map(lambda row, w=word: w in row).to_numpy(dtype=bool)
        for word in sorted({word for row in words for word in row})
    }


def masks_by_rule(
    frame: pd.DataFrame, rules: Mapping[str, Callable[[str], bool]]
) -> dict[str, np.ndarray]:
    """Return a mask for each rule, a function of the query."""
    return {name: frame["query"].map(rule).to_numpy(dtype=bool) for name, rule in rules.items()}


def by_slice(
    y_true: Column,
    y_pred: Column,
    masks: Mapping[str, np.ndarray],
    *,
    n_boot: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Return the rows and scores with intervals of each mask of at least ``MIN_ROWS`` rows.

    Parameters
    ----------
    masks
        Name -> rows, shape (n,).

    Returns
    -------
    DataFrame
        ``slice``, ``rows``, and each metric with ``_low`` and ``_high``.
    """
    true, predicted = np.asarray(y_true, dtype=object), np.asarray(y_pred, dtype=object)
    large = {name: mask for name, mask in masks.items() if mask.sum() >= MIN_ROWS}
    return pd.DataFrame(
        {
            "slice": name,
            "rows": int(mask.sum()),
            **as_columns(score(true[mask], predicted[mask], n_boot=n_boot, seed=seed)),
        }
        for name, mask in large.items()
    )
