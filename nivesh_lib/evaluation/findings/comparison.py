"""Findings about several models on the same queries: who leads, by how much, what users notice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.comparison import Comparison
from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.findings.quality import few_rows
from nivesh_lib.evaluation.intervals import share_of
from nivesh_lib.evaluation.objectives import verdict_of
from nivesh_lib.evaluation.scores import (
    METRICS,
    Column,
    changed_confusions,
    paired_difference,
)
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate, as_columns
from nivesh_lib.records.finding import Example, Finding, Verdict
from nivesh_lib.records.results import HEADLINE
from nivesh_lib.wording import (
    joined,
    milliseconds,
    model_name,
    of_100,
    points,
    sentence,
    shown,
    the,
)

_FEW = 10  # rows; macro-F1 moves with single rows of a label that has fewer
_WORST_FIRST = ("not met", "undecided", "met")
_CAVEATS = (
    "The mark covers the models of notebooks 02 to 05 only; notebook 07 makes further ones and "
    "recommends one of all.",
    "The tests are corrected for the number of pairs of models, the intervals are not.",
    "They are about other queries, not about other training sets.",
)


def gain(
    model: str,
    true: Column,
    predicted: Column,
    others: Mapping[str, Column | None],
    *,
    name: str = "gain",
    n_boot: int = 2000,
    seed: int = 42,
) -> Finding:
    """Judge whether a model is ahead of another one, or of each of several, by more than chance.

    The paired difference in macro-F1, by which models are ranked, decides.

    Parameters
    ----------
    others
        Name -> its answers to the same n queries, None where they are missing. All of them have
        to be behind, so nothing is to be corrected for their number.
    """
    known = {other: answers for other, answers in others.items() if answers is not None}
    if missing := [other for other in others if other not in known]:
        return _not_compared(name, model, missing[0])
    apart = {
        metric: {
            other: paired_difference(
                true, predicted, answers, metric=metric, n_boot=n_boot, seed=seed
            )
            for other, answers in known.items()
        }
        for metric in (HEADLINE, "accuracy")
    }
    gains = apart[HEADLINE]
    verdicts = {other: verdict_of(one.low > 0, one.high < 0) for other, one in gains.items()}
    closest, stands = _stands(gains, verdicts)
    return Finding(
        name=name,
        claim=sentence(f"{the(model)} {stands}"),
        estimate=gains[closest],
        mark=f"ahead of {joined(map(the, others))} by more than chance",
        verdict=verdicts[closest],
        cells=[
            {"ahead of": model_name(other)}
            | gains[other].columns("macro-F1, points", times=100)
            | apart["accuracy"][other].columns("accuracy, points", times=100)
            for other in others
        ],
        plot=plots.differences(
            {
                f"{METRICS[metric].title} over {the(other)}": one
                for metric, found in apart.items()
                for other, one in found.items()
            },
            f"points more for {the(model)}",
        ),
        source="nivesh_lib.evaluation.scores.paired_difference",
    )


def _stands(
    gains: Mapping[str, Estimate], verdicts: Mapping[str, Verdict], metric: str = HEADLINE
) -> tuple[str, str]:
    """Return the model that decides whether another is ahead of all, and how that one stands."""
    closest = min(gains, key=lambda one: (_WORST_FIRST.index(verdicts[one]), gains[one].value))
    ahead = sum(one == "met" for one in verdicts.values())
    lead = f"{points(gains[closest])} points of {METRICS[metric].title}"
    if verdicts[closest] == "met" and len(gains) > 1:
        words = f"is ahead of each of {ahead} other models by more than chance; the closest is "
        return closest, f"{words}{the(closest)}, with a lead of {lead}"
    rest = f"; it is ahead of {ahead} of {len(gains)} by more than chance" if len(gains) > 1 else ""
    if gains[closest].low == gains[closest].high == 0:
        return closest, f"is right on the same rows as {the(closest)}: no difference{rest}"
    found = gains[closest]
    # Tests are corrected for the number of pairs of models, intervals are not.
    corrected = ", corrected for all pairs" if found.low > 0 or found.high < 0 else ""
    words = {
        "met": f"is ahead of {the(closest)} by more than chance",
        "not met": f"is behind {the(closest)} by more than chance",
        "undecided": f"cannot be told from {the(closest)} on these rows{corrected}",
    }[verdicts[closest]]
    return closest, f"{words}: {lead}{rest}"


def leader(
    board: Comparison, true: np.ndarray, p95_ms: Mapping[str, float | None] | None = None
) -> Finding:
    """Say which model leads, and judge whether it is ahead of the others by more than chance.

    Of the models that cannot be told from it, the fastest is named with its price.

    Parameters
    ----------
    board
        As `evaluation.comparison.compare` returns it; its tests, corrected for all pairs, decide.
    true
        The labels that were compared, shape (n,); rare ones become a caveat.
    p95_ms
        Model -> milliseconds within which 95 of 100 queries are answered, as its notebook measured.
    """
    best, times, title = board.champion, p95_ms or {}, METRICS[board.metric].title
    scores = {one.model: one.scores for one in board.models}
    tests = {one.model: one.to_champion for one in board.models if one.to_champion}
    gains = {other: apart.value.negative() for other, apart in tests.items()}
    verdicts = {
        other: verdict_of(apart.differs and apart.value.value < 0, apart.differs)
        for other, apart in tests.items()
    }
    claim = f"{the(best)} routes {of_100(scores[best]['accuracy'])} rightly"
    verdict: Verdict = ""
    if gains:
        closest, stands = _stands(gains, verdicts, board.metric)
        claim = f"{claim} and {stands}; that one routes {of_100(scores[closest]['accuracy'])}"
        verdict = verdicts[closest]
    else:
        claim += "; no other model was recorded to compare it with"
    return Finding(
        name="leader",
        claim=sentence(claim + _cheaper(board, times)),
        estimate=scores[best][board.metric],
        mark="ahead of all models compared here by more than chance" if gains else "",
        verdict=verdict,
        cells=_ranked(board, times),
        plot=plots.differences(
            {model_name(other): apart.value for other, apart in tests.items()},
            f"points of {title} against {the(best)}",
        ) if tests else None,
        caveats=[*few_rows(true, below=_FEW), *_CAVEATS] if tests else [],
        source="nivesh_lib.evaluation.comparison.compare",
    )  # fmt: skip


def _cheaper(board: Comparison, p95_ms: Mapping[str, float | None]) -> str:
    """Return what the fastest model takes that cannot be told from the leader, if less than it."""
    mine = p95_ms.get(board.champion) or 0.0
    faster = {name: ms for name in board.ties if (ms := p95_ms.get(name) or mine) < mine}
    if not faster:
        return ""
    name, took = min(faster.items(), key=lambda one: one[1])
    return (
        f"; {the(name)} ties with it and answers 95 of 100 within {milliseconds(took)} in place of "
        f"{milliseconds(mine)}"
    )


def _ranked(board: Comparison, p95_ms: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Return the rows of the table: the score that ranks first, points against the leader last."""
    names = sorted(METRICS, key=lambda name: name != board.metric)
    return [
        {"rank": one.rank, "model": model_name(one.model)}
        | as_columns({METRICS[name].title: one.scores[name] for name in names})
        | {"95 of 100 within, ms": p95_ms.get(one.model)}
        | (
            one.to_champion.value.columns("points against the leader", times=100)
            if one.to_champion
            else {}
        )
        for one in board.models
    ]


