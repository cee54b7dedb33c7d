"""Findings about drift, from rows of before and now with the answers of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.drift import FLOOR, Samples, accuracy_change, mean_change
from nivesh_lib.evaluation.findings.quality import examples_of
from nivesh_lib.evaluation.intervals import mean_of, share_of
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.wording import (
    joined,
    of_100,
    percent,
    points,
    sentence,
    shown,
    signed,
)

ALLOWED_LOSS = 0.05  # accuracy, absolute
MARKS = {
    "accuracy": f"at most {100 * ALLOWED_LOSS:g} of 100 answers lost",
    "columns": f"no column further away than {FLOOR:g}, or than chance takes it",
}
_HERE = "nivesh_lib.evaluation.drift"
_SHOWN = 20  # labels in the figure
_NOT_PRODUCTION = "not production"


def compared(samples: Samples) -> Finding:
    """Say what is compared with what, and show rows of now."""
    return Finding(
        name="compared",
        claim=sentence(f"compared are {samples.origin}"),
        examples=[Example(query=anonymize_query(q)) for q in samples.now["query"].head(3)],
        caveats=_limits(samples),
        source=f"{_HERE}.before_and_now",
    )


def _limits(samples: Samples) -> list[str]:
    return [sentence(f"{samples.limit}, {_NOT_PRODUCTION}")] if samples.limit else []


def _limited(samples: Samples, claim: str) -> str:
    """Return a claim that says where it is not one about production."""
    return sentence(f"{samples.limit}: {claim}; {_NOT_PRODUCTION}" if samples.limit else claim)


def accuracy(samples: Samples) -> Finding:
    """Judge how many answers are right now, against before.

    Rows that are not of production decide nothing about it: the verdict is undecided then.

    Parameters
    ----------
    samples
        As `drift.answered` returns them.
    """
    before, now = share_of(samples.right_before), share_of(samples.right_now)
    change = accuracy_change(samples.right_before, samples.right_now)
    verdict, words = _loss(change)
    against = f"are right, against {of_100(before)} before"
    claim = f"{of_100(now, samples.noun)} {against}{words}"
    if samples.limit:
        verdict = "undecided"
        claim = f"{of_100(now)} {against}"
    wrong, right = np.flatnonzero(~samples.right_now), np.flatnonzero(samples.right_now)
    predicted = samples.now["predicted"].to_numpy(dtype=object)
    return Finding(
        name="accuracy",
        claim=_limited(samples, claim),
        estimate=change,
        mark=MARKS["accuracy"],
        verdict=verdict,
        cells=[
            {"answers": when, **one.columns("right of 100", times=100), "queries": one.n}
            for when, one in (("before", before), ("now", now), ("change", change))
        ],
        plot=Plot(
            kind="before_and_now",
            data={"measures": {"answers that are right": {"before": before, "now": now}}},
            alt=f"Of 100 answers {100 * before.value:.0f} are right before and "
            f"{100 * now.value:.0f} now.",
        ),
        examples=examples_of(samples.now, predicted, wrong[:2], right[:1]),
        caveats=_limits(samples),
        source=f"{_HERE}.accuracy_change",
    )


def _loss(change: Estimate) -> tuple[Verdict, str]:
    lost = f"more than {100 * ALLOWED_LOSS:g} of 100 are lost"
    if change.low >= -ALLOWED_LOSS:
        return "met", f"; no {lost}"
    if change.high < -ALLOWED_LOSS:
        return "not met", f"; {lost}"
    return "undecided", f"; whether {lost}, these rows cannot tell"


def columns(samples: Samples, rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Judge which columns moved further than `drift.FLOOR` and than chance.

    Parameters
    ----------
    rows
        As `reporting.drift.drift_report` returns them: column, method, value, threshold, drifted.
    """
    ordered = sorted(rows, key=lambda row: -row["value"] / row["threshold"])
    moved = [shown(row["column"]) for row in ordered if row["drifted"]]
    blind = [shown(row["column"]) for row in ordered if row["threshold"] > FLOOR]
    verdict: Verdict = "not met" if moved else "undecided" if blind else "met"
    if moved:
        first = f"{joined(moved[:3])} the furthest" if len(moved) > 3 else joined(moved)
        claim = f"{len(moved)} of {len(rows)} columns moved, {first}"
    else:
        claim = f"none of the {len(rows)} columns moved further than {FLOOR:g}"
        if blind:
            first = joined([*blind[:3], f"{len(blind) - 3} more"] if len(blind) > 4 else blind)
            claim = (
                f"none of the {len(rows)} columns moved further than chance; whether {first} "
                f"moved by {FLOOR:g}, these rows cannot tell"
            )
    names = {row["column"]: shown(row["column"]) for row in ordered}
    return Finding(
        name="columns",
        claim=_limited(samples, claim),
        mark=MARKS["columns"],
        verdict="undecided" if samples.limit else verdict,
        cells=[
            {"column": names[row["column"]], "distance": row["value"], "threshold":
             row["threshold"], "verdict": "moved" if row["drifted"] else "steady"}
            for row in ordered
        ],
        plot=Plot(
            kind="distances",
            data={
                "distances": {names[row["column"]]: row["value"] for row in ordered},
                "thresholds": {names[row["column"]]: row["threshold"] for row in ordered},
            },
            alt="; ".join(f"{names[r['column']]} {r['value']:.2f}" for r in ordered) + ".",
        ),
        caveats=_limits(samples),
        source="nivesh_lib.reporting.drift.drift_report",
    )  # fmt: skip


