"""Findings about how a network learned, and about what changes of a query do to its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import paired_accuracy_difference
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import from_columns
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.wording import joined, percent, points, sentence, shown, the


def learning_curves(history: Sequence[Mapping[str, float]], *, limit: int | None = None) -> Finding:
    """Say which epoch was best on the rows that were watched, or how far the training loss fell.

    Parameters
    ----------
    history
        As `models.neural.training.train` returns it: for each epoch ``epoch``, ``train_loss``
        and, where rows were watched, ``validation_loss`` (cross-entropy).
    limit
        The number of epochs that training was not to exceed.
    """
    name, source = "learning_curves", "nivesh_lib.models.neural.training.train"
    if not history:
        return Finding(name=name, claim="The model keeps no record of its training.", source=source)
    watched = all("validation_loss" in epoch for epoch in history)
    claim = _best_epoch(history, limit) if watched else _training_loss(history)
    return Finding(
        name=name,
        claim=sentence(claim),
        plot=Plot(
            kind="epochs",
            data={"history": [dict(epoch) for epoch in history]},
            alt="Loss by epoch: training rows from "
            f"{history[0]['train_loss']:.2f} to {history[-1]['train_loss']:.2f}. {sentence(claim)}",
        ),
        caveats=[] if watched else ["No rows were watched: the curve is of the training rows."],
        source=source,
    )


def _best_epoch(history: Sequence[Mapping[str, float]], limit: int | None) -> str:
    best = 1 + int(np.argmin([epoch["validation_loss"] for epoch in history]))
    after = len(history) - best
    if not after:
        stopped = limit is not None and len(history) >= limit
        last = f"best at the last of {best} epochs" if best > 1 else "best at its only epoch"
        return last + (": the limit may have stopped it" if stopped else "")
    later = "the epoch after it did" if after == 1 else f"the {after} epochs after it did"
    return f"best at epoch {best}: {later} not lower the loss on the watched rows"


def _training_loss(history: Sequence[Mapping[str, float]]) -> str:
    losses = [epoch["train_loss"] for epoch in history]
    if len(losses) == 1:
        return f"after one epoch the loss on the training rows is {losses[0]:.2f}"
    moved = f"from {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} epochs"
    before, last = losses[-2:]
    lowered = f"lowered it by {percent(1 - last / before)}" if last < before else "did not lower it"
    return f"the loss on the training rows went {moved}; the last one {lowered}"


def word_order(model: str, frame: pd.DataFrame) -> Finding:
    """Judge whether a model is more often right on queries than on their words in random order.

    It says how far the model relies on order, not whether order helps: for that, another model
    would have to be trained without it.

    Parameters
    ----------
    frame
        One row for each query that shuffling changes: ``query``, ``asked`` (its words shuffled),
        ``intent``, and the answers to the two, ``predicted`` and ``answer``.
    """
    name, source = "word_order", "nivesh_lib.evaluation.intervals.paired_accuracy_difference"
    if frame.empty:
        claim = "No query was asked with its words shuffled, so word order is not judged."
        return Finding(name=name, claim=claim, source=source)
    before, after = ((frame[c] == frame["intent"]).to_numpy() for c in ("predicted", "answer"))
    lost = paired_accuracy_difference(before, after)
    verdict: Verdict = "met" if lost.low > 0 else "not met" if lost.high < 0 else "undecided"
    rest = {
        "met": f"the answers of {the(model)} rest on word order",
        "not met": f"{the(model)} is right more often on shuffled words than on queries",
        "undecided": f"whether the answers of {the(model)} rest on word order, these rows cannot "
        "tell",
    }[verdict]
    return Finding(
        name=name,
        claim=sentence(
            f"{rest}: as written, {100 * before.mean():.0f} of 100 queries are answered rightly, "
            f"shuffled {100 * after.mean():.0f}, a difference of {points(lost)} points"
        ),
        estimate=lost,
        mark="right more often on queries as written than on their shuffled words, beyond chance",
        verdict=verdict,
        cells=[
            {"queries": lost.n, "as written": before.mean(), "words shuffled": after.mean()}
            | lost.columns("difference")
        ],
        examples=_misled(frame[before & ~after]),
        caveats=[
            "The words were shuffled once, and the model was trained on queries in their order: "
            "what one that never saw any order would reach is not tested."
        ],
        source=source,
    )


def _misled(frame: pd.DataFrame) -> list[Example]:
    """Return two queries without personal data, which would not be found among shuffled words."""
    safe = frame[frame["query"].map(anonymize_query) == frame["query"]].head(2)
    return [
        Example(
            query=row["query"],
            note=f"{shown(row['intent'])}; as “{row['asked']}” taken for {shown(row['answer'])}",
        )
        for row in safe.to_dict("records")
    ]


def spellings(model: str, views: pd.DataFrame) -> Finding:
    """Say to which other spellings of a query a model loses right answers by more than chance.

    Parameters
    ----------
    views
        As `summary.view_scores` returns them.
    """
    name, source = "spellings", "nivesh_lib.evaluation.summary.view_scores"
    if views.empty:
        return Finding(name=name, claim="No query was asked in another spelling.", source=source)
    differences = {
        row["view"]: from_columns(row, "difference", n=row["rows"])
        for row in views.to_dict("records")
    }
    costly = {view: one for view, one in differences.items() if one.high < 0}
    worst = min(costly or differences, key=lambda view: differences[view].value)
    change = f"{points(differences[worst])} points of accuracy"
    if costly:
        to = joined(map(shown, costly)) + (f", most to {shown(worst)}" if len(costly) > 1 else "")
        claim = f"{the(model)} loses right answers by more than chance to {to}: {change}"
    else:
        claim = f"whether other spellings cost {the(model)} right answers, these rows cannot tell"
        claim += f"; the least favourable is {shown(worst)}, {change}"
    return Finding(
        name=name,
        claim=sentence(claim),
        estimate=differences[worst],
        cells=views,
        plot=plots.differences(
            {shown(view): one for view, one in differences.items()},
            "points of accuracy against the same queries as written",
        ),
        caveats=["The intervals are not corrected for the number of spellings."],
        source=source,
    )
