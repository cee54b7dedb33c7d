"""Findings about confidence: calibration, the threshold of confidence, when to abstain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.confidence.calibration import (
    LARGE,
    Calibration,
    calibration_table,
    is_right,
    reliability_bins,
)
from nivesh_lib.evaluation.confidence.selective import AbstentionPolicy, Costs, risk_coverage
from nivesh_lib.evaluation.findings.quality import examples_of
from nivesh_lib.evaluation.intervals import mean_of
from nivesh_lib.evaluation.objectives import Objective, judge
from nivesh_lib.evaluation.resampling.cross_validation import confidence_of, probabilities
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Example, Finding, Plot
from nivesh_lib.wording import model_name, of_100, percent, sentence, shown, the, whole

_HERE = "nivesh_lib.evaluation.confidence"
_POINTS = 200  # of a curve that is drawn
_THRESHOLDS = [n / 100 for n in range(100)]
_EXAMPLES = 24  # queries, evenly from the least to the most confident answer


def calibration(
    model: str,
    calibrations: Mapping[str, Calibration],
    oof: Mapping[str, pd.DataFrame],
    frame: pd.DataFrame,
) -> Finding:
    """Say how far confidence is off, before and after its correction, and judge the latter.

    An error below zero, which its estimate can have by chance, is shown as zero.

    Parameters
    ----------
    model
        The one that is judged; the table has all of ``calibrations``.
    calibrations, oof, frame
        As returned by and given to `confidence.calibration.cross_fitted`.
    """
    found, rows = calibrations[model], headline_mask(frame)
    judged = judge(
        Objective(model, "calibration_error", found.goal, at_most=True),
        *(found.after.value, found.after.low, found.after.high),
    )
    before, true = probabilities(oof[model])[rows], frame["intent"][rows]
    shown_ = {"as it is": before} | ({"corrected": found.proba[rows]} if found.helped else {})
    bins = {
        name: reliability_bins(confidence_of(proba), is_right(proba, true), n_bins=10)
        for name, proba in shown_.items()
    }
    off = confidence_of(before) - is_right(before, true)
    allowed = "a quarter of what it was" if found.before.value > LARGE else "as it was small"
    table = calibration_table(calibrations, oof, frame)
    return Finding(
        name="calibration_error",
        claim=sentence(f"the confidence of {the(model)} {_off(found, off)}"),
        estimate=_from_zero(found.after),
        mark=f"off by at most {100 * found.goal:.1f} points, {allowed}",
        verdict=judged.status,
        cells=[_calibrated(row, found.after.n) for row in table.to_dict("records")],
        plot=Plot(
            kind="reliability",
            data={"bins": {name: one.to_dict("list") for name, one in bins.items()}},
            alt=f"Calibration error {_from_zero(found.before)} as it is, "
            f"{_from_zero(found.after)} corrected.",
        ),
        caveats=["Each fold is corrected by a temperature from the other folds.",
                 "The estimate of an error can fall below zero by chance; then it is shown as 0."],
        source=f"{_HERE}.calibration.cross_fitted_temperature",
    )  # fmt: skip


def _from_zero(error: Estimate) -> Estimate:
    value, low, high = (max(end, 0.0) for end in (error.value, error.low, error.high))
    return Estimate(value, low, high, error.n)


def _off(found: Calibration, off: np.ndarray) -> str:
    """Return what is said of a model's confidence, as it is and corrected."""
    if found.before.low <= 0:
        first = f"shows no error (at most {_in_points(found.before.high)} points)"
    else:
        gap = mean_of(off)
        way = "low" if gap.high < 0 else "high" if gap.low > 0 else ""
        first = f"is {_in_points(found.before.value)} points " + (f"too {way}" if way else "off")
    if not found.helped:
        return f"{first}, and no temperature makes it truer"
    if found.after.low <= 0:
        return f"{first}; corrected, no error shows (at most {_in_points(found.after.high)} points)"
    value, low, high = map(_in_points, (found.after.value, found.after.low, found.after.high))
    return f"{first}; corrected, {value} points ({low} to {high}) remain"


def _in_points(share: float) -> str:
    return whole(100 * share) if share >= 0.095 else f"{100 * max(share, 0.0):.1f}"


