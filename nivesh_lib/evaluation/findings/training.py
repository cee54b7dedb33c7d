"""Findings about how a network learned, and about what it uses of a query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.errors import Attribution, attribute
from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import paired_accuracy_difference
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import from_columns
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.wording import (
    joined,
    percent,
    points,
    sentence,
    shown,
    the,
)


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
            f"{history[0]['train_loss']:.2f} to {history[-1]['train_loss']:.2f}. {claim}.",
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
    before, after = (frame[c].to_numpy() == frame["intent"] for c in ("predicted", "answer"))
    halves = _halves(frame["query"])
    worth = {
        half: paired_accuracy_difference(before[rows].to_numpy(), after[rows].to_numpy())
        for half, rows in halves.items()
    }
    overall = worth["all queries"]
    verdict: Verdict = "met" if overall.low > 0 else "not met" if overall.high < 0 else "undecided"
    helps = {
        "met": f"word order helps {the(model)} by more than chance",
        "not met": f"word order misleads {the(model)} by more than chance",
        "undecided": f"whether word order helps {the(model)}, these rows cannot tell",
    }[verdict]
    return Finding(
        name=name,
        claim=sentence(
            f"{helps}: {100 * before.mean():.0f} of 100 queries are answered rightly as written "
            f"and {100 * after.mean():.0f} with their words shuffled, {points(overall)} points"
        ),
        estimate=overall,
        mark="word order helps by more than chance",
        verdict=verdict,
        cells=[
            {"queries": half, "rows": one.n, "as written": before[halves[half]].mean()}
            | {"words shuffled": after[halves[half]].mean(), **one.columns("difference")}
            for half, one in worth.items()
        ],
        plot=plots.differences(worth, "points of accuracy that word order is worth"),
        examples=_misled(frame[before & ~after]),
        source=source,
    )


def _halves(queries: pd.Series) -> dict[str, pd.Series]:
    """Return masks of all queries, and of the shorter and the longer ones where they differ."""
    words = queries.map(lambda query: len(query.split()))
    middle = int(words.median())
    halves = {f"up to {middle} words": words <= middle, f"more than {middle}": words > middle}
    return {"all queries": words > 0} | (halves if (words > middle).any() else {})


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


def looks_at(
    model: str,
    predict_proba: Callable[[list[str]], np.ndarray],
    classes: Sequence[str],
    queries: Sequence[str],
) -> Finding:
    """Say which word of some queries a model's answer rests on most.

    Parameters
    ----------
    predict_proba
        Texts -> probabilities (n, n_classes), columns in the order of ``classes``.
    queries
        A few, anonymised, that the model was fitted on.
    """
    name, source = "looks_at", "nivesh_lib.evaluation.errors.attribute"
    found = attribute(predict_proba, classes, queries)
    weighed = [(max(one.weights), one) for one in found if one.weights]
    if not weighed:
        claim = "No query was found whose words could be weighed."
        return Finding(name=name, claim=claim, source=source)
    blocks = {
        f"{n}. {shown(one.label)}, {percent(one.confidence)}": (one.words, one.weights)
        for n, one in enumerate(found, start=1)
    }
    return Finding(
        name=name,
        claim=sentence(_heaviest(model, *max(weighed, key=lambda one: one[0]))),
        plot=Plot(
            kind="words",
            data={"examples": blocks},
            alt="What each word adds to the confidence: " + "; ".join(map(_weights, found)) + ".",
        ),
        examples=[
            Example(query=query, note=shown(one.label))
            for query, one in zip(queries, found, strict=True)
        ],
        caveats=[
            f"A few queries, of those that {the(model)} was fitted on. Of two words that say the "
            "same, neither weighs much, as each stands in for the other."
        ],
        source=source,
    )


def _heaviest(model: str, weight: float, found: Attribution) -> str:
    before, after = percent(found.confidence), percent(found.confidence - weight)
    if weight <= 0 or before == after:
        return f"no single word of these queries makes {the(model)} any surer of its answer"
    word = found.words[found.weights.index(weight)].strip(".,?!")
    return (
        f"of all words of these queries, “{word}” weighs most: without it, the confidence of "
        f"{the(model)} in {shown(found.label)} falls from {before} to {after}"
    )


def _weights(found: Attribution) -> str:
    pairs = zip(found.words, found.weights, strict=True)
    return f"{shown(found.label)}: " + ", ".join(f"{word} {weight:+.2f}" for word, weight in pairs)
