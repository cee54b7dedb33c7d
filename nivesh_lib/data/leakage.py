"""Leakage checks: rows on both sides of a split, and texts that give their label away.

Pairs of near-duplicates, ids of held-out rows and the counts that a manifest records are
arguments. Held-out texts are never read. Messages count rows and never quote a query; a word is
quoted only where it occurs in at least ``SUPPORT`` rows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from nivesh_lib.data.schema import Issue, row_ids
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.wording import counted

ALPHA = 0.01  # family-wise error rate over all words or labels
SUPPORT = 10  # rows with a word before it is tested
PURITY = 0.95  # share of a word's rows with one label, from which the word determines the label
OFTEN = 0.5  # share of a label's rows; below, a word may simply be common language
MOSTLY = 0.9  # share of a label's rows, from which a word is an error and not a warning
NEAR_SHARE = 0.01  # of rows that may nearly repeat one of another fold: long chains are cut

_COPIED = re.compile(
    r"\b(?:augment\w*|paraphras\w*|back.?translat\w*|perturbed"
    r"|(?:generated|derived|copied|made)[ _-]from)\b",
    re.IGNORECASE,
)
_MARK = re.compile(r"[_#\[\]{}<>|=:]")  # within words that people rarely type
_EDGES = ".,;:!?…'\"()-"
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile("(?<=[a-z])(?=[A-Z])")


def find_leaks(
    frame: pd.DataFrame,
    *,
    pairs: Iterable[tuple[int, int, float]] = (),
    held_ids: Collection[str] = (),
    recorded: Mapping[str, int] | None = None,
) -> list[Issue]:
    """Run every check that the frame's columns allow.

    Parameters
    ----------
    frame
        Training rows: ``query``, ``intent``, perhaps ``id``, ``fold``, ``source``, ``selection``.
    pairs
        ``(i, j, similarity)``: positions of near-duplicates in the frame.
    held_ids
        The ids on the other side of the split.
    recorded
        ``exact`` and ``near``: held-out rows whose text is in training too.
    """
    with_ids = frame if "id" in frame else frame.assign(id=[str(n) for n in range(len(frame))])
    return [
        *check_fold_pairs(with_ids, pairs),
        *check_split(recorded or {}),
        *check_ids(with_ids, held_ids),
        *check_augmented(with_ids),
        *check_stated_labels(with_ids),
        *check_giveaways(with_ids),
    ]


# --- rows on both sides ------------------------------------------------------------------------


def check_fold_pairs(frame: pd.DataFrame, pairs: Iterable[tuple[int, int, float]]) -> list[Issue]:
    """Find near-duplicates in different folds: the model that predicts one trained on it."""
    if "fold" not in frame:
        return []
    fold = frame["fold"].to_numpy()
    torn = sorted({row for i, j, _ in pairs if fold[i] != fold[j] for row in (i, j)})
    share = len(torn) / max(1, len(frame))
    message = (
        f"Found {counted(len(torn), 'row')} ({share:.1%}) that nearly repeat a row of another fold"
    )
    severity: Literal["error", "warning"] = "error" if share > NEAR_SHARE else "warning"
    return [Issue("fold_pairs", message, row_ids(frame, torn), severity)] if torn else []


def check_split(recorded: Mapping[str, int]) -> list[Issue]:
    """Report the held-out rows that publishing counted as being in training too."""
    exact, near = recorded.get("exact", 0), recorded.get("near", 0)
    found = []
    if exact:
        rows = counted(exact, "held-out row")
        found.append(Issue("split", f"Found {rows} whose text is in training too"))
    if near:
        rows = counted(near, "held-out row that nearly repeats", "held-out rows that nearly repeat")
        message = f"Found {rows} a training row"
        found.append(Issue("split", message, severity="warning"))
    return found


def check_ids(frame: pd.DataFrame, held_ids: Collection[str] = ()) -> list[Issue]:
    """Find ids that are on both sides of the split, or in more than one fold."""
    both = frame["id"].isin(set(held_ids)).to_numpy(dtype=bool)
    torn = np.zeros(len(frame), dtype=bool)
    if "fold" in frame:
        torn = (frame.groupby("id")["fold"].transform("nunique") > 1).to_numpy(dtype=bool)
    return [
        Issue(
            "ids",
            f"Found {counted(mask.sum(), 'row')} whose id is {where}",
            row_ids(frame, np.where(mask)[0]),
        )
        for mask, where in ((both, "held out too"), (torn, "in another fold too"))
        if mask.any()
    ]


def check_augmented(frame: pd.DataFrame) -> list[Issue]:
    """Find augmented rows in a fold: they would be scored like rows that people wrote."""
    made = np.zeros(len(frame), dtype=bool)
    for column in ("selection", "source"):
        if column in frame:
            cells = frame[column].fillna("").astype(str)
            made |= cells.str.contains(_COPIED).to_numpy(dtype=bool)
    if "fold" in frame:
        made &= (frame["fold"] >= 0).to_numpy(dtype=bool)
    message = (
        f"Found {counted(made.sum(), 'augmented row')} among those that are evaluated; "
        "leave them out and augment inside fit"
    )
    return [Issue("augmented", message, row_ids(frame, np.flatnonzero(made)))] if made.any() else []


# --- labels in the text ------------------------------------------------------------------------


def check_stated_labels(frame: pd.DataFrame) -> list[Issue]:
    """Find labels that their own rows contain far more often than by chance.

    The null hypothesis is shuffled labels: the exact hypergeometric tail (Fisher's test), with
    Bonferroni's correction over the labels. Some rows about an emergency fund contain the words
    "emergency fund"; half of them is a warning, nearly all of them an error. The machine form of
    a name, such as ``emergency_fund``, is an error at any share.
    """
    texts, labels = _cells(frame)
    folded, spaced = [text.casefold() for text in texts], [_spaced(text) for text in texts]
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(labels):
        rows_of[name].append(row)
    names = sorted(set(rows_of) - {""})
    found = []
    for name in names:
        phrase, machine = _spaced(_CAMEL.sub(" ", name)), _machine_form(name)
        # A name that none of its own rows contains is no finding, wherever else it stands.
        if not any(
            (phrase.strip() and phrase in spaced[row]) or (machine and machine in folded[row])
            for row in rows_of[name]
        ):
            continue
        own = labels == name
        stated = np.array([bool(phrase.strip()) and phrase in text for text in spaced], dtype=bool)
        marked = np.array([bool(machine) and machine in text for text in folded], dtype=bool)
        worst = _severity(marked, own, tests=len(names), mark=True)
        severity = worst or _severity(stated, own, tests=len(names), mark=False)
        if severity:
            rows = np.flatnonzero((marked if worst else stated) & own)
            message = f"Found {len(rows)} of {own.sum()} rows of {name} that say their own label"
            found.append(Issue("stated_label", message, row_ids(frame, rows), severity))
    return found


def check_giveaways(frame: pd.DataFrame) -> list[Issue]:
    """Find words that determine the label by themselves, such as a tag or a code of the source.

    A word is tested where it occurs in at least ``SUPPORT`` rows. It determines a label where
    95 % of its rows have the label, where shuffled labels would not give that (hypergeometric
    tail, Bonferroni's correction over words), and where most rows of the label have the word. A
    word that people would not write (``#tx``, ``[TAX]``, ``ref:12``) needs no such share.
    """
    texts, labels = _cells(frame)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        for word in {word.strip(_EDGES) for word in text.casefold().split()} - {""}:
            rows_of[word].append(row)
    judged = {word: rows for word, rows in rows_of.items() if len(rows) >= SUPPORT}
    found = []
    for word, rows in sorted(judged.items()):
        (name, n), *_ = Counter(labels[rows].tolist()).most_common(1)
        if not name or n < PURITY * len(rows):
            continue
        has = np.zeros(len(texts), dtype=bool)
        has[rows] = True
        own = labels == name
        severity = _severity(has, own, tests=len(judged), mark=bool(_MARK.search(word)))
        if severity:
            message = (
                f"{anonymize_query(word)!r} stands in {len(rows)} rows, {n} of them among the "
                f"{own.sum()} of {name}"
            )
            found.append(Issue("giveaway", message, row_ids(frame, rows), severity))
    return found


def _severity(
    has: np.ndarray, own: np.ndarray, *, tests: int, mark: bool
) -> Literal["error", "warning"] | None:
    """Test how often the rows of a label have a word, against randomly permuted labels."""
    both = int((has & own).sum())
    p = hypergeom.sf(both - 1, len(own), int(own.sum()), int(has.sum()))
    share = both / max(1, int(own.sum()))
    often = share >= OFTEN and both >= PURITY * SUPPORT
    if not both or p * tests > ALPHA or not (mark or often):
        return None
    return "error" if mark or share >= MOSTLY else "warning"


def _cells(frame: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return texts and labels, an empty text for every other cell."""
    texts, labels = (
        [cell if isinstance(cell, str) else "" for cell in frame[column]]
        for column in ("query", "intent")
    )
    return texts, np.array(labels, dtype=object)


def _spaced(text: str) -> str:
    """Return the words of a text between spaces, so that only whole words are found in it."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _machine_form(name: str) -> str:
    """Return the machine form of a label, or an empty text where people write it so too."""
    return name.casefold() if "_" in name or _CAMEL.search(name) else ""
