"""Findings about several models on the same queries: who leads, by how much, what users notice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.comparison import Comparison, Difference, Ranked
from nivesh_lib.evaluation.errors import Flips
from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.scores import METRICS, rare_labels
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate, as_columns
from nivesh_lib.records.finding import Example, Finding, Verdict
from nivesh_lib.wording import (
    joined,
    model_name,
    of_100,
    points,
    sentence,
    shown,
    the,
)

_MARK = "ahead of every other model by more than chance"
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FEW = 10  # rows; macro-F1 moves with single rows of a label that has fewer


def leader(board: Comparison) -> Finding:
    """Say which model leads, and judge whether it is ahead of the others by more than chance.

    Parameters
    ----------
    board
        As `evaluation.comparison.compare` returns it; its tests, corrected for all pairs, decide.
    """
    best = _champion(board)
    others = _others(board)
    ahead_of = {model.model for model, apart in others if apart.differs and apart.value.value > 0}
    tied = [model.model for model, apart in others if not apart.differs]
    verdict: Verdict = "not met" if ahead_of else "undecided" if tied else "met"
    routes = f"{the(best.model)} routes {of_100(best.scores['accuracy'])} rightly"
    if not others:
        claim, verdict = f"{routes}; no other model was recorded to compare it with", ""
    elif ahead_of:
        claim = f"{routes}, behind {joined(map(the, sorted(ahead_of)))} by more than chance"
    elif tied:
        claim = f"{routes} and leads, but these rows cannot tell it from {joined(map(the, tied))}"
    else:
        claim = f"{routes}, ahead of {_all(others)} by more than chance"
    return Finding(
        name="leader",
        claim=sentence(claim),
        estimate=best.scores[board.metric],
        mark=_MARK if verdict else "",
        verdict=verdict,
        cells=[
            {"rank": model.rank, "model": model_name(model.model)}
            | as_columns({METRICS[name].title: one for name, one in model.scores.items()})
            for model in board.models
        ],
        plot=plots.intervals(
            {f"{one.rank} {model_name(one.model)}": one.scores[board.metric]
             for one in board.models},
            METRICS[board.metric].title,
        ),
        caveats=["Only models that earlier notebooks recorded are compared."],
        source="nivesh_lib.evaluation.comparison.compare",
    )  # fmt: skip


def _champion(board: Comparison) -> Ranked:
    return next(model for model in board.models if model.model == board.champion)


def _others(board: Comparison) -> list[tuple[Ranked, Difference]]:
    """Return the other models, best first, with their differences to the champion."""
    return [(model, model.to_champion) for model in board.models if model.to_champion]


def _all(others: list[tuple[Ranked, Difference]]) -> str:
    if len(others) == 1:
        return the(others[0][0].model)
    number = _NUMBERS[len(others)] if len(others) < len(_NUMBERS) else str(len(others))
    return f"each of the {number} other models"


def gains(board: Comparison, true: np.ndarray, p95_ms: Mapping[str, Any] | None = None) -> Finding:
    """Say how far the other models are behind the one that leads, query by query.

    Parameters
    ----------
    board
        As `evaluation.comparison.compare` returns it.
    true
        The labels that were compared, shape (n,); rare ones become a caveat.
    p95_ms
        Model -> milliseconds within which 95 of 100 queries are answered, as its notebook
        measured; what cannot be told apart may differ in price.
    """
    others, score = _others(board), METRICS[board.metric].title
    source = "nivesh_lib.evaluation.comparison.compare"
    if not others:
        claim = "No other model was recorded, so there is no difference to measure."
        return Finding(name="gains", claim=claim, source=source)
    near, far = others[0], others[-1]
    claim = f"{the(near[0].model)} is {_behind(near[1].value)} points of {score} behind "
    claim += the(board.champion)
    if not near[1].differs:
        claim += ", which may be chance"
    if far is not near:
        claim += f"; {the(far[0].model)} is {_behind(far[1].value)} behind"
    rare = rare_labels(true, below=_FEW)
    few = []
    if rare:
        few = [
            f"{len(rare)} of {len(set(true))} labels have fewer than {_FEW} rows, "
            f"{shown(next(iter(rare)))} the fewest: {score} moves with single rows."
        ]
    differences = {model_name(model.model): apart.value for model, apart in others}
    return Finding(
        name="gains",
        claim=sentence(claim),
        estimate=near[1].value,
        cells=[_compared(model, apart, p95_ms or {}) for model, apart in others],
        plot=plots.differences(differences, f"points of {score} against {the(board.champion)}"),
        caveats=[
            *few,
            f"The tests are corrected for {board.pairs} pairs of models, the intervals are not.",
            "They are about other queries, not about other training sets.",
        ],
        source=source,
    )


def _behind(difference: Estimate) -> str:
    """Return how far a model is behind, in points; signed where it may be ahead."""
    turned = difference.negative()
    return points(turned).replace("+", "") if turned.low > 0 else points(turned)


def _compared(model: Ranked, apart: Difference, p95_ms: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model_name(model.model),
        **apart.value.columns("points", times=100),
        "right where the leader is wrong": apart.only_this,
        "wrong where the leader is right": apart.only_other,
        "p (corrected)": apart.p_corrected,
        "95 of 100 within, ms": p95_ms.get(model.model),
    }


def replaced(model: str, before: str, changes: Flips, rows: pd.DataFrame) -> Finding:
    """Say what users would notice if one model replaced another.

    Parameters
    ----------
    changes
        As `evaluation.errors.flips` returns them.
    rows
        Columns id and query, for the examples.
    """
    lost, won = changes.negative_rate, changes.positive_rate
    texts = rows.set_index("id")["query"]
    examples = [
        Example(query=anonymize_query(texts[row["id"]]), note=note.format_map(row))
        for table, n, note in (
            (changes.lost, 2, "{label}: rightly before, now taken for {now}"),
            (changes.won, 1, "{label}: taken for {before} before, now rightly"),
        )
        for row in table.head(n).astype(str).map(shown).assign(id=table["id"]).to_dict("records")
    ]
    return Finding(
        name="replaced",
        claim=sentence(
            f"in place of {the(before)}, {the(model)} would answer {of_100(won)} rightly that "
            f"were wrong, and {of_100(lost, 'others')} wrongly that were right"
        ),
        estimate=lost,
        cells=[
            {"change": change, "queries": len(table), **share.columns("of 100", times=100)}
            for change, table, share in (
                ("wrong before, now right", changes.won, won),
                ("right before, now wrong", changes.lost, lost),
            )
        ],
        examples=examples,
        source="nivesh_lib.evaluation.errors.flips",
    )


def nothing_replaced(model: str, before: str) -> Finding:
    """Say that there is no simpler model to compare with."""
    why = "it leads" if model == before else "it was not recorded"
    return Finding(
        name="replaced",
        claim=sentence(f"nothing is compared with {the(before)}: {why}"),
        source="nivesh_lib.evaluation.errors.flips",
    )
