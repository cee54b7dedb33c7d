"""Findings about other training rows, other seeds and other dates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import FoldInterval, share_of
from nivesh_lib.evaluation.resampling.learning_curve import WORTH, LearningCurve
from nivesh_lib.evaluation.resampling.search import Search
from nivesh_lib.evaluation.robustness.fairness import accuracy_gaps, detectable
from nivesh_lib.evaluation.scores import METRICS
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Finding, Plot
from nivesh_lib.wording import interval, joined, model_name, of_100, sentence, the, would_show

_PACKAGE = "nivesh_lib.evaluation.resampling"


def not_trained() -> Finding:
    """Say what takes training, which this run left out."""
    return Finding(
        name="retrained",
        claim="Whether other folds and seeds would give the same score, whether more labels or "
        "other settings would help and how a model ages is not part of this run, which trains "
        "nothing; `nivesh run --profile full` adds it.",
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
    rows = table.sort_values("mean", ascending=False, kind="stable").to_dict("records")
    means = {
        row["model"]: Estimate(
            row["mean"], max(row["low"], 0.0), min(row["high"], 1.0), row["folds"]
        )
        for row in rows
    }
    low, high = means[model].low, means[model].high
    return Finding(
        name="folds",
        claim=sentence(
            f"trained on other data of this size, {the(model)} would reach a macro-F1 of about "
            f"{low:.2f} to {high:.2f}"
        ),
        estimate=means[model],
        cells=[
            {"model": model_name(row["model"]), **means[row["model"]].columns("mean"),
             "worst fold": row["worst"], "best fold": row["best"]}
            for row in rows
        ],
        plot=plots.intervals(
            {model_name(name): one for name, one in means.items()}, "macro-F1, mean over folds"
        ),
        caveats=[
            f"Folds share training rows: the interval over {rows[0]['folds']} folds is corrected "
            f"for it by a rule of thumb, {rows[0]['correction']}."
        ],
        source=f"{_PACKAGE}.repeated.fold_table",
    )  # fmt: skip


def repeats(found: Mapping[str, FoldInterval], times: int) -> Finding:
    """Say what several cross-validations, on other folds with other seeds, make of the score.

    Parameters
    ----------
    found
        Model -> its macro-F1 over folds, of `resampling.repeated.repeated_cross_validate`.
    times
        Number of cross-validations.
    """
    means = {name: Estimate(one.value, one.low, one.high, one.n) for name, one in found.items()}
    scores = joined(f"{interval(one)} for {the(name)}" for name, one in means.items())
    return Finding(
        name="repeats",
        claim=sentence(f"over {times} cross-validations, macro-F1 is {scores}"),
        estimate=next(iter(means.values())),
        cells=[
            {"model": model_name(name), **one.columns("macro-F1"), "folds": one.n}
            for name, one in means.items()
        ],
        caveats=["The first is on the version's own folds, the others on new ones, each with its "
                 "own seed."],
        source=f"{_PACKAGE}.repeated.repeated_cross_validate",
    )  # fmt: skip


def _reading(gain: Estimate) -> str:
    """Return what the gain of the last doubling says of models, to be named in it."""
    if gain.low > 0:
        return "more labels still help {}"
    if gain.high < WORTH:
        return "more labels of this kind add little to {}: a better model is needed"
    return "whether more labels would help {}, these rows cannot tell"


def learning(curves: Mapping[str, LearningCurve]) -> Finding:
    """Say for each model whether more labels or a better model would help.

    Parameters
    ----------
    curves
        Model -> what `resampling.learning_curve.learning_curve` returns.
    """
    said: dict[str, list[str]] = {}
    for name, curve in curves.items():
        said.setdefault(_reading(curve.last_gain), []).append(the(name))
    claim = "; ".join(words.format(joined(names)) for words, names in said.items())
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


def tuning(searches: Mapping[str, Search]) -> Finding:
    """Say what a search for hyper-parameters gains over the settings that models came with.

    Parameters
    ----------
    searches
        Model -> what `resampling.search.search` returns.
    """
    gains = {name: one.gain for name, one in searches.items()}
    said = [
        f"{the(name)} {_gained(gain) if gain else 'was scored with no other settings in time'}"
        for name, gain in gains.items()
    ]
    return Finding(
        name="tuning",
        claim=sentence("; ".join(said)),
        cells=[
            {"model": model_name(name), "scored": len(one.complete),
             "given up": sum(trial.state == "pruned" for trial in one.trials),
             "as it is": one.first.score if one.first else None,
             "best": one.best.score,
             "best settings": ", ".join(f"{k} {v:.3g}" for k, v in one.best.params.items())}
            for name, one in searches.items()
        ],
        caveats=["The gain is that of settings chosen on the other folds, fold by fold; the score "
                 "of the best ones, in the table, is too high, as they were chosen for it."],
        source=f"{_PACKAGE}.search.search",
    )  # fmt: skip


def _gained(gain: FoldInterval) -> str:
    points = f"{100 * gain.value:+.1f} points of macro-F1 ({100 * gain.low:+.1f} to "
    points += f"{100 * gain.high:+.1f})"
    if gain.low > 0:
        return f"gains {points} by a search for other settings"
    return f"is not shown to gain by a search for other settings: {points}"


def over_time(right: np.ndarray, periods: Mapping[str, np.ndarray], model: str) -> Finding:
    """Say whether a period is harder than the others, or how large a difference would be found.

    Parameters
    ----------
    right
        Whether each answer was right, shape (n,).
    periods
        Name -> its rows, as `resampling.temporal.periods` returns them.
    """
    source = f"{_PACKAGE}.temporal.periods"
    if not periods:
        claim = "Too few rows have a date to look at scores over time."
        return Finding(name="over_time", claim=claim, source=source)
    dated = np.any(list(periods.values()), axis=0)
    right, periods = right[dated], {name: mask[dated] for name, mask in periods.items()}
    scores = {name: share_of(right[mask]) for name, mask in periods.items()}
    gaps = accuracy_gaps(right, periods, margin=0.0)
    apart = [gap for gap in gaps if gap.verdict == "gap"]
    if apart:
        first = max(apart, key=lambda gap: abs(gap.difference.value))
        than = "harder" if first.difference.value < 0 else "easier"
        claim = f"queries from {first.segment} are {than} than the others: "
        claim += f"{of_100(scores[first.segment])} are right"
    else:
        claim = "no period is shown to be harder or easier than the others" + would_show(
            detectable(right, periods[gap.segment], comparisons=len(gaps), margin=0.0)
            for gap in gaps
        )
    return Finding(
        name="over_time",
        claim=sentence(claim),
        estimate=min(scores.values(), key=lambda one: one.value),
        cells=[
            {"asked": name, "queries": one.n, **one.columns("right")}
            for name, one in scores.items()
        ],
        plot=plots.intervals(scores, f"accuracy of {the(model)}"),
        caveats=["Folds mix dates: this is about the queries, not about a model that ages."],
        source=source,
    )
