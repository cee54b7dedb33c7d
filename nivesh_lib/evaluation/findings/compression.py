"""Findings about models that were made smaller or faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.compression.cascade import NEVER, CascadeThreshold
from nivesh_lib.evaluation.compression.gate import Choice, GateDecision, Recommendation
from nivesh_lib.evaluation.objectives import BUSY
from nivesh_lib.evaluation.resampling.cross_validation import aligned, predicted_labels
from nivesh_lib.evaluation.scores import METRICS, headline_mask, paired_difference
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.records.results import HEADLINE
from nivesh_lib.wording import (
    human_bytes,
    milliseconds,
    model_name,
    of_100,
    points,
    sentence,
    shown,
    the,
    whole,
)

_GATE = "nivesh_lib.evaluation.compression.gate"
_HERE_ONLY = (
    "Milliseconds are those within which 95 of 100 queries are answered, one after the other, on "
    "the machine that made this page."
)
_DECISIONS = {
    "refused": "left out: loses too much",
    "no gain": "left out: neither faster nor smaller",
    "not saved": "left out: cannot be saved",
    "kept": "kept",
}


def technique(one: Choice) -> Finding:
    """Say what a model takes, what that changes, and whether it loses more than is allowed.

    Of the model that all others are made from, say what it reaches.
    """
    source, decision = f"{_GATE}.decide", one.decision
    takes = f"{the(one.name)} takes {human_bytes(one.size_bytes)}"
    if decision is None:
        accuracy = one.scores["accuracy"]
        claim = f"{takes} and routes {of_100(accuracy)} rightly"
        return Finding(name="reference", claim=sentence(claim), estimate=accuracy, source=source)
    loss = "more" if decision.verdict == "refused" else "no more"
    claim = (
        f"{takes}, changes accuracy by {points(decision.difference)} points and answers "
        f"{whole(100 * decision.agreement.value)} of 100 queries alike; it loses {loss} "
        "than is allowed, as its point says"
    )
    return Finding(
        name=f"technique_{one.name}",
        claim=sentence(claim),
        estimate=decision.difference,
        source=source,
    )


def cascade(threshold: CascadeThreshold, student: str, teacher: str) -> Finding:
    """Say how much a model in front answers, and what that changes to the one behind it alone."""
    change, allowed = threshold.loss.negative(), f"{100 * threshold.allowed_loss:g} points"
    claim = (
        f"for a loss of at most {allowed}, {the(student)} may answer nothing"
        if threshold.threshold >= NEVER
        else f"in front, {the(student)} answers {of_100(threshold.share)}; against {the(teacher)} "
        f"alone accuracy changes by {points(change)} points, where a loss of {allowed} was allowed"
    )
    source = "nivesh_lib.evaluation.compression.cascade.choose_threshold"
    return Finding(name="cascade", claim=sentence(claim), estimate=change, source=source)


def answer(candidates: Sequence[Choice], optimised: str) -> Finding:
    """Judge whether a model became smaller or faster without getting worse than is allowed.

    Parameters
    ----------
    candidates
        The model that the others are made from, and at least one other, raced.
    optimised
        The best that the gate kept, by its name; empty where it kept none.
    """
    reference, decisions = candidates[0], [one.decision for one in candidates if one.decision]
    allowed = f"{100 * decisions[0].allowed_loss:g} points"
    common: dict[str, Any] = {
        "name": "compression",
        "mark": f"smaller or faster than {the(reference.name)} for at most {allowed} of accuracy",
        "cells": [_technique(one, one.decision) for one in candidates if one.decision],
        "caveats": [*_unsettled(decisions), "The best of several on these very rows."],
        "source": f"{_GATE}.recommended",
    }
    if not optimised:
        claim = (
            f"none of {len(decisions)} techniques makes {the(reference.name)} smaller or faster "
            f"for at most {allowed} of accuracy"
        )
        return Finding(claim=sentence(claim), verdict="not met", **common)
    best, decision = next(
        (one, one.decision) for one in candidates if one.decision and one.name == optimised
    )
    verdict: Verdict = "undecided" if decision.may_lose_more else "met"
    judged = {
        "met": f"no more is lost than the {allowed} allowed",
        "undecided": f"whether more is lost than the {allowed} allowed, these rows cannot tell",
    }[verdict]
    claim = (
        f"{the(best.name)} answers 95 of 100 queries within {milliseconds(best.speed.p95_ms)} and "
        f"takes {human_bytes(best.size_bytes)}, where {the(reference.name)} needs "
        f"{_price(reference)}; accuracy changes by {points(decision.difference)} points: {judged}"
    )
    return Finding(claim=sentence(claim), estimate=decision.difference, verdict=verdict, **common)


def _technique(one: Choice, decision: GateDecision) -> dict[str, Any]:
    return {
        "technique": model_name(one.name),
        "decision": _DECISIONS[one.verdict],
        **decision.difference.columns("points", times=100),
        "same answers, of 100": 100 * decision.agreement.value,
        "times as fast": decision.times_as_fast,
        "times as small": decision.times_as_small,
    }


def _unsettled(decisions: Sequence[GateDecision]) -> list[str]:
    """Return for how many techniques these rows leave open whether more is lost than allowed."""
    open_ = [one for one in decisions if one.may_lose_more and not one.loses_more]
    if not open_:
        return []
    losses = [one.allowed_loss + one.difference.high - one.difference.value for one in open_]
    low, high = (f"{100 * end(losses):.1f}" for end in (min, max))
    return [
        f"The gate decides by the point. For {len(open_)} of {len(decisions)} techniques these "
        f"{open_[0].difference.n:,} queries cannot settle whether more is lost than allowed: only "
        f"a loss of about {low if low == high else f'{low} to {high}'} points would be shown to be."
    ]


def recommendation(
    choices: Sequence[Choice],
    advice: Recommendation,
    frame: pd.DataFrame,
    *,
    target_ms: float | None = None,
    handed: Mapping[str, float] | None = None,
    n_boot: int = 2000,
) -> Finding:
    """Name the model to serve, and the fastest that cannot be told from it, with its price.

    Parameters
    ----------
    choices, advice
        As given to and returned by `gate.recommended`.
    frame
        ``id``, ``query``, ``intent`` and ``selection`` of the rows that they answered.
    handed
        Cascade -> the share of the timed queries that it hands to the model behind.
    """
    best = next(one for one in choices if one.name == advice.model)
    apart = _differences(choices, best, frame, n_boot)
    metric = METRICS[HEADLINE].title
    lead = "of the models that answer in time, the best is" if advice.meets_latency else (
        f"no model is known to answer 95 of 100 queries within {target_ms:g} ms; best is"
    )  # fmt: skip
    right = of_100(best.scores["accuracy"])
    claim = f"{lead} {the(best.name)}: it routes {right} rightly and needs {_price(best)}"
    others = [one for one in choices if one is not best and one.verdict in ("", "kept")]
    faster = [one for one in others if one.speed.p95_ms < best.speed.p95_ms]
    tied = [one for one in faster if apart[one.name].low <= 0 <= apart[one.name].high]
    cheap = min(tied, key=lambda one: one.speed.p95_ms, default=None)
    if cheap:
        claim += (
            f"; {the(cheap.name)} may be as good, at {points(apart[cheap.name])} points of "
            f"{metric}, and needs {_price(cheap)}"
        )
    elif faster:
        claim += "; every faster model is behind by more than chance"
    ordered = sorted(choices, key=lambda one: -one.scores[HEADLINE].value)
    return Finding(
        name="recommendation",
        claim=sentence(claim),
        estimate=best.scores["accuracy"],
        cells=[
            _choice(one, apart[one.name], handed or {})
            | {"decision": "recommended" if one is best else _decision(one, target_ms)}
            for one in ordered
        ],
        plot=_costs(ordered, best),
        examples=_told_apart(best, cheap, frame) if cheap else [],
        caveats=[*_timed(choices), "The intervals are not corrected for the number of models."],
        source=f"{_GATE}.recommended",
    )  # fmt: skip


def _choice(one: Choice, apart: Estimate, handed: Mapping[str, float]) -> dict[str, Any]:
    """Return a model's row: what it reaches, against the recommended one, and what it costs."""
    speed = one.speed.as_dict()
    return {
        "model": model_name(one.name),
        **one.scores["accuracy"].columns("accuracy"),
        **apart.columns(f"points of {METRICS[HEADLINE].title} against it", times=100),
        "half of the queries, ms": speed["p50_ms"],
        **from_columns(speed, "p95_ms", n=speed["n"]).columns("95 of 100 within, ms"),
        "MB": None if one.size_bytes is None else one.size_bytes / 1e6,
    } | ({"handed on, of 100": 100 * handed[one.name]} if one.name in handed else {})


