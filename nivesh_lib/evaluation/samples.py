"""Rows from before and from now: which are compared, how a model answers them, what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from statsmodels.stats.proportion import confint_proportions_2indep

from nivesh_lib.evaluation.drift import HARD, Batch, natural_first
from nivesh_lib.evaluation.intervals import MIN_ROWS, Z
from nivesh_lib.evaluation.resampling.cross_validation import cross_validate, probabilities
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.records.estimate import Estimate


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows from before and from now, with the columns of a version's training rows.

    ``origin`` says where they come from, ``noun`` what the rows of now are, and ``earlier`` where
    the others are. ``limit`` is empty where they are of production; else it says, of ``noun``, why
    they tell nothing about it. ``proba`` has, after `answered`, a column of probabilities for each
    label and both sides.
    """

    before: pd.DataFrame
    now: pd.DataFrame
    origin: str
    noun: str = "new queries"
    limit: str = ""
    earlier: str = "before"
    proba: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def sides(self) -> dict[str, pd.DataFrame]:
        """The rows from before and those of now, by these names."""
        return {"before": self.before, "now": self.now}

    def batches(self) -> list[Batch]:
        """Return what `drift.drift_between` compares, the rows from before first."""
        columns = [("labels", "intent"), ("languages", "language")]
        return [
            Batch(
                frame["query"].tolist(),
                self.proba[when].to_numpy() if self.proba else None,
                **{name: frame[column].tolist() for name, column in columns if column in frame},
            )
            for when, frame in self.sides.items()
        ]

    @property
    def right(self) -> dict[str, np.ndarray]:
        """Whether each answer is right, for both sides, after `answered`."""
        return {
            when: (frame["predicted"] == frame["intent"]).to_numpy()
            for when, frame in self.sides.items()
        }


def before_and_now(rows: pd.DataFrame, parent: pd.DataFrame | None = None) -> Samples:
    """Return what to compare: two versions, else two halves of the dates, else folds.

    Rows that were selected because a model failed on them are left out of now; where nothing else
    is new, they are compared as the stress test that they are.

    Parameters
    ----------
    rows, parent
        The training rows of a version and of the one that it extends: id, query, intent, fold, and
        where the data has them, created_at and selection.
    """
    if parent is not None:
        now = rows[~rows["id"].isin(parent["id"])]
        if _comparable_sizes(parent, now):
            return _natural_first(parent, now, "of the earlier version", "that were added since")
    if "created_at" in rows and rows["created_at"].nunique() > 1:
        dates = rows["created_at"].dropna().sort_values()
        middle = max(dates.iloc[len(dates) // 2], dates.unique()[1])
        before, now = rows[rows["created_at"] < middle], rows[rows["created_at"] >= middle]
        if _comparable_sizes(before, now):
            return _natural_first(before, now, f"before {middle}", "since then")
    held = rows["fold"] == rows["fold"].min()
    return Samples(
        rows[~held].reset_index(drop=True),
        rows[held].reset_index(drop=True),
        f"{(~held).sum():,} rows (before) with the {held.sum():,} rows of one fold (now), as "
        "neither dates nor an earlier version give enough to compare",
        "queries of one fold",
        "are no later than the others",
        "in the other folds",
    )


def _comparable_sizes(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Return whether there are enough rows on both sides, and labels to tell apart."""
    return min(len(before), len(now)) >= MIN_ROWS and before["intent"].nunique() > 1


def _natural_first(before: pd.DataFrame, now: pd.DataFrame, when: str, since: str) -> Samples:
    noun, limit = "new queries", ""
    if "selection" in now:
        rows, hard = natural_first(now["selection"].to_numpy(), MIN_ROWS)
        now = now[rows]
        if hard:
            (noun, limit), since = HARD, f"{since}, all of them chosen for being hard"
    origin = f"{len(before):,} rows {when} with {len(now):,} rows {since}"
    return Samples(before.reset_index(drop=True), now.reset_index(drop=True), origin, noun, limit)


def answered(samples: Samples, model: Any) -> Samples:
    """Return samples with the columns ``predicted`` and ``confidence`` of a model of before.

    The rows from before are answered out of fold, and those kept that count for scores. Those of
    now are answered by a model that was trained on all folds but one, as the models behind the
    out-of-fold answers were: one that saw more would be more certain, which would look like drift.

    Parameters
    ----------
    model
        A classifier of texts with ``predict_proba``; it stays as it is.
    """
    before, now = samples.before, samples.now
    if before["fold"].nunique() < 2:
        before = before.assign(fold=np.arange(len(before)) % 5)
    cv = cross_validate(model, before, labels=sorted(before["intent"].unique()))
    seen = before[before["fold"] != before["fold"].min()]
    fitted = clone(model).fit(seen["query"].tolist(), seen["intent"].tolist())
    proba = pd.DataFrame(fitted.predict_proba(now["query"].tolist()), columns=fitted.classes_)
    counted = headline_mask(before)
    counted |= not counted.any()
    scored = before.assign(predicted=cv.predicted, confidence=cv.confidence)
    held = probabilities(cv.oof)
    return replace(
        samples,
        before=scored[counted].reset_index(drop=True),
        now=now.assign(predicted=proba.idxmax(axis=1), confidence=proba.max(axis=1)),
        proba={"before": held[counted], "now": proba.reindex(columns=held.columns, fill_value=0)},
    )


def accuracy_change(
    correct_before: np.ndarray, correct_now: np.ndarray, *, alpha: float = 0.05
) -> Estimate:
    """Return accuracy now minus before, or the change of any share, for two independent samples.

    The interval is Newcombe's (1998, method 10), which holds with few rows and with
    none wrong. Divide ``alpha`` by the number of shares that are compared at once.
    """
    low, high = confint_proportions_2indep(
        *(int(correct_now.sum()), len(correct_now), int(correct_before.sum()), len(correct_before)),
        method="newcomb",
        compare="diff",
        alpha=alpha,
    )
    change = float(correct_now.mean() - correct_before.mean())
    return Estimate(change, float(low), float(high), len(correct_now))


def mean_change(before: np.ndarray, now: np.ndarray) -> Estimate:
    """Return the mean of now minus that of before with its normal interval; (n,) and (m,)."""
    change = float(now.mean() - before.mean())
    half = Z * float(np.sqrt(before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now)))
    return Estimate(change, change - half, change + half, len(now))
