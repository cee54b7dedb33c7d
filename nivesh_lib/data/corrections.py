"""Corrections by users of a server: labels only after a person has decided on each of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.data.reading import cell_problem, json_lines
from nivesh_lib.data.review import Decision
from nivesh_lib.data.schema import MAX_TEXT, is_blank, normalise, without_controls
from nivesh_lib.data.versions import DataVersion, resolve, versions_of
from nivesh_lib.errors import DataError
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.schema import fits
from nivesh_lib.terminal import listed

SOURCE = "production_corrections"
_SHAPE = {"id": str, "query": str, "intent": str, "predicted?": str | None}
_ID = re.compile("[0-9a-f]{32}")
_COLUMNS = ("id", "query", "intent", "predicted", "key")


def read_corrections(
    file: Path, version: DataVersion, *, decided: bool = False
) -> tuple[pd.DataFrame, dict[str, list[int]]]:
    """Return the corrections to decide on, the first of equal ones, and the lines left out.

    Parameters
    ----------
    version
        The one that they are to be added to.
    decided
        A person has decided on them, so neither corrections that came since nor earlier reviews
        leave any out.

    Returns
    -------
    tuple
        The columns id, query (anonymised), intent, predicted (empty where it is no label) and key
        (the normalised query), by the line from 0; and the numbers of the lines left out for being
        ``unreadable`` (cut off, not JSON, other fields), of ``unknown_intent``, ``rejected`` by an
        earlier review, ``conflicting`` (one query, several intents), ``confirming`` what was
        answered, or ``repeated``.

    Raises
    ------
    DataError
        The file is missing, or is no regular one.
    """
    read = [(number, _row(value)) for number, value in json_lines(file)]
    sound = {number - 1: row for number, row in read if row}
    rows = pd.DataFrame(list(sound.values()), index=list(sound), columns=_COLUMNS, dtype="str")
    left_out = {"unreadable": [number for number, row in read if not row]}
    removed = set() if decided else _removed(version.name)
    masks: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "unknown_intent": lambda rows: ~rows["intent"].isin(version.labels),
        "rejected": lambda rows: rows["id"].isin(removed),
        "conflicting": lambda rows: rows["key"].isin([] if decided else _disputed(rows)),
        "confirming": lambda rows: rows["predicted"] == rows["intent"],
        "repeated": lambda rows: rows["key"].duplicated() | rows["id"].duplicated(),
    }
    for reason, mask in masks.items():
        out = mask(rows)
        left_out[reason] = (rows.index[out] + 1).tolist()
        rows = rows[~out]
    known = rows["predicted"].isin(version.labels)  # clients write what they like
    return rows.assign(predicted=rows["predicted"].where(known, "")), left_out


def _row(value: Any) -> dict[str, str] | None:
    """Return a line's fields, the query anonymised, or None where it is no correction."""
    if not fits(value, _SHAPE) or not _ID.fullmatch(value["id"]):
        return None
    query = anonymize_query(without_controls(value["query"])).strip()
    if is_blank(query) or cell_problem(query) or len(query) > MAX_TEXT:
        return None
    cells = (value["id"], query, value["intent"], value.get("predicted") or "", normalise(query))
    return dict(zip(_COLUMNS, cells, strict=True))


def _removed(name: str) -> set[str]:
    """Return the ids that a review rejected or dropped in any version of a dataset."""
    versions = (resolve(f"{name}@{version}") for version in versions_of(name))
    changes = (change for version in versions for change in version.manifest.get("changes", ()))
    return {change["id"] for change in changes if change["to"] is None}


def _disputed(rows: pd.DataFrame) -> pd.Series:
    """Return the queries with more than one intent."""
    pairs = rows.drop_duplicates(["key", "intent"])["key"]
    return pairs[pairs.duplicated()]


def accept(
    rows: pd.DataFrame, decisions: list[Decision], review: Path
) -> tuple[pd.DataFrame, list[Decision]]:
    """Return the corrections that a person accepted, as rows for training only, and the decisions.

    Raises
    ------
    DataError
        A decision has no name to it.
    """
    if nameless := [decision.id for decision in decisions if not decision.who]:
        raise DataError(
            f"{review}: reviewer is empty for {listed(nameless)}; a label is added with the name "
            "of who decided on it. Correct the file; nothing was published."
        )
    label = {d.id: d.new_label or d.label for d in decisions if d.action != "drop"}
    rows = rows[rows["id"].isin(label)]
    rows = rows.assign(intent=rows["id"].map(label), source=SOURCE, selection="hard")
    return rows, [
        replace(d, action="add" if d.id in label else "reject", new_label=label.get(d.id, ""))
        for d in decisions
    ]