def changes(
    model: str, other: str, frame: pd.DataFrame, before: np.ndarray | None, labels: Sequence[str]
) -> Finding:
    """Say what users would notice if one model replaced another.

    Parameters
    ----------
    frame
        Columns query, intent, predicted and confidence, n rows; the surest are the examples.
    before
        Answers of the other model, shape (n,); None where there are none.
    """
    if before is None or model == other:
        return _not_compared("changes", model, other)
    rows = frame.assign(before=before).sort_values("confidence", ascending=False, kind="stable")
    was, now = (rows["intent"] == rows[column] for column in ("before", "predicted"))
    notes = (
        (~was & now, 2, "{intent}: taken for {before} before, now rightly"),
        (was & ~now, 1, "{intent}: rightly before, now taken for {predicted}"),
    )
    won, lost = (share_of(mask.to_numpy()) for mask, _, _ in notes)
    return Finding(
        name="changes",
        claim=sentence(
            f"in place of {the(other)}, {the(model)} would answer {of_100(won)} rightly that were "
            f"wrong, and {of_100(lost, 'others')} wrongly that were right"
        ),
        estimate=lost,
        cells=changed_confusions(frame["intent"], before, frame["predicted"], labels).assign(
            true=lambda t: t["true"].map(shown), predicted=lambda t: t["predicted"].map(shown)
        ),
        examples=[
            Example(
                query=anonymize_query(row.pop("query")),
                note=note.format_map({str(key): shown(value) for key, value in row.items()}),
            )
            for mask, n, note in notes
            for row in rows[mask].head(n).to_dict("records")
        ],
        source="nivesh_lib.evaluation.scores.changed_confusions",
    )


def _not_compared(name: str, model: str, other: str) -> Finding:
    why = "it leads" if model == other else "it left no answers for this dataset"
    return Finding(name=name, claim=f"Nothing is compared with {the(other)}: {why}.")
