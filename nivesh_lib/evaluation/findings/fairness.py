"""Findings about segments and about who asks: met, not met, or not established."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import MIN_ROWS
from nivesh_lib.evaluation.robustness.fairness import (
    CONTROL,
    MARGIN,
    Gap,
    accuracy_gaps,
    detectable,
)
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Finding, Verdict
from nivesh_lib.wording import joined, of_100, points, sentence, shown, whole, would_show

_HERE = "nivesh_lib.evaluation.robustness.fairness"


# How a share is named in marks, what is established where it is even, and what its queries are.
_RIGHT = ("accuracy", "fairness", "answered rightly")
_HANDED = ("share handed over", "an even hand-over", "handed over")


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

    Notes
    -----
    Where the rows cannot tell, the claim says how large a true gap would have to be for the rule
    of the verdict (`accuracy_gaps`) to call it one four times out of five (`detectable`).
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
    words: tuple[str, str, str],
) -> Finding:
    """Judge the share of ``found`` queries in each segment against that in all others."""
    gaps = accuracy_gaps(found, masks, margin=margin)
    if not gaps:
        return Finding(name=name, claim="The data names no segments of enough rows to compare.")
    what, aim, share = words
    good = ~found if words is _HANDED else found
    least = {
        gap.segment: detectable(good, masks[gap.segment], comparisons=len(gaps), margin=margin)
        for gap in gaps
    }
    groups = {name: found[mask] for name, mask in masks.items()}
    apart, unsure = ([g for g in gaps if g.verdict == one] for one in ("gap", "cannot tell"))
    verdict: Verdict = "not met" if apart else "undecided" if unsure else "met"
    shows = would_show(least[gap.segment] for gap in unsure)
    claims = {
        "met": f"no segment is {100 * margin:g} points from the rest: {_between(groups, share)}",
        "undecided": f"{aim} is not established: {_between(groups, share)}{shows}",
        "not met": "; ".join(_apart(gap, groups, share) for gap in apart),
    }
    differences = {shown(gap.segment): gap.difference for gap in gaps}
    return Finding(
        name=name,
        claim=sentence(claims[verdict]),
        estimate=max(differences.values(), key=lambda one: abs(one.value)),
        mark=f"no segment's {what} is {100 * margin:g} points from the rest",
        verdict=verdict,
        cells=[
            _row(gap, groups, share)
            | {"found 4 times of 5 from": 100 * least[gap.segment]}
            | {"verdict": gap.verdict}
            for gap in gaps
        ],
        plot=plots.differences(differences, f"points, {what} against the rest", margin=margin),
        caveats=[
            f"A gap is found where its whole interval, corrected for {len(gaps)} comparisons, lies "
            f"beyond {100 * margin:g} points. What would be missed is a segment that is worse off.",
            *caveats,
        ],
        source=f"{_HERE}.accuracy_gaps",
    )


def _row(gap: Gap, groups: Mapping[str, np.ndarray], share: str) -> dict[str, Any]:
    return {
        "segment": shown(gap.segment),
        "queries": gap.difference.n,
        f"{share}, of 100": 100 * groups[gap.segment].mean(),
        **gap.difference.columns("against the rest", times=100),
    }


def _apart(gap: Gap, groups: Mapping[str, np.ndarray], share: str) -> str:
    """Return a segment's share and its distance from the rest."""
    own = f"of {shown(gap.segment)}, {whole(100 * groups[gap.segment].mean())} of 100 are {share}"
    return f"{own}, {points(gap.difference)} points from the rest"


def _between(groups: Mapping[str, np.ndarray], share: str) -> str:
    """Return the least and the largest share among groups of enough rows."""
    means = {name: 100 * rows.mean() for name, rows in groups.items() if len(rows) >= MIN_ROWS}
    low, high = (pick(means, key=means.__getitem__) for pick in (min, max))
    first, last = (f"{whole(means[name])} of 100 ({shown(name)})" for name in (low, high))
    return f"{first} to {last} are {share}" if low != high else f"{first} are {share}"


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
    groups = f"{len(rows)} groups of queries"
    any_ = f"any of {groups}" if rows[1:] else f"the {groups.replace('groups', 'group')}"
    claim = f"Corrected confidence is not shown to be off for {any_}."
    if off:
        most = max(off, key=lambda row: abs(row["calibration"]))
        others = f" and {len(off) - 1} more of {groups}" if off[1:] else ""
        claim = f"Corrected confidence is off for {shown(most['slice'])} "
        claim += f"(by {points(_estimate(most, 'calibration'))} points){others}."
    names = {"accuracy": "accuracy", "macro_f1": "macro-F1", "calibration": "confidence too high",
             "abstained": "handed over"}  # fmt: skip
    return Finding(
        name="segments",
        claim=claim,
        cells=[
            {"queries with": shown(row["slice"]), "queries": row["rows"]}
            | {f"{title}{end}": row[f"{name}{end}"] for name, title in names.items()
               for end in ("", "_low", "_high") if f"{name}{end}" in row}
            for row in rows
        ],
        caveats=["Only the intervals of confidence are corrected for the number of groups."],
        source=source,
    )  # fmt: skip


def _estimate(row: Mapping[Any, Any], name: str) -> Estimate:
    return from_columns(row, name, n=row["rows"])


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
    rates = {who: _estimate(row, "flipped") for who, row in rows.items()}
    more = {who: _estimate(row, "more") for who, row in rows.items() if row["more"] == row["more"]}
    if not more:
        claim = "No answers to pairs that differ in one thing were recorded."
        return Finding(name=name, claim=claim, source=source)
    sure = [who for who, one in more.items() if one.low > 0]
    than = f"than another name does ({whole(100 * rates[CONTROL].value)} of 100)"
    said = joined(f"{who} changes {of_100(rates[who], 'answers')}" for who in sure)
    claim = f"{said}, more {than}"
    if not sure:
        most = max(more, key=lambda who: more[who].high)
        claim = f"nothing about who asks, or how, is shown to change more answers {than}"
        claim += f"; up to {whole(100 * more[most].high)} points more are not excluded ({most})"
    return Finding(
        name=name,
        claim=sentence(claim),
        estimate=max((more[who] for who in sure or more), key=lambda one: one.value),
        cells=[
            {"what changes": who, "queries": rates[who].n}
            | rates[who].columns("another answer, of 100", times=100)
            | _estimate(row, "more").columns("more than another name, points", times=100)
            for who, row in rows.items()
        ],
        plot=plots.differences(more, "points more answers changed than by another name"),
        caveats=[
            "Any change of a text may change an answer, so one name for another of the same gender "
            "and community is the control; the intervals of the differences are corrected for "
            f"{len(more)} comparisons.",
        ],
        source=source,
    )