def _costs(choices: Sequence[Choice], best: Choice) -> Plot:
    points_ = [
        {"name": model_name(one.name), "accuracy": one.scores["accuracy"],
         "ms": one.speed.p95_ms, "bytes": one.size_bytes}
        for one in sorted(choices, key=lambda one: one is best)
    ]  # fmt: skip
    alt = f"Accuracy against milliseconds of {len(choices)} models; {the(best.name)} has "
    alt += f"{best.scores['accuracy'].value:.3f} at {milliseconds(best.speed.p95_ms)}."
    return Plot(kind="costs", data={"points": points_}, alt=alt)


def _told_apart(best: Choice, other: Choice, frame: pd.DataFrame) -> list[Example]:
    """Return the first query that only one of two models answers rightly, for each of the two."""
    rows = frame[headline_mask(frame)]
    answers = [predicted_labels(aligned(one.oof, rows["id"])) for one in (best, other)]
    mine, its = (one == rows["intent"].to_numpy(dtype=object) for one in answers)
    return [
        Example(
            query=anonymize_query(rows["query"].iloc[row]),
            note=f"{shown(rows['intent'].iloc[row])}: rightly by {the(one.name)}, "
            f"taken for {shown(taken[row])} by {the(wrong.name)}",
        )
        for one, wrong, taken, mask in (
            (best, other, answers[1], mine & ~its),
            (other, best, answers[0], its & ~mine),
        )
        for row in np.flatnonzero(mask)[:1]
    ]


