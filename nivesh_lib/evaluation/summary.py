"""What a model's notebook records: headline scores, tables, judgements, one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.crossval import CrossValidation, predicted_labels
from nivesh_lib.evaluation.metrics import (
    Estimate,
    confusion,
    paired_difference,
    per_class,
    score,
    wilson,
)
from nivesh_lib.evaluation.objectives import file_of, judge_all, none_set, objectives_for
from nivesh_lib.evaluation.slices import by_slice, headline_mask, masks_by_column, masks_by_tag

SLICE_COLUMNS = ("selection", "language", "income_segment")


def headline_scores(
    train: pd.DataFrame, cv: CrossValidation, *, n_boot: int = 2000, seed: int = 42
) -> dict[str, Estimate]:
    """Return accuracy and macro-F1 over the rows that headline scores use."""
    rows = headline_mask(train)
    return score(train["intent"][rows], cv.predicted[rows], n_boot=n_boot, seed=seed)


def gain_over(
    other: pd.DataFrame,
    train: pd.DataFrame,
    cv: CrossValidation,
    *,
    metric: str = "macro_f1",
    n_boot: int = 2000,
    seed: int = 42,
) -> Estimate:
    """Return ``metric`` of ``cv`` minus that of another out-of-fold table, on the same rows."""
    by_id = dict(zip(other["id"], predicted_labels(other), strict=True))
    rows = headline_mask(train)
    return paired_difference(
        train["intent"][rows],
        cv.predicted[rows],
        train["id"].map(by_id)[rows],
        metric=metric,
        n_boot=n_boot,
        seed=seed,
    )


def averaged(several: Sequence[CrossValidation]) -> CrossValidation:
    """Return the average of models' out-of-fold probabilities, as if one model had made it.

    A fold takes as long to fit as all of theirs together.
    """
    first, *others = (one.oof.set_index("id") for one in several)
    labels = [column for column in first.columns if column != "fold"]
    mean = sum((other.loc[first.index, labels] for other in others), start=first[labels])
    oof = pd.concat([first[["fold"]], mean / len(several)], axis=1).reset_index()
    seconds = tuple(sum(folds) for folds in zip(*(one.fit_seconds for one in several), strict=True))
    return CrossValidation(oof, seconds)


def view_scores(train: pd.DataFrame, cv: CrossValidation) -> pd.DataFrame:
    """Return accuracy on each view of the rows, and how often the answer changed with it.

    Over natural rows: ``view``, ``accuracy`` with its interval, ``changed`` (share of answers).
    """
    rows = headline_mask(train)
    true, plain = train["intent"].to_numpy()[rows], cv.predicted[rows]
    table = []
    for name, predicted in {"as written": cv.predicted, **cv.views}.items():
        right = float((predicted[rows] == true).mean())
        low, high = wilson(right, len(true))
        changed = float((predicted[rows] != plain).mean())
        table.append((name, right, low, high, changed))
    return pd.DataFrame(table, columns=["view", "accuracy", "low", "high", "changed"])


def slice_scores(train: pd.DataFrame, cv: CrossValidation, *, n_boot: int = 1000) -> pd.DataFrame:
    """Return scores by selection, language, segment and trait, for the columns that exist."""
    masks = masks_by_column(train, SLICE_COLUMNS) | masks_by_tag(train)
    return by_slice(train["intent"], cv.predicted, masks, n_boot=n_boot)


def result_of(
    model: str,
    step: str,
    train: pd.DataFrame,
    cv: CrossValidation,
    *,
    dataset: str,
    labels: Sequence[str],
    scores: Mapping[str, Estimate],
    latency: Mapping[str, float],
    size_bytes: int,
    slices: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return the record of an evaluated model, ready for ``run.log``.

    Parameters
    ----------
    dataset
        Such as ``intents@1.1.0``; it is judged by its own objectives.
    scores
        As `headline_scores` returns them.
    latency
        As `measure_latency` returns it, milliseconds.
    """
    rows = headline_mask(train)
    true, predicted = train["intent"][rows], cv.predicted[rows]
    metrics: dict[str, Any] = {name: estimate.as_dict() for name, estimate in scores.items()}
    # One process on one machine: the percentile itself, without an interval.
    metrics["p95_ms"] = {"value": latency["p95_ms"], "n": int(latency["n"])}
    metrics["p50_ms"] = latency["p50_ms"]
    metrics["threads"] = latency["threads"]
    metrics["size_bytes"] = size_bytes
    metrics["fit_seconds"] = sum(cv.fit_seconds) / len(cv.fit_seconds)
    objectives = objectives_for(step, dataset=dataset)
    judged = judge_all(metrics, objectives)
    return {
        "model": model,
        "headline": f"macro-F1 {scores['macro_f1']}",
        "metrics": metrics,
        "judgements": [
            {"objective": str(j.objective), "status": j.status, "found": j.found} for j in judged
        ],
        "objectives": {
            "file": file_of(dataset),
            "missing": "" if objectives else none_set(dataset),
        },
        "per_class": per_class(true, predicted, labels).reset_index().to_dict("records"),
        "confusion": confusion(true, predicted, labels).to_dict("split"),
        "slices": [] if slices is None else slices.to_dict("records"),
    }
