"""Findings about segments and about who asks: met, not met, or not established."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.robustness.fairness import (
    CONTROL,
    MARGIN,
    Gap,
    accuracy_gaps,
    detectable,
)
from nivesh_lib.evaluation.scores import MIN_ROWS
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Finding, Verdict
from nivesh_lib.wording import joined, of_100, points, sentence, shown, unseen, whole

_HERE = "nivesh_lib.evaluation.robustness.fairness"
_ALPHA = 0.05


@dataclass(frozen=True)
class _Words:
    """How a share is named: of which queries, in a mark, in a claim; below and above the rest."""

    mark: str
    nothing: str
    share: str
    below: str
    above: str
    unit: str


_RIGHT = _Words(
    mark="no segment's accuracy is {margin:g} points from the rest",
    nothing="fairness is not established",
    share="answered rightly",
    below="answered worse",
    above="answered better",
    unit="points of accuracy against the rest",
)
_HANDED = _Words(
    mark="no segment's share handed over is {margin:g} points from the rest",
    nothing="an even hand-over is not established",
    share="handed over",
    below="handed over less often",
    above="handed over more often",
    unit="points more handed over than of the rest",
)


def fairness(
    right: np.ndarray,
    masks: Mapping[str, np.ndarray],
    *,
    margin: float = MARGIN,
    caveats: Sequence[str] = (),
) -> Finding:
    """Judge whether any segment is answered better or worse than all other queries.

    Parameters
    ----------
    right
        Whether each answer was right, shape (n,).
    masks
        Name -> rows of the segment, as `scores.masks_by_column` returns them.
    margin
        The difference that is let pass, as a share of 1.
    caveats
        About the people that the segments are of.
    """
    return _judged("fairness", np.asarray(right, bool), masks, margin, caveats, _RIGHT)


def handover_by_segment(
    handed: np.ndarray | None,
    masks: Mapping[str, np.ndarray],
    *,
    margin: float = MARGIN,
    caveats: Sequence[str] = (),
) -> Finding:
    """Judge whether any segment is handed to a person more often than all other queries.

    Parameters
    ----------
    handed
        Which queries are handed over, shape (n,); None where nothing decides it.
    """
    name = "handover_by_segment"
    if handed is None:
        claim = "No threshold is set below which a person answers, so nothing is handed over."
        return Finding(name=name, claim=claim, source=f"{_HERE}.accuracy_gaps")
    return _judged(name, np.asarray(handed, bool), masks, margin, caveats, _HANDED)


def _judged(
    name: str,
    found: np.ndarray,
    masks: Mapping[str, np.ndarray],
    margin: float,
    caveats: Sequence[str],
    words: _Words,
) -> Finding:
    """Judge the share of ``found`` queries in each segment against that in all others."""
    gaps = _gaps(found, masks, margin, detectable_above=words is _HANDED)
    if not gaps:
        claim = "The data names no segments of enough rows to compare."
        return Finding(name=name, claim=claim, source=f"{_HERE}.accuracy_gaps")
    apart = [gap for gap in gaps if gap.verdict == "gap"]
    unsure = [gap for gap in gaps if gap.verdict == "cannot tell"]
    verdict: Verdict = "not met" if apart else "undecided" if unsure else "met"
    between = _between({name: found[mask] for name, mask in masks.items()}, words.share)
    if apart:
        claim = "; ".join(
            f"{shown(gap.segment)} is {words.below if gap.difference.value < 0 else words.above} "
            f"than the rest by {points(gap.difference)} points"
            for gap in apart
        )
    elif unsure:
        claim = f"{words.nothing}: {between}{unseen(gap.detectable for gap in unsure)}"
    else:
        claim = f"no segment is {100 * margin:g} points from the rest: {between}"
    differences = {shown(gap.segment): gap.difference for gap in gaps}
    return Finding(
        name=name,
        claim=sentence(claim),
        estimate=max(differences.values(), key=lambda one: abs(one.value)),
        mark=words.mark.format(margin=100 * margin),
        verdict=verdict,
        cells=[_row(gap, float(found[masks[gap.segment]].mean()), words) for gap in gaps],
        plot=plots.differences(differences, words.unit, margin=margin),
        caveats=[
            "A true gap of the smallest size seen would be told from none four times out of five, "
            "if its segment were the only one.",
            *caveats,
        ],
        source=f"{_HERE}.accuracy_gaps",
    )


def _gaps(
    found: np.ndarray, masks: Mapping[str, np.ndarray], margin: float, *, detectable_above: bool
) -> list[Gap]:
    """Return the gaps; ``detectable`` is about shares below the rest's unless it says above."""
    if not detectable_above:
        return accuracy_gaps(found, masks, margin=margin)
    return [gap.mirrored() for gap in accuracy_gaps(~found, masks, margin=margin)]


def _between(groups: Mapping[str, np.ndarray], share: str) -> str:
    """Return the least and the largest share among groups of enough rows."""
    means = {name: 100 * rows.mean() for name, rows in groups.items() if len(rows) >= MIN_ROWS}
    low, high = (pick(means, key=means.__getitem__) for pick in (min, max))
    first, last = (f"{whole(means[name])} of 100 ({shown(name)})" for name in (low, high))
    return f"{first} to {last} are {share}" if low != high else f"{first} are {share}"


