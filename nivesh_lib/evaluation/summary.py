"""The result of an evaluated model: headline scores, tables, judgements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.intervals import paired_accuracy_difference, share_of
from nivesh_lib.evaluation.objectives import (
    Objective,
    file_of,
    impact_of,
    judge_all,
    none_set,
    objectives_for,
)
from nivesh_lib.evaluation.resampling.cross_validation import (
    CrossValidation,
    aligned,
    label_positions,
    predicted_labels,
    probabilities,
)
from nivesh_lib.evaluation.resampling.repeated import fold_intervals, fold_scores
from nivesh_lib.evaluation.robustness.cases import PERTURBATION, answers_to
from nivesh_lib.evaluation.scores import (
    Column,
    by_slice,
    confusion,
    headline_mask,
    masks_by_column,
    masks_by_tag,
    per_class,
    score,
)
from nivesh_lib.models.wrappers.ensemble import log_pool, pool_weights
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.metrics import flat_metrics
from nivesh_lib.records.results import ModelResult

SLICE_COLUMNS = ("selection", "language", "income_segment")


def headline_scores(
    train: pd.DataFrame, cv: CrossValidation, *, n_boot: int = 2000, seed: int = 42
) -> dict[str, Estimate]:
    """Return accuracy and macro-F1 over the rows that headline scores use."""
    rows = headline_mask(train)
    return score(train["intent"][rows], cv.predicted[rows], n_boot=n_boot, seed=seed)


def pooled(
    several: Sequence[CrossValidation], rows: pd.DataFrame
) -> tuple[CrossValidation, dict[int | None, list[float]]]:
    """Return several models' out-of-fold probabilities joined by a pool, and its weights.

    The weights of a fold are learned from the answers to the natural rows of the other folds
    (`models.wrappers.ensemble.pool_weights`), those of None from all natural rows.

    The seconds of a fold are the sum over the models. Answers to test cases are joined where each
    model has them.

    Parameters
    ----------
    rows
        The rows that were answered: ``id``, ``intent``, perhaps ``selection``.
    """
    tables = [probabilities(aligned(one.oof, rows["id"])) for one in several]
    probas = [table[tables[0].columns].to_numpy() for table in tables]
    truth = label_positions(tables[0], rows["intent"])
    natural, folds = headline_mask(rows), aligned(several[0].oof, rows["id"])["fold"].to_numpy()

    def learned(chosen: np.ndarray) -> list[float]:
        return pool_weights([proba[chosen] for proba in probas], truth[chosen])

    weights: dict[int | None, list[float]] = {None: learned(natural)}
    weights |= {int(k): learned(natural & (folds != k)) for k in np.unique(folds)}
    recorded = [one.case_answers for one in several if one.case_answers is not None]
    complete = len(recorded) == len(several)
    answers = _pooled(recorded, ["probe", "id", "fold"], weights) if complete else None
    seconds = tuple(sum(one) for one in zip(*(one.fit_seconds for one in several), strict=True))
    oof = _pooled([one.oof for one in several], ["id", "fold"], weights)
    return CrossValidation(oof, seconds, answers), weights


def _pooled(
    tables: Sequence[pd.DataFrame], keys: list[str], weights: Mapping[int | None, list[float]]
) -> pd.DataFrame:
    """Return the pool of the other columns with the weights of each row's fold."""
    first, *others = (table.set_index(keys) for table in tables)
    probas = [one.loc[first.index, first.columns].to_numpy() for one in (first, *others)]
    folds = first.index.get_level_values("fold").to_numpy()
    joined = np.empty_like(probas[0])
    for k in np.unique(folds):
        rows = folds == k
        joined[rows] = log_pool([proba[rows] for proba in probas], weights[int(k)])
    return pd.DataFrame(joined, first.index, first.columns).reset_index()


def view_scores(train: pd.DataFrame, cv: CrossValidation) -> pd.DataFrame:
    """Return accuracy on each perturbation of natural rows against that on the rows as written.

    Returns
    -------
    DataFrame
        ``view`` (the perturbation), ``rows`` whose text it changes, ``as_written`` (accuracy on
        the unchanged texts of these rows), ``accuracy``, ``difference`` between the two with its
        interval (paired, ``_low`` and ``_high``), ``changed`` (share of rows with another
        predicted label).
    """
    answers = pd.DataFrame({"probe": []}) if cv.case_answers is None else cv.case_answers
    table = []
    for name in (name for name in answers["probe"].unique() if name.startswith(PERTURBATION)):
        rows = answers_by_row(train, cv, name)
        if rows.empty:
            continue
        true = rows["intent"].to_numpy()
        as_written, right = (rows[c].to_numpy() == true for c in ("predicted", "answer"))
        table.append(
            {"view": name.removeprefix(PERTURBATION), "rows": len(rows)}
            | {"as_written": as_written.mean(), "accuracy": right.mean()}
            | paired_accuracy_difference(right, as_written).columns("difference")
            | {"changed": (rows["answer"] != rows["predicted"]).mean()}
        )
    columns = ["view", "rows", "as_written", "accuracy", "difference"]
    return pd.DataFrame(table, columns=[*columns, "difference_low", "difference_high", "changed"])


def answers_by_row(train: pd.DataFrame, cv: CrossValidation, case: str) -> pd.DataFrame:
    """Return the natural rows that a test case was made from, with the answers to both texts.

    Returns
    -------
    DataFrame
        The columns of ``train``, ``predicted`` (for the text as written) and ``answer`` (for that
        of the test case). Empty where ``cv`` has no answers to it.
    """
    rows = train.assign(predicted=cv.predicted)[headline_mask(train)]
    known = pd.DataFrame(columns=["probe", "id"]) if cv.case_answers is None else cv.case_answers
    asked = answers_to(known, case)
    asked = asked[asked["id"].isin(rows["id"])]
    found = rows.set_index("id", drop=False).loc[asked["id"]].reset_index(drop=True)
    return found.assign(answer=predicted_labels(asked) if len(asked) else "")