def _calibrated(row: Mapping[Any, Any], n: int) -> dict[str, Any]:
    """Return a model's row, in points of 100."""
    cells: dict[str, Any] = {"model": model_name(row["model"])}
    for when, what in (("before", "off as it is, points"), ("after", "off corrected, points")):
        cells |= _from_zero(from_columns(row, f"ece_{when}", n=n)).columns(what, times=100)
    more = ("temperature", "brier_before", "brier_after")
    return cells | {name: row[name] for name in more}


def at_threshold(
    model: str,
    calibrations: Mapping[str, Calibration],
    oof: Mapping[str, pd.DataFrame],
    frame: pd.DataFrame,
    threshold: float | None,
) -> Finding:
    """Say what a threshold of confidence does before and after calibration.

    Parameters
    ----------
    model, calibrations, oof, frame
        As in `calibration`.
    threshold
        The least confidence of an answer; None where no objective names one.
    """
    source = f"{_HERE}.calibration.calibration_table"
    plot = _thresholds(calibrations[model].proba, frame, threshold)
    if threshold is None:
        claim = "No objective sets a least confidence for this dataset."
        return Finding(name="min_confidence", claim=claim, plot=plot, source=source)
    table = calibration_table(calibrations, oof, frame, bar=threshold)
    own = table[table["model"] == model].iloc[0]
    before, after = (whole(100 * own[f"answered_{when}"]) for when in ("before", "after"))
    rights = [own[f"right_{when}"] for when in ("before", "after")]
    # Where nothing is answered, nothing is right.
    first, then = ("" if np.isnan(one) else f" ({percent(one)} right)" for one in rights)
    claim = f"at a confidence of {threshold:g}, {the(model)} answers {before} of 100 queries as it "
    claim += f"is{first} and {after} of 100 corrected{then}"
    names = {"answered": "answered of 100", "right": "right of 100 answers"}
    return Finding(
        name="min_confidence",
        claim=sentence(claim),
        cells=[
            {"model": model_name(row["model"])}
            | {f"{words}, {label}": 100 * row[f"{name}_{when}"]
               for when, label in (("before", "as it is"), ("after", "corrected"))
               for name, words in names.items()}
            for row in table.to_dict("records")
        ],
        plot=plot,
        caveats=["Corrected: each fold by a temperature from the other folds."],
        source=source,
    )  # fmt: skip


def _thresholds(proba: pd.DataFrame, frame: pd.DataFrame, threshold: float | None) -> Plot:
    """Return what is answered, and rightly, from each corrected confidence on, with queries."""
    rows = headline_mask(frame)
    proba, frame = proba[rows], frame[rows]
    stated, right = confidence_of(proba), is_right(proba, frame["intent"])
    answered = [stated >= at for at in _THRESHOLDS]
    even = np.linspace(0, len(stated) - 1, _EXAMPLES).round().astype(int)
    chosen = np.argsort(stated, kind="stable")[np.unique(even)]
    predicted = proba.columns.to_numpy(dtype=object)[proba.to_numpy().argmax(axis=1)]
    pairs = zip(chosen, examples_of(frame, predicted, chosen), strict=True)
    start = 0.5 if threshold is None else threshold
    least = int(np.abs(np.array(_THRESHOLDS) - start).argmin())
    some, at = answered[least], f"{_THRESHOLDS[least]:g}"
    alt = f"From a confidence of {at} on, {whole(100 * some.mean())} of 100 queries are answered"
    alt += f", and {percent(right[some].mean())} of these answers are right." if some.any() else "."
    return Plot(
        kind="thresholds",
        data={
            "thresholds": _THRESHOLDS,
            "answered": [mask.mean() for mask in answered],
            "right": [right[mask].mean() if mask.any() else None for mask in answered],
            "start": least,
            "examples": [dict(one) | {"confidence": stated[row]} for row, one in pairs],
        },
        alt=alt,
    )


# --- abstaining ----------------------------------------------------------------------------------


def not_asked(name: str) -> Finding:
    """Say that no off-topic queries were answered, so that abstaining cannot be judged."""
    claim = "No off-topic queries were answered (no `probes.toml` names any), so this is left out."
    return Finding(name=name, claim=claim)