_VERDICTS = {"gap": "apart", "no gap": "not apart", "cannot tell": "cannot tell"}


def _row(gap: Gap, share: float, words: _Words) -> dict[str, Any]:
    return {
        "segment": shown(gap.segment),
        "queries": gap.difference.n,
        f"{words.share}, of 100": 100 * share,
        **gap.difference.columns("against the rest", times=100),
        "smallest gap seen": 100 * gap.detectable,
        "verdict": _VERDICTS[gap.verdict],
    }


def segments(table: pd.DataFrame) -> Finding:
    """Show the scores, the calibration and the hand-over of each segment by itself.

    Parameters
    ----------
    table
        As `robustness.fairness.segment_scores` returns it.
    """
    source = f"{_HERE}.segment_scores"
    if table.empty:
        claim = "The data has no segments of enough rows to score."
        return Finding(name="segments", claim=claim, source=source)
    rows = table.to_dict("records")
    off = [row for row in rows if row["calibration_low"] > 0 or row["calibration_high"] < 0]
    said = joined(
        f"{shown(row['slice'])} (by {points(_estimate(row, 'calibration'))} points)" for row in off
    )
    names = {"accuracy": "accuracy", "macro_f1": "macro-F1", "calibration": "confidence too high",
             "abstained": "handed over"}  # fmt: skip
    return Finding(
        name="segments",
        claim=f"Corrected confidence is off for {said}." if off else (
            f"Corrected confidence is not shown to be off for any of {len(rows)} groups of queries."
        ),
        cells=[
            {"queries with": shown(row["slice"]), "queries": row["rows"]}
            | {f"{title}{end}": row[f"{name}{end}"] for name, title in names.items()
               for end in ("", "_low", "_high") if f"{name}{end}" in row}
            for row in rows
        ],
        caveats=["The intervals are not corrected for the number of groups."],
        source=source,
    )  # fmt: skip


def _estimate(row: Mapping[Any, Any], name: str) -> Estimate:
    return from_columns(row, name, n=row["rows"])


def intersections(table: pd.DataFrame, columns: Sequence[str]) -> Finding:
    """Say how accuracy varies where the values of several columns meet.

    Parameters
    ----------
    table
        As `robustness.fairness.intersectional_scores` returns it for these columns.
    """
    source = f"{_HERE}.intersectional_scores"
    if len(table) < 2:
        claim = f"The data has no rows to compare where {joined(map(shown, columns))} meet."
        return Finding(name="intersections", claim=claim, source=source)
    rows = table.sort_values("accuracy", kind="stable").to_dict("records")
    low, high = (
        f"{of_100(_estimate(row, 'accuracy'))} for {_meeting(row, columns)}"
        for row in (rows[0], rows[-1])
    )
    return Finding(
        name="intersections",
        claim=sentence(
            f"where {joined(map(shown, columns))} meet, right answers go from {low} to {high}"
        ),
        estimate=_estimate(rows[0], "accuracy"),
        cells=[
            {"who": _meeting(row, columns), "queries": row["rows"]}
            | {f"accuracy{end}": row[f"accuracy{end}"] for end in ("", "_low", "_high")}
            for row in rows
        ],
        caveats=["Of several groups, the lowest is low by chance too."],
        source=source,
    )


def _meeting(row: Mapping[Any, Any], columns: Sequence[str]) -> str:
    return " and ".join(shown(row[name]) for name in columns)


# --- counterfactual pairs ------------------------------------------------------------------------


def counterfactuals(table: pd.DataFrame) -> Finding:
    """Say whether the asker or the wording changes more answers than another name does.

    Parameters
    ----------
    table
        As `robustness.fairness.flip_rates` returns it.
    """
    source, name = f"{_HERE}.flip_rates", "counterfactuals"
    rows = {row["attribute"]: row for row in table.to_dict("records")}
    compared = {who: row for who, row in rows.items() if row["p_control"] == row["p_control"]}
    if not compared:
        claim = "No answers to pairs that differ in one thing were recorded."
        return Finding(name=name, claim=claim, source=source)
    control, rates = rows[CONTROL], {who: _estimate(row, "flipped") for who, row in rows.items()}
    usual = f"{whole(100 * control['flipped'])} of 100"
    more = [who for who, row in compared.items() if row["p_control"] < _ALPHA]
    if more:
        said = joined(f"{who} changes {of_100(rates[who], 'answers')}" for who in more)
        claim = f"{said}, more than another name does ({usual})"
    else:
        least = [detectable(1 - control["flipped"], row["rows"], control["rows"])
                 for row in compared.values()]  # fmt: skip
        claim = "nothing about who asks, or how, is shown to change more answers than another name "
        claim += f"does ({usual}){unseen(least)}"
    return Finding(
        name=name,
        claim=sentence(claim),
        estimate=rates[more[0] if more else max(compared, key=lambda who: rates[who].value)],
        cells=[
            {"what changes": who, "queries": row["rows"]}
            | rates[who].columns("another answer, of 100", times=100)
            | {"p (against another name)": row["p_control"]}
            for who, row in rows.items()
        ],
        plot=plots.intervals(rates, "share of answers that change"),
        caveats=[
            "Any change of a text may change an answer, so one name for another of the same gender "
            f"and community is the control; p is corrected for {len(compared)} comparisons.",
        ],
        source=source,
    )  # fmt: skip
