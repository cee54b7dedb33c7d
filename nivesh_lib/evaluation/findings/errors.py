"""Findings about errors: what is confused, doubtful or failed, and what would help most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import share_of
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Example, Finding
from nivesh_lib.wording import joined, model_name, of_100, percent, quoted, sentence, shown, the

_HERE = "nivesh_lib.evaluation.errors"


def leaks(found: Sequence[Mapping[str, str]], rows: int, pairs: int) -> Finding:
    """Say whether something in the data lets a model answer without understanding.

    Parameters
    ----------
    found
        ``severity`` and ``message`` of each, as `data.leakage.find_leaks` returns them.
    rows, pairs
        Training rows, and pairs of near-duplicates among them.
    """
    claim = f"none of the checks finds a leak in {rows:,} training rows"
    if found:
        claim = f"the scores may be too high: {'; '.join(one['message'] for one in found[:3])}"
    return Finding(
        name="leaks",
        claim=sentence(claim),
        cells=[
            {"checked": "near-duplicate pairs", "found": pairs},
            *({"checked": one["message"], "found": one["severity"]} for one in found),
        ],
        source="nivesh_lib.data.leakage.find_leaks",
    )


def overlaps(frame: pd.DataFrame, predicted: np.ndarray, pairs: pd.DataFrame) -> Finding:
    """Name the two labels that are taken for each other most, with a query of each.

    Parameters
    ----------
    frame
        Columns query and intent, n rows.
    predicted
        Shape (n,).
    pairs
        As `evaluation.errors.overlapping_intents` returns them.
    """
    source = f"{_HERE}.overlapping_intents"
    if pairs.empty:
        claim = "No two labels are taken for each other in both directions."
        return Finding(name="overlaps", claim=claim, source=source)
    first = pairs.iloc[0].to_dict()
    both = joined(shown(first[name]) for name in ("first", "second"))
    return Finding(
        name="overlaps",
        claim=sentence(
            f"{both} are taken for each other most: "
            f"{first['first_as_second'] + first['second_as_first']} of their {first['n']} queries"
        ),
        estimate=_estimate(first, "share", "n"),
        cells=[
            {"labels": joined(shown(row[name]) for name in ("first", "second")),
             "first as second": row["first_as_second"], "second as first": row["second_as_first"]}
            | _estimate(row, "share", "n").columns("of 100 of both", times=100)
            for row in pairs.head(5).to_dict("records")
        ],
        examples=[
            example
            for one, other in ((first["first"], first["second"]), (first["second"], first["first"]))
            for example in _taken_for(frame, predicted, one, other)
        ],
        caveats=["The intervals are not corrected for the number of pairs."],
        source=source,
    )  # fmt: skip


def _estimate(row: Mapping[Any, Any], name: str, n: str) -> Estimate:
    return Estimate(row[name], row["low"], row["high"], int(row[n]))


def _taken_for(frame: pd.DataFrame, predicted: np.ndarray, one: str, other: str) -> list[Example]:
    """Return the first query of a label that was taken for another."""
    rows = frame[(frame["intent"] == one).to_numpy() & (predicted == other)]
    note = f"{quoted(one)}, taken for {quoted(other)}"
    return [Example(query=anonymize_query(text), note=note) for text in rows["query"].head(1)]


def doubtful_labels(
    doubted: pd.DataFrame, frame: pd.DataFrame, *, target: float | None = None
) -> Finding:
    """Say how many labels are in doubt, and whether that leaves the accuracy asked for in reach.

    Parameters
    ----------
    doubted
        As `evaluation.errors.likely_label_errors` returns them.
    frame
        All rows that were examined: columns id, query and intent.
    target
        The accuracy that is asked for.
    """
    share = share_of(frame["id"].isin(doubted["id"]).to_numpy())
    of = "label of 1" if len(doubted) == 1 else f"labels of {len(doubted):,}"
    are = "is" if len(doubted) == 1 else "are"
    claim = f"the {of} of {len(frame):,} rows {are} in doubt ({percent(share.value)})"
    counted = frame.loc[headline_mask(frame), "id"].isin(doubted["id"])
    if target is not None and counted.mean() > 1 - target:
        claim += f"; if all were wrong, no model could show the {100 * target:g} of 100 asked for"
    texts = frame.set_index("id")["query"]
    counts = doubted.groupby(["label", "suggested"]).size().sort_values(ascending=False)
    return Finding(
        name="doubtful_labels",
        claim=sentence(claim),
        estimate=share,
        cells=[
            {"label": shown(label), "suggested instead": shown(other), "rows": int(n)}
            for (label, other), n in zip(counts.index[:5].tolist(), counts[:5], strict=True)
        ],
        examples=[
            Example(
                query=anonymize_query(texts[row["id"]]),
                note=f"labelled {quoted(row['label'])}, suggested {quoted(row['suggested'])}",
            )
            for row in doubted.head(3).to_dict("records")
        ],
        caveats=[
            "A model doubts them that had not seen them; some labels are wrong and some models "
            "are. A person decides, in the file that `nivesh data review` writes."
        ],
        source=f"{_HERE}.likely_label_errors",
    )


def would_help(table: pd.DataFrame, n: int) -> Finding:
    """Name the group of queries whose errors cost most accuracy.

    Parameters
    ----------
    table
        As `evaluation.errors.shares_of_errors` returns it, for ``n`` rows. Groups must not be
        picked by what is wrong: all of their errors would count as won.
    """
    source = f"{_HERE}.shares_of_errors"
    rows = table.to_dict("records")
    if not rows:
        claim = "No group of queries is large enough to say what would help most."
        return Finding(name="would_help", claim=claim, source=source)
    rows.sort(key=lambda row: row["gain_low"] <= 0)  # those that are shown to be harder first
    first = rows[0]
    claim = "no group of queries is shown to be harder than the rest"
    if first["gain_low"] > 0:
        claim = (
            f"most is to be won on queries of “{shown(first['group'])}”: "
            f"{percent(first['rows'] / n)} of the queries, {percent(first['share'])} of all errors"
        )
    gains = {shown(row["group"]): _gain(row, n) for row in rows[:10]}
    return Finding(
        name="would_help",
        claim=sentence(claim),
        estimate=_gain(first, n),
        cells=[
            {"queries with": shown(row["group"]), "queries": row["rows"],
             "of 100 errors": 100 * row["share"]}
            | _gain(row, n).columns("points to win", times=100)
            for row in rows
        ],
        plot=plots.differences(gains, "points of accuracy to win"),
        caveats=[
            "To win: if these queries were answered as well as all others, the most that work on "
            "them alone can give. Groups overlap, so gains do not add up.",
        ],
        source=source,
    )  # fmt: skip


def _gain(row: Mapping[Any, Any], n: int) -> Estimate:
    return from_columns(row, "gain", n=n)


def behaviour(tables: Mapping[str, pd.DataFrame], model: str) -> Finding:
    """Name the behavioural test that a model fails most often, beside the other models.

    Parameters
    ----------
    tables
        Model -> what `robustness.behaviour.behaviour` returns.
    model
        The one that the claim is about.
    """
    source = "nivesh_lib.evaluation.robustness.behaviour.behaviour"
    own = tables.get(model, pd.DataFrame()).to_dict("records")
    own.sort(key=lambda row: -row["failed"])
    if not own:
        claim = f"No answers of {the(model)} to behavioural tests were recorded."
        return Finding(name="behaviour", claim=claim, source=source)
    failed = {row["test"]: _estimate(row, "failed", "rows") for row in own}
    worst = own[0]["test"]
    claim = f"{the(model)} passes all {len(own)} behavioural tests"
    if failed[worst].value > 0:
        claim = f"{the(model)} fails most often at “{worst}”: {of_100(failed[worst], 'tests')}"
    others = {
        name: table.set_index("test")["failed"] for name, table in tables.items() if name != model
    }
    return Finding(
        name="behaviour",
        claim=sentence(claim),
        estimate=failed[worst],
        cells=[
            {"test": row["test"], "kind": row["kind"], "texts": row["rows"]}
            | failed[row["test"]].columns(f"{model_name(model)}, failed of 100", times=100)
            | {model_name(name): 100 * rates[row["test"]] if row["test"] in rates else None
               for name, rates in others.items()}
            for row in own
        ],
        plot=plots.intervals(failed, "share of tests that fail"),
        source=source,
    )  # fmt: skip