def out_of_scope(
    policies: Mapping[str, AbstentionPolicy],
    aurocs: Mapping[str, Estimate],
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Finding:
    """Judge how many off-topic queries get through where in-scope ones are answered as often.

    Parameters
    ----------
    policies, aurocs
        ``confidence`` and ``certainty`` -> as `confidence.selective` returns them.
    curves
        The same names -> the score of each query, and whether its answer is right; off-topic
        queries are never right. Shapes (n,).
    """
    alone, both = (let_through(policies[name]) for name in ("confidence", "certainty"))
    judged = judge(
        Objective("", "let_through", alone.value / 2, at_most=True), both.value, both.low, both.high
    )
    drawn = {_SCORES[name]: _thinned(risk_coverage(*curve)) for name, curve in curves.items()}
    return Finding(
        name="out_of_scope",
        claim=sentence(
            f"where 95 of 100 in-scope queries are answered, {of_100(both, 'off-topic ones')} get "
            f"through, against {whole(100 * alone.value)} of 100 by confidence alone"
        ),
        estimate=both,
        mark=f"lets at most {whole(50 * alone.value)} of 100 through, half of what confidence does",
        verdict=judged.status,
        cells=[
            {"score": _SCORES[name], **aurocs[name].columns("AUROC")}
            | let_through(one).columns("off-topic, let through of 100", times=100)
            for name, one in policies.items()
        ],
        plot=Plot(
            kind="risk_coverage",
            data={"curves": {name: one.to_dict("list") for name, one in drawn.items()}},
            alt="Share of wrong answers by share of queries answered; off-topic queries let "
            f"through: {alone} by confidence alone, {both} by certainty.",
        ),
        caveats=["Scores and thresholds come from folds and kinds of query other than those they "
                 "are tried on.", "The half is that of an estimate, which has an interval too.",
                 "In the figure, any answer to an off-topic query is wrong."],
        source=f"{_HERE}.selective.cross_fitted_policy",
    )  # fmt: skip


_SCORES = {
    "confidence": "confidence alone",
    "certainty": "with the out-of-distribution score",
}


def let_through(policy: AbstentionPolicy) -> Estimate:
    """Return the share of off-topic queries answered where 95 of 100 in-scope ones are."""
    one = policy.recall_95
    return Estimate(1 - one.value, 1 - one.high, 1 - one.low, one.n)


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    rows = np.unique(np.linspace(0, len(curve) - 1, _POINTS).round().astype(int))
    return curve.iloc[rows][["coverage", "risk"]]


def abstention(
    model: str,
    policy: AbstentionPolicy,
    *,
    costs: Costs,
    outside_share: float,
    outside: pd.DataFrame,
    certainty: np.ndarray,
) -> Finding:
    """Say how much is handed to a person at the threshold of least cost.

    Parameters
    ----------
    outside_share
        Assumed share of off-topic queries in traffic.
    outside, certainty
        The off-topic queries (columns query and kind, m rows) and their certainty, shape (m,).
    """
    handed, kinds = policy.recall, policy.by_kind.sort_values("recall", kind="stable")
    least = kinds.iloc[0]
    return Finding(
        name="abstention",
        claim=sentence(
            f"where a wrong answer costs {costs.wrong:g} and one handed over {costs.abstain:g}, "
            f"the cost is least if {the(model)} answers "
            f"{of_100(policy.acceptance, 'in-scope queries')} "
            f"and hands over {of_100(handed, 'off-topic ones')}"
        ),
        estimate=handed,
        cells=[
            {"kind of off-topic query": shown(row["kind"]), "queries": row["rows"],
             "handed over of 100": 100 * row["recall"]}
            for row in kinds.to_dict("records")
        ],
        examples=_asked(outside, certainty, policy.threshold),
        caveats=[
            f"The costs are assumptions, and so is that {100 * outside_share:g} of 100 queries are "
            f"off-topic: a query then costs {policy.cost:.2f}.",
            "Each kind was left out when its threshold was chosen; "
            f"“{shown(least['kind'])}” is caught least.",
        ],
        source=f"{_HERE}.selective.cross_fitted_policy",
    )  # fmt: skip


def _asked(outside: pd.DataFrame, certainty: np.ndarray, threshold: float) -> list[Example]:
    """Return the off-topic queries of most certainty, and one of least."""
    order = np.argsort(-certainty, kind="stable")
    return [
        Example(
            query=anonymize_query(outside["query"].iloc[row]),
            note=f"off-topic, {'answered' if certainty[row] >= threshold else 'handed over'}",
        )
        for row in dict.fromkeys([*order[:2].tolist(), *order[-1:].tolist()])
    ]
