"""What a person decided about rows of a version, and the rows as that leaves them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nivesh_lib.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

ACTIONS = ("keep", "relabel", "drop")
_DONE = {"relabel": "relabelled", "drop": "dropped", "keep": "kept"}


@dataclass(frozen=True)
class Decision:
    """What one person decided about one row; ``new_label`` only where it is relabelled."""

    id: str
    action: str
    label: str
    new_label: str = ""
    who: str = ""
    note: str = ""


def revise(base: pd.DataFrame, review: Sequence[Decision]) -> pd.DataFrame:
    """Return a version's rows as the review leaves them; sides and folds stay.

    Raises
    ------
    DataError
        Nothing is changed, or a decision is about a row that is not there, is held out, has
        another label or is decided twice.
    """
    if not review:
        return base
    if all(decision.action == "keep" for decision in review):
        raise DataError(
            f"The review changes nothing: {summary(review)}. There is no new version to publish."
        )
    train = base[base["side"] == "train"]
    label_of = dict(zip(train["id"], train["intent"], strict=True))
    new_label: dict[str, str | None] = {}
    for decision in review:
        _check(decision, label_of)
        if decision.id in new_label:
            raise DataError(f"Row {decision.id} is decided twice; keep one of the two.")
        outcome = {"keep": decision.label, "relabel": decision.new_label, "drop": None}
        new_label[decision.id] = outcome[decision.action]
    kept = base[base["id"].map(lambda row: new_label.get(row, "") is not None)]
    labels = [
        new_label.get(row) or label for row, label in zip(kept["id"], kept["intent"], strict=True)
    ]
    return kept.assign(intent=labels).reset_index(drop=True)


def _check(decision: Decision, label_of: dict[str, str]) -> None:
    if decision.action not in ACTIONS:
        raise DataError(f"Row {decision.id}: {decision.action!r} is not {', '.join(ACTIONS)}.")
    if decision.action == "relabel" and not decision.new_label:
        raise DataError(f"Row {decision.id} is to be relabelled without a new label.")
    if decision.id not in label_of:
        raise DataError(f"Row {decision.id} is no training row of the parent; leave it out.")
    if label_of[decision.id] != decision.label:
        raise DataError(
            f"Row {decision.id} has label {label_of[decision.id]!r} in the parent, not "
            f"{decision.label!r}; write the review again."
        )


def changes_of(review: Sequence[Decision], *, column: str, when: str) -> list[dict[str, Any]]:
    """Return a manifest's list of changes: id, column, from, to, who, when, note.

    A dropped row has ``"column": "row"`` and ``"to": null``.
    """
    return [
        {
            "id": decision.id,
            "column": column if decision.action == "relabel" else "row",
            "from": decision.label,
            "to": decision.new_label if decision.action == "relabel" else None,
            "who": decision.who,
            "when": when,
            "note": decision.note,
        }
        for decision in review
        if decision.action != "keep"
    ]


def summary(review: Sequence[Decision]) -> str:
    """Return such as ``review of 12 rows: 9 relabelled, 3 dropped``."""
    counts = Counter(decision.action for decision in review)
    done = ", ".join(f"{counts[action]} {word}" for action, word in _DONE.items() if counts[action])
    return f"review of {len(review)} row{'s' * (len(review) != 1)}: {done}"
