"""Findings about other training rows, other seeds and other dates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.resampling.learning_curve import WORTH, LearningCurve
from nivesh_lib.evaluation.robustness.fairness import accuracy_gaps
from nivesh_lib.evaluation.scores import METRICS
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Finding, Plot
from nivesh_lib.wording import (
    interval,
    joined,
    model_name,
    of_100,
    sentence,
    the,
    unseen,
)

_PACKAGE = "nivesh_lib.evaluation.resampling"
_QUESTIONS = {
    "repeats": "whether other folds and seeds would give the same score",
    "learning": "whether more labels would help",
    "temporal": "how a model ages",
}


def not_trained(name: str) -> Finding:
    """Say that a finding takes training, which this run left out."""
    return Finding(
        name=name,
        claim=f"{sentence(_QUESTIONS[name]).removesuffix('.')} is not part of this run, which "
        "trains nothing; `nivesh run --profile full` adds it.",
    )


def folds(table: pd.DataFrame, model: str) -> Finding:
    """Say what a model would score if it were trained on other rows.

    Parameters
    ----------
    table
        One row for each model, as `resampling.repeated.fold_table` returns them.
    model
        The one that the claim is about.
    """
    table = table.sort_values("mean", ascending=False, kind="stable")
    own = table[table["model"] == model].iloc[0].to_dict()
    low, high = max(own["low"], 0.0), min(own["high"], 1.0)
    ends = {model_name(row["model"]): _mean(row) for row in table.to_dict("records")}
    return Finding(
        name="folds",
        claim=sentence(
            f"trained on other data of this size, {the(model)} would reach a macro-F1 of about "
            f"{low:.2f} to {high:.2f}"
        ),
        estimate=_mean(own),
        cells=[
            {"model": model_name(row["model"]), **_mean(row).columns("mean"),
             "worst fold": row["worst"], "best fold": row["best"]}
            for row in table.to_dict("records")
        ],
        plot=plots.intervals(ends, "macro-F1, mean over folds"),
        caveats=[
            f"Folds share training rows: the interval over {own['folds']} folds is corrected for "
            f"it by a rule of thumb, {own['correction']}."
        ],
        source=f"{_PACKAGE}.repeated.fold_table",
    )  # fmt: skip


def _mean(row: Mapping[Any, Any]) -> Estimate:
    return Estimate(row["mean"], row["low"], row["high"], int(row["folds"]))


def repeats(rows: Sequence[Mapping[str, Any]], times: int) -> Finding:
    """Say what several cross-validations, on other folds with other seeds, make of the score.

    Parameters
    ----------
    rows
        One for each model: its name as ``model``, and value, low, high, std and n over folds.
    times
        Number of cross-validations.
    """
    found = {row["model"]: Estimate(*(row[k] for k in ("value", "low", "high", "n")))
             for row in rows}  # fmt: skip
    scores = joined(f"{interval(one)} for {the(name)}" for name, one in found.items())
    return Finding(
        name="repeats",
        claim=sentence(f"over {times} cross-validations, macro-F1 is {scores}"),
        estimate=next(iter(found.values())),
        cells=[
            {"model": model_name(name), **one.columns("macro-F1"), "folds": one.n}
            for name, one in found.items()
        ],
        caveats=["The first is on the version's own folds, the others on new ones, each with its "
                 "own seed."],
        source=f"{_PACKAGE}.repeated.repeated_cross_validate",
    )  # fmt: skip


# What the gain of the last doubling says -> the words for the models that it says it of.
_READINGS = {
    "help": "more labels still help {}",
    "little": "more labels of this kind add little to {}: a better model is needed",
    "": "whether more labels would help {}, these rows cannot tell",
}


def _reading(curve: LearningCurve) -> str:
    """Return ``help``, ``little`` or, where the rows cannot tell, an empty text."""
    gain = curve.last_gain
    return "help" if gain.low > 0 else "little" if gain.high < WORTH else ""


def learning(curves: Mapping[str, LearningCurve]) -> Finding:
    """Say for each model whether more labels or a better model would help.

    Parameters
    ----------
    curves
        Model -> what `resampling.learning_curve.learning_curve` returns.
    """
    said = {name: _reading(curve) for name, curve in curves.items()}
    claim = "; ".join(
        words.format(joined(the(name) for name in said if said[name] == kind))
        for kind, words in _READINGS.items()
        if kind in said.values()
    )
    tables = {model_name(name): curve.table for name, curve in curves.items()}
    return Finding(
        name="learning",
        claim=sentence(claim),
        estimate=next(iter(curves.values())).last_gain,
        cells=[_last_doubling(name, curve) for name, curve in curves.items()],
        plot=Plot(
            kind="sizes",
            data={"curves": {name: table.to_dict("list") for name, table in tables.items()}},
            alt="; ".join(
                f"{name}: macro-F1 {table['macro_f1'].iloc[-1]:.2f} with all rows"
                for name, table in tables.items()
            ),
        ),
        caveats=["The intervals are about other queries, not about other parts of that size."],
        source=f"{_PACKAGE}.learning_curve.learning_curve",
    )


def _last_doubling(name: str, curve: LearningCurve) -> dict[str, Any]:
    half, whole = (round(rows) for rows in curve.table["rows"].iloc[-2:])
    gain = curve.last_gain.columns("points won", times=100)
    title = METRICS[curve.metric].title
    return {"model": model_name(name), "from rows": half, "to rows": whole, "score": title, **gain}


def temporal(tables: Mapping[str, pd.DataFrame]) -> Finding:
    """Say how models that were trained before a date answer what came after.

    Parameters
    ----------
    tables
        Model -> what `resampling.temporal.temporal_scores` returns.
    """
    source = f"{_PACKAGE}.temporal.temporal_scores"
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        claim = "Too few rows have a date to train on earlier ones and test on later ones."
        return Finding(name="temporal", claim=claim, source=source)
    name, table = next(iter(tables.items()))
    last = table.iloc[-1].to_dict()
    found = from_columns(last, "accuracy", n=last["n_test"])
    return Finding(
        name="temporal",
        claim=sentence(
            f"trained on what came before {last['cut']}, {the(name)} routes {of_100(found)} of "
            "later date rightly"
        ),
        estimate=found,
        cells=[
            {"model": model_name(name), "trained before": row["cut"], "on rows": row["n_train"],
             "tested until": row["until"] or "the end", "queries": row["n_test"]}
            | {key: row[key] for key in ("accuracy", "accuracy_low", "accuracy_high")}
            for name, table in tables.items()
            for row in table.to_dict("records")
        ],
        caveats=["Later dates leave more rows to train on."],
        source=source,
    )  # fmt: skip


def over_time(table: pd.DataFrame, model: str) -> Finding:
    """Say whether a period is harder than the others, or how small a difference would stay unseen.

    Parameters
    ----------
    table
        As `resampling.temporal.accuracy_over_time` returns it.
    """
    source = f"{_PACKAGE}.temporal.accuracy_over_time"
    if table.empty:
        claim = "Too few rows have a date to look at scores over time."
        return Finding(name="over_time", claim=claim, source=source)
    periods = {f"{row['first']} to {row['last']}": _accuracy(row)
               for row in table.to_dict("records")}  # fmt: skip
    gaps = accuracy_gaps(*_rows_of(periods), margin=0.0)
    worst = min(periods, key=lambda name: periods[name].value)
    apart = [gap for gap in gaps if gap.verdict == "gap"]
    if apart:
        first = max(apart, key=lambda gap: abs(gap.difference.value))
        than = "harder" if first.difference.value < 0 else "easier"
        claim = f"queries from {first.segment} are {than} than the others: "
        claim += f"{of_100(periods[first.segment])} are right"
    else:
        claim = "no period is shown to be harder or easier than the others"
        claim += unseen(gap.detectable for gap in gaps)
    return Finding(
        name="over_time",
        claim=sentence(claim),
        estimate=periods[worst],
        cells=[
            {"asked": name, "queries": one.n, **one.columns("right")}
            for name, one in periods.items()
        ],
        plot=plots.intervals(periods, f"accuracy of {the(model)}"),
        caveats=["Folds mix dates: this is about the queries, not about a model that ages."],
        source=source,
    )  # fmt: skip


def _rows_of(periods: Mapping[str, Estimate]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return whether each row was right, and the rows of each period."""
    right = [np.arange(one.n) < round(one.value * one.n) for one in periods.values()]
    place = np.repeat(np.arange(len(periods)), [one.n for one in periods.values()])
    return np.concatenate(right), {name: place == k for k, name in enumerate(periods)}


def _accuracy(row: Mapping[Any, Any]) -> Estimate:
    return Estimate(row["accuracy"], row["low"], row["high"], int(row["rows"]))
