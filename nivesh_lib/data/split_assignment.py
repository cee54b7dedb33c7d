"""Split assignment: the id, side and fold of each row of a new version.

Nothing here reads or writes files. The frames carry four columns beside those of the schema:
``side`` (train, holdout or, while undecided, empty), ``fold`` (-1 outside training), ``place``
(how to name a new row in a message; empty for a parent's row) and ``key`` (the normalised text).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nivesh_lib.data.schema import (
    DAMAGED,
    OPTIONAL,
    REQUIRED,
    conflicting_rows,
    is_blank,
    normalise,
)
from nivesh_lib.data.splits import (
    Pair,
    choose_holdout,
    group_pairs,
    hard_rows,
    make_folds,
    mask_amounts,
    near_duplicate_pairs,
)
from nivesh_lib.errors import DataError

WORKING = ("side", "fold", "place", "key")  # columns that are not written
HOLDOUT_SHARE = 0.2
N_FOLDS = 5
MAX_REPEATED = 0.1  # of the held-out rows; more that are in training too measure memory

Sides = Mapping[str, set[str]]  # normalised text -> the sides it was on in other versions


def new_rows(rows: pd.DataFrame, holdout_rows: pd.DataFrame | None) -> pd.DataFrame:
    """Return the canonical columns of both frames; given holdout rows decide every side."""
    parts = [_canonical(rows, "" if holdout_rows is None else "train", "row")]
    if holdout_rows is not None:
        parts.append(_canonical(holdout_rows, "holdout", "holdout row"))
    frame = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    if frame.empty:
        raise DataError("There are no rows to publish.")
    return frame


def _canonical(rows: pd.DataFrame, side: str, place: str) -> pd.DataFrame:
    missing = [name for name in ("query", "intent") if name not in rows]
    if missing and len(rows):
        have = ", ".join(map(str, rows))
        raise DataError(f"The rows have no column {missing[0]!r}; they have {have}.")
    # A row keeps the number that it had before duplicates were dropped.
    numbers = rows.index if rows.index.dtype.kind == "i" else range(len(rows))
    places = [f"{place} {number + 1}" for number in numbers]
    frame = rows[[name for name in (*REQUIRED, *OPTIONAL) if name in rows]].reset_index(drop=True)
    for name in frame:
        for where, cell in zip(places, frame[name], strict=True):
            if not (isinstance(cell, str) or cell is None or cell != cell):
                raise DataError(f"{where}: {name} is not text; convert the column first.")
            if isinstance(cell, str) and DAMAGED.search(cell):
                raise DataError(f"{where}: {name} holds NUL or half a surrogate pair; mend it.")
        texts = frame[name].astype("str").str.strip()
        blank = [isinstance(cell, str) and is_blank(cell) for cell in texts]
        frame[name] = texts.mask(np.array(blank, dtype=bool))
    if "id" not in frame:
        frame.insert(0, "id", None)
    return frame.assign(side=side, fold=-1, place=places)


def joined(base: pd.DataFrame | None, new: pd.DataFrame | None) -> pd.DataFrame:
    """Return a parent's rows, with sides and folds, and the new ones after them.

    Raises
    ------
    DataError
        A new row is in the parent already.
    """
    parts = [] if new is None else [new]
    if base is not None:
        parts.insert(0, base.assign(place=""))
    frame = pd.concat(parts, ignore_index=True)
    frame["key"] = [normalise(t) if isinstance(t, str) else "" for t in frame["query"]]
    if base is not None and new is not None:
        there = dict(zip(base["query"], base["id"], strict=True))
        again = [
            f"{place} is there already as {there[query]}"
            for place, query in zip(new["place"], new["query"], strict=True)
            if query in there
        ]
        _refuse(again, "Leave it out.")
    return frame


def check_conflicts(frame: pd.DataFrame) -> None:
    """Refuse one text with two labels; a test file that came with the first version may differ.

    A parent's rows are compared with those on their own side, new rows with all.
    """
    new = (frame["place"] != "").to_numpy(dtype=bool)
    first: dict[int, int] = {}
    for side in ("train", "holdout", ""):
        compared = (frame["side"] == side).to_numpy(dtype=bool) | (new & ~new.all())
        rows, labels = np.flatnonzero(compared), frame["intent"][compared].tolist()
        for row, other in conflicting_rows(frame["key"][compared], labels).items():
            if labels[row] != labels[other]:
                first.setdefault(int(rows[row]), int(rows[other]))
    label, name = frame["intent"], frame["place"].where(new, frame["id"])
    found = [
        f"{name[row]} has the text of {name[other]} but label {label[row]!r}, not {label[other]!r}"
        for row, other in sorted(first.items())
    ]
    _refuse(found, "Decide on one label for each text.")


def make_ids(frame: pd.DataFrame, dataset: str) -> list[str]:
    """Return the given ids; a missing one is made from the dataset's name and the text's hash."""
    parts = [part for part in re.split("[_-]", dataset) if part]
    prefix = "".join(part[0] for part in parts) if len(parts) > 1 else dataset[:3]
    given = frame["id"].notna()
    used = set(frame["id"][given])
    ids = []
    for row_id, key, keep in zip(frame["id"], frame["key"], given, strict=True):
        if not keep:
            stem = f"{prefix}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
            row_id, number = stem, 2
            while row_id in used:
                row_id, number = f"{stem}-{number}", number + 1
            used.add(row_id)
        ids.append(row_id)
    return ids


def assign_split(
    frame: pd.DataFrame, earlier: Sides, labels: Sequence[str] | None, seed: int
) -> dict[str, int]:
    """Set the side and the fold of every row, in place.

    Near-duplicates (``splits.near_duplicate_pairs``, amounts masked) share side and fold.

    Parameters
    ----------
    earlier
        The sides of texts in other versions; a text keeps its side.
    labels
        Each needs a training row; None where none has to have one.

    Returns
    -------
    dict
        How many held-out rows have a training row of the same text (``exact``) or of nearly the
        same (``near``).

    Raises
    ------
    DataError
        No such assignment exists, or the held-out rows would largely repeat the training rows.
    """
    pairs = near_duplicate_pairs([mask_amounts(text) for text in frame["query"]])
    frame["side"] = _decide_sides(frame, pairs, earlier, seed)
    if labels is not None:
        _check_learnable(frame, labels)
    train = (frame["side"] == "train").to_numpy(dtype=bool)
    repeated = ~train & frame["key"].isin(set(frame["key"][train])).to_numpy(dtype=bool)
    exact = set(np.flatnonzero(repeated).tolist())
    _check_unseen(frame, exact)
    frame["fold"] = _decide_folds(frame, pairs, seed)
    near = {i if train[j] else j for i, j, _ in pairs if train[i] != train[j]}
    return {"exact": len(exact), "near": len(near - exact)}


def _decide_sides(frame: pd.DataFrame, pairs: list[Pair], earlier: Sides, seed: int) -> np.ndarray:
    """Return the side of each row: a parent's stay, a text keeps the side it had, 20 % are chosen.

    Where there is a parent, near-duplicates across the split are refused.
    """
    side = frame["side"].to_numpy(dtype=object)
    new = (frame["place"] != "").to_numpy(dtype=bool)
    hard = hard_rows(frame)
    _refuse(
        [_name(frame, row) for row in np.flatnonzero(new & hard & (side == "holdout"))],
        "A hard row was picked by a model, so it cannot be held out.",
    )
    side[(side == "") & hard] = "train"
    _keep_earlier_sides(frame, side, new, earlier)
    if not new.all():
        _refuse_across(frame, side, new, pairs)
    groups = group_pairs(len(frame), pairs)
    for wanted in ("train", "holdout"):
        decided = np.isin(groups, groups[side == wanted])
        side[(side == "") & decided] = wanted
    free = side == ""
    wanted_rows = round(HOLDOUT_SHARE * int((new & ~hard).sum()))
    missing = max(0, wanted_rows - int((new & (side == "holdout")).sum()))
    held = choose_holdout(
        frame[free],
        groups[free],
        min(1.0, missing / max(1, int(free.sum()))),
        seed,
        already_training=Counter(frame["intent"][side == "train"].tolist()),
    )
    side[free] = np.where(held, "holdout", "train")
    return side


def _keep_earlier_sides(
    frame: pd.DataFrame, side: np.ndarray, new: np.ndarray, earlier: Sides
) -> None:
    moved = []
    for row in np.flatnonzero(new):
        before = earlier.get(frame["key"].iloc[row])
        if before and not side[row]:
            side[row] = "holdout" if "holdout" in before else "train"
        elif before and side[row] not in before:
            was = "held out" if "holdout" in before else "trained on"
            moved.append(f"{_name(frame, row)} was {was} in an earlier version")
    _refuse(moved, "A text never changes side; move it to the other file or leave it out.")


def _refuse_across(
    frame: pd.DataFrame, side: np.ndarray, new: np.ndarray, pairs: list[Pair]
) -> None:
    """Refuse new rows near one on the other side; undecided near-duplicates go to training."""
    for i, j, _ in pairs:
        for row, other in ((i, j), (j, i)):
            if not side[row] and side[other] and not new[other]:
                side[row] = "train"
    found = {}
    for i, j, cosine in pairs:
        row, other = (j, i) if new[j] else (i, j)
        if new[row] and side[row] and side[other] and side[row] != side[other]:
            where = "held-out" if side[other] == "holdout" else "training"
            found[row] = (
                f"{_name(frame, row)} is nearly {where} {_name(frame, other)} ({cosine:.2f})"
            )
    _refuse(list(found.values()), "Leave it out: the holdout would no longer be unseen.")


def _check_learnable(frame: pd.DataFrame, labels: Sequence[str]) -> None:
    """Refuse a label without a training row, and training rows that are all hard."""
    train = frame[frame["side"] == "train"]
    learnt = set(train["intent"])
    found = [
        f"{_name(frame, n)}: label {label!r} has no training row"
        for n, label in enumerate(frame["intent"])
        if label not in learnt
    ]
    _refuse(found, "Correct the label or add training rows.")
    unused = [f"No row has the label {label!r}" for label in labels if label not in learnt]
    _refuse(unused, "Add training rows for it or leave it out of the labels.")
    if hard_rows(train).all():
        raise DataError(
            f"{_name(frame, train.index[0])} and every other training row have selection 'hard', "
            "and headline scores are over the others. Add rows that no model picked, or leave the "
            "column out if none of these was picked."
        )


def _decide_folds(frame: pd.DataFrame, pairs: list[Pair], seed: int) -> np.ndarray:
    """Return the fold of each row, -1 where it is held out; a parent's rows keep theirs."""
    fold = frame["fold"].to_numpy(dtype=int).copy()
    train = (frame["side"] == "train").to_numpy(dtype=bool)
    for i, j, _ in sorted(pairs, key=lambda pair: -pair[2]):
        if train[i] and train[j] and (fold[i] < 0) != (fold[j] < 0):
            fold[i] = fold[j] = max(fold[i], fold[j])
    groups = group_pairs(len(frame), pairs)
    fold[train] = make_folds(frame[train], groups[train], N_FOLDS, seed, fixed=fold[train])
    return fold


def _check_unseen(frame: pd.DataFrame, repeated: set[int]) -> None:
    """Refuse a holdout that largely repeats the training rows."""
    held = int((frame["side"] == "holdout").sum())
    if len(repeated) > MAX_REPEATED * held:
        share = f"{len(repeated) / held:.1%}, more than {MAX_REPEATED:.0%}"
        raise DataError(
            f"{len(repeated):,} of {held:,} held-out rows ({share}) have exactly the text of a "
            f"training row, {_name(frame, min(repeated))} the first; the holdout would measure "
            "memory. Remove them from one of the files."
        )


def _name(frame: pd.DataFrame, row: int | np.integer) -> str:
    place, row_id = frame["place"].iloc[row], frame["id"].iloc[row]
    return f"{place} ({row_id})" if place else f"row {row_id}"


def _refuse(found: list[str], fix: str) -> None:
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{more}. {fix}")