def _decision(one: Choice, target_ms: float | None) -> str:
    if (status := one.in_time(target_ms)) != "met":
        return "too slow" if status == "not met" else "not known to be in time"
    return _DECISIONS.get(one.verdict, "not optimised")


def _differences(
    choices: Sequence[Choice], best: Choice, frame: pd.DataFrame, n_boot: int
) -> dict[str, Estimate]:
    """Return the score that ranks leaderboards of each model, minus that of the best."""
    rows = frame[headline_mask(frame)]
    labels = {one.name: predicted_labels(aligned(one.oof, rows["id"])) for one in choices}
    true, asked = rows["intent"], {"metric": HEADLINE, "n_boot": n_boot}
    return {
        name: paired_difference(true, own, labels[best.name], **asked)  # type: ignore[arg-type]
        for name, own in labels.items()
    }


def serving(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Say what a process that serves a model needs and answers.

    Parameters
    ----------
    rows
        ``model``, ``peak_bytes`` of its process and ``per_second``, queries in batches of
        ``batch_size``; of a cascade ``handed``, the share that it hands on. At least one row.
    """
    needs = [
        f"{the(row['model'])} holds up to {human_bytes(row['peak_bytes'])} of memory and answers "
        f"{row['per_second']:,.0f} queries a second"
        for row in rows
    ]
    return Finding(
        name="serving",
        claim=sentence("; ".join(needs)),
        cells=[
            {"model": model_name(row["model"]), "memory, MB": row["peak_bytes"] / 1e6,
             f"queries a second, {row['batch_size']} a call": row["per_second"],
             **({"handed on, of 100": 100 * row["handed"]} if "handed" in row else {})}
            for row in rows
        ],
        caveats=["Measured in a process of its own, with one thread, on this machine."],
        source="nivesh_lib.evaluation.benchmark.benchmark_served",
    )  # fmt: skip


def _timed(choices: Sequence[Choice]) -> list[str]:
    """Return how the models were timed, and whether a reference loop found the machine busy."""
    slowdown = max(one.speed.reference_ms_high / one.speed.reference_ms_low for one in choices)
    busy = f"The machine was busy: a reference loop took {slowdown:.1f} times its fastest, so "
    busy += "models may be faster than this."
    return [busy, _HERE_ONLY] if slowdown > BUSY else [_HERE_ONLY]


def _price(one: Choice) -> str:
    size = "" if one.size_bytes is None else f" and {human_bytes(one.size_bytes)}"
    return milliseconds(one.speed.p95_ms) + size