def slice_scores(train: pd.DataFrame, cv: CrossValidation, *, n_boot: int = 1000) -> pd.DataFrame:
    """Return scores by language, segment and trait of the rows that headline scores use.

    Rows that were picked for being hard are a slice of their own, and in no other.
    """
    masks = masks_by_column(train, SLICE_COLUMNS) | masks_by_tag(train)
    counted, hard = headline_mask(train), "selection=hard"
    own = {name: mask & (counted | (name == hard)) for name, mask in masks.items()}
    return by_slice(train["intent"], cv.predicted, own, n_boot=n_boot)


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
    size_bytes: int | None,
    slices: pd.DataFrame | None = None,
) -> ModelResult:
    """Return the result of an evaluated model, ready for ``run.log``.

    Parameters
    ----------
    dataset
        Such as ``intents@1.2.0``; its own objectives apply.
    scores
        As `headline_scores` returns them.
    latency
        As `measure_latency` returns it, milliseconds; at least ``p50_ms``, ``p95_ms``, ``n`` and
        ``threads``.

    Returns
    -------
    ModelResult
        Its ``folds`` have fold, n (scored rows), accuracy and macro_f1; ``metrics`` has their mean
        with the interval over folds, and their standard deviation.
    """
    rows = headline_mask(train)
    true, predicted = train["intent"][rows], cv.predicted[rows]
    folds = fold_scores(cv.oof, train)
    timed = {k: v for k, v in latency.items() if k.startswith(("p95_ms", "reference_ms"))}
    metrics = flat_metrics(
        {
            **scores,
            **timed,
            "p95_ms_n": int(latency["n"]),
            "p50_ms": float(latency["p50_ms"]),
            "threads": latency["threads"],
            "size_bytes": size_bytes,
            **_over_folds(folds),
        }
    )
    if cv.fit_seconds:  # models that were made from fitted ones have none
        metrics["fit_seconds"] = sum(cv.fit_seconds) / len(cv.fit_seconds)
    objectives = objectives_for(step, dataset=dataset)
    contents = {
        "step": step,
        "dataset": dataset,
        "model": model,
        "headline": f"macro-F1 {scores['macro_f1']}",
        "metrics": metrics,
        "judgements": [judged.as_dict() for judged in judge_all(metrics, objectives)],
        "objectives": {
            "file": file_of(dataset),
            "missing": "" if objectives else none_set(dataset),
            "impact": impact_of(dataset),
        },
        "per_class": per_class(true, predicted, labels).reset_index().to_dict("records"),
        "confusion": confusion(true, predicted, labels).to_dict("split"),
        "slices": [] if slices is None else slices.to_dict("records"),
        "folds": plain_rows(
            folds.rename(columns={"n_scored": "n"}).reindex(
                columns=["fold", "n", "accuracy", "macro_f1"]
            )
        ),
    }
    return ModelResult.model_validate(contents)


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as a list of flat dicts; missing values become None, as JSON has no NaN."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _over_folds(folds: pd.DataFrame) -> dict[str, Any]:
    if len(folds) < 2:  # no variance to estimate
        return {}
    metrics: dict[str, Any] = {}
    for name, over in fold_intervals(folds).items():
        mean = asdict(over)
        metrics[f"{name}_fold_std"] = mean.pop("std")
        metrics[f"{name}_fold_mean"] = mean
    return metrics


def release_scores(
    held: pd.DataFrame,
    predicted: Column,
    objectives: Sequence[Objective],
    *,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return ``metrics``, ``judgements``, ``verdict`` and ``slices`` of held-out rows.

    Parameters
    ----------
    held
        Columns ``intent`` and those of slices, n rows.
    predicted
        One label for each of them.
    measured
        Further metrics, such as ``{"p95_ms": {"value": 12.0}}``.
    """
    metrics: dict[str, Any] = {
        name: estimate.as_dict() for name, estimate in score(held["intent"], predicted).items()
    } | dict(measured or {})
    judged = judge_all(metrics, objectives)
    masks = release_slices(held)
    return {
        "metrics": metrics,
        "judgements": [one.as_dict() for one in judged],
        "verdict": worst(one.status for one in judged),
        "slices": by_slice(held["intent"], predicted, masks).to_dict("records"),
    }


def release_slices(held: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the rows of each slice that a release is judged on: its values and its traits."""
    return masks_by_column(held, SLICE_COLUMNS) | masks_by_tag(held)


def worst(statuses: Iterable[str]) -> str:
    """Return the worst of the words for a verdict, or ``not judged`` where there are none."""
    found = set(statuses)
    return next((s for s in ("not met", "undecided", "met") if s in found), "not judged")


def turned_away(
    accepted: np.ndarray, accepted_out: np.ndarray, right: np.ndarray
) -> dict[str, Estimate]:
    """Return the shares of rejected queries and the accuracy of the answered ones.

    Parameters
    ----------
    accepted, right
        Whether each in-scope query is answered, and whether its predicted label is right,
        shape (n,).
    accepted_out
        Whether each out-of-scope query is answered, shape (m,).

    Returns
    -------
    dict
        ``out_of_scope`` and ``in_scope``, the shares rejected, and ``accuracy_of_answered`` where
        any in-scope query is answered.
    """
    shares = {"out_of_scope": share_of(~accepted_out), "in_scope": share_of(~accepted)}
    return shares | ({"accuracy_of_answered": share_of(right[accepted])} if accepted.any() else {})