def labels(samples: Samples) -> Finding:
    """Name the label whose share changed most, if by more than chance."""
    before, now = samples.before["intent"], samples.now["intent"]
    names = sorted({*before, *now})
    changes = {
        name: accuracy_change(
            (before == name).to_numpy(), (now == name).to_numpy(), alpha=0.05 / len(names)
        )
        for name in names
    }
    ordered = sorted(names, key=lambda name: -abs(changes[name].value))
    sure = [name for name in ordered if changes[name].low > 0 or changes[name].high < 0]
    widest = max((one.high - one.low) / 2 for one in changes.values())
    claim = (
        f"whether any label is more or less frequent among {samples.noun}, these rows cannot "
        f"tell: a change of less than {100 * widest:.0f} points could be chance"
    )
    if sure:
        most, change = sure[0], changes[sure[0]]
        claim = (
            f"{joined([shown(most)])} is {'more' if change.value > 0 else 'less'} frequent among "
            f"{samples.noun}: {percent((now == most).mean())} against "
            f"{percent((before == most).mean())} before, a change of {points(change)} points"
        )
    shares = {
        when: {shown(name): float((column == name).mean()) for name in ordered[:_SHOWN]}
        for when, column in (("before", before), ("now", now))
    }
    return Finding(
        name="labels",
        claim=sentence(claim),
        estimate=changes[sure[0]] if sure else None,
        cells=[
            {"label": shown(name), **{w: shares[w][shown(name)] for w in shares},
             **changes[name].columns("change")}
            for name in ordered[:5]
        ],
        plot=Plot(
            kind="shares",
            data={"shares": shares},
            alt="Share of each label before and now; the table lists the largest changes.",
        ),
        caveats=[
            *_limits(samples),
            f"The intervals are corrected for {len(names)} labels (Bonferroni).",
        ],
        source=f"{_HERE}.accuracy_change",
    )  # fmt: skip


def lengths(samples: Samples) -> Finding:
    """Say whether queries are longer or shorter than before, in words."""
    words = {
        when: frame["query"].map(lambda query: len(query.split())).to_numpy()
        for when, frame in (("before", samples.before), ("now", samples.now))
    }
    change = mean_change(words["before"], words["now"])
    value, low, high = map(signed, (change.value, change.low, change.high))
    means = f"{words['now'].mean():.1f} words on average, against {words['before'].mean():.1f}"
    direction = "longer" if change.low > 0 else "shorter" if change.high < 0 else ""
    claim = f"{samples.noun} are {direction} than before: {means} ({value}, {low} to {high})"
    if not direction:
        claim = (
            f"whether {samples.noun} are longer or shorter than before, these rows cannot tell: "
            f"{means} ({value}, {low} to {high})"
        )
    counts = {when: pd.Series(n).value_counts().sort_index() for when, n in words.items()}
    return Finding(
        name="lengths",
        claim=sentence(claim),
        estimate=change,
        plot=Plot(
            kind="lengths",
            data={"rows": {w: {str(k): int(v) for k, v in n.items()} for w, n in counts.items()}},
            alt=f"Histogram of words in a query before and now; {means}.",
        ),
        caveats=_limits(samples),
        source=f"{_HERE}.mean_change",
    )


def confidence(samples: Samples) -> Finding:
    """Say whether confidence, which needs no labels, would have warned of a loss of accuracy."""
    sides = {"before": samples.before, "now": samples.now}
    stated = {when: frame["confidence"].to_numpy() for when, frame in sides.items()}
    fell = mean_change(stated["before"], stated["now"]).high < 0
    right = accuracy_change(samples.right_before, samples.right_now)
    if right.high < 0:
        warned = "it would have warned of the loss" if fell else "it gives no warning of the loss"
    elif right.low > 0:
        warned = "a false alarm, as more answers are right" if fell else "rightly no alarm"
    else:
        warned = "whether fewer answers are right, these rows cannot tell"
    if samples.limit:  # doubt may have been a reason to choose them
        warned = "such rows cannot tell whether it would warn"
    means = {when: mean_of(values) for when, values in stated.items()}
    shares = {"before": share_of(samples.right_before), "now": share_of(samples.right_now)}
    now, before = (percent(means[when].value) for when in ("now", "before"))
    return Finding(
        name="confidence",
        claim=sentence(
            f"stated confidence in {samples.noun} is {now} on average, against {before} before: "
            + warned
        ),
        estimate=mean_change(stated["before"], stated["now"]),
        plot=Plot(
            kind="before_and_now",
            data={"measures": {"stated confidence": means, "answers that are right": shares}},
            alt=f"Mean confidence {before} before and {now} now; right "
            f"{percent(shares['before'].value)} and {percent(shares['now'].value)}.",
        ),
        caveats=_limits(samples),
        source=f"{_HERE}.mean_change",
    )


def recorded(samples: Samples, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the record of the step holds beside its findings: headline, metrics, drift."""
    found = [compared(samples), accuracy(samples), columns(samples, rows)]
    moved = sum(row["drifted"] for row in rows)
    return {
        "headline": found[1].claim,
        "metrics": {
            "drifted_columns": moved,
            "drifted_share": moved / len(rows),
            "accuracy_before": samples.right_before.mean(),
            "accuracy_now": samples.right_now.mean(),
            "accuracy_change": accuracy_change(samples.right_before, samples.right_now).as_dict(),
        },
        "drift": {"sentences": [one.claim for one in found], "rows": list(rows)},
    }
