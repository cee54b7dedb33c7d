"""Data validation: checks that return issues, statistics, and the comparison of two versions.

Messages count and name rows; they never quote a query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.data.importing import read_unchecked
from nivesh_lib.data.reading import EXTENSIONS
from nivesh_lib.data.schema import Issue, conflicting_rows, normalise, row_ids, schema_failures
from nivesh_lib.data.splits import mask_amounts, near_duplicate_pairs
from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.errors import DataError
from nivesh_lib.privacy import anonymize_query, find_pii
from nivesh_lib.wording import counted

Data = str | Path | pd.DataFrame | Dataset

IMBALANCE = 10  # largest class over smallest
NEAR_SHARE = 0.01  # of rows that may nearly repeat another
SHIFT_P = 0.01  # below, two length distributions are taken to differ


def validate_intent_data(
    data: Data,
    *,
    reference: Data | None = None,
    labels: Collection[str] | None = None,
    text: str = "query",
    label: str = "intent",
    delimiter: str | None = None,
    leaks: bool = False,
) -> dict[str, Any]:
    """Return ``valid``, ``issues`` and ``warnings`` (sentences), ``checks`` and ``stats``.

    All of it can be written as JSON. ``checks`` are the same issues and warnings with the check
    that found each, its severity, and the first three rows.

    Parameters
    ----------
    data
        A file of any kind that can be imported, a reference such as ``intents@1.2.0``, a frame
        or a loaded dataset. Of a version only the training rows are looked at.
    reference
        Earlier data; a shift of query length against it is a warning.
    labels
        The taxonomy; a version brings its own.
    text, label, delimiter
        How to read a file, as in ``importing.read_rows``.
    leaks
        Search for leaks too (``leakage.find_leaks``); of a version, across its folds and split.

    ``valid`` means that there are no issues; warnings do not count.
    """
    frame, version = _as_frame(data, text, label, delimiter)
    earlier = None if reference is None else _as_frame(reference, text, label, delimiter)[0]
    measures = Measures(frame)
    known = labels or (version.labels if version else None)
    issues = find_issues(measures, labels=known, reference=earlier)
    if leaks:
        issues += _leaks(frame, version)
    errors = [issue.message for issue in issues if issue.severity == "error"]
    return {
        "valid": not errors,
        "issues": errors,
        "warnings": [issue.message for issue in issues if issue.severity == "warning"],
        "checks": [asdict(issue) | {"rows": list(issue.rows[:3])} for issue in issues],
        "stats": describe(measures, reference=earlier),
    }


class Measures:
    """What the checks and the statistics need of a frame; each is computed once, when asked for.

    Parameters
    ----------
    frame
        Columns ``query`` and ``intent``; cells may be anything.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.texts = [cell.strip() if isinstance(cell, str) else "" for cell in frame["query"]]
        self.lengths = [len(text.split()) for text in self.texts]  # in words
        self.labels = Counter(c for c in frame["intent"] if isinstance(c, str) and c.strip())

    @cached_property
    def keys(self) -> list[str]:
        """Return the normalised texts."""
        return [normalise(text) for text in self.texts]

    @cached_property
    def repeats(self) -> list[int]:
        """Return the positions of texts that repeat an earlier one up to case and white space."""
        first: dict[str, int] = {}
        return [n for n, key in enumerate(self.keys) if key and first.setdefault(key, n) != n]

    @cached_property
    def near_duplicates(self) -> list[int]:
        """Return the positions of rows that nearly, but not exactly, repeat another."""
        keys = self.keys
        pairs = near_duplicate_pairs(keys)
        return sorted(
            {row for i, j, _ in pairs if keys[i] and keys[i] != keys[j] for row in (i, j)}
        )

    @cached_property
    def personal_data(self) -> tuple[Counter[str], list[int]]:
        """Return how often each kind of personal data occurs, and the positions of its rows."""
        found = {row: find_pii(text) for row, text in enumerate(self.texts)}
        kinds = Counter(finding.kind for findings in found.values() for finding in findings)
        return kinds, [row for row, findings in found.items() if findings]

    @property
    def imbalance_ratio(self) -> float:
        """Return the size of the largest class over that of the smallest."""
        sizes = self.labels.values()
        return max(sizes) / min(sizes) if sizes else 1.0

    def issue(self, check: str, message: str, rows: list[int], **options: Any) -> list[Issue]:
        """Return an issue about these rows, or none where there are no rows."""
        return [Issue(check, message, row_ids(self.frame, rows), **options)] if rows else []


def find_issues(
    measures: Measures,
    *,
    labels: Collection[str] | None = None,
    reference: pd.DataFrame | None = None,
) -> list[Issue]:
    """Run every check."""
    if measures.frame.empty:
        return [Issue("rows", "There are no rows")]
    issues = [
        *check_cells(measures.frame, labels),
        *check_duplicates(measures),
        *check_conflicts(measures),
        *check_near_duplicates(measures),
        *check_balance(measures),
        *check_personal_data(measures),
    ]
    return issues if reference is None else issues + check_length_shift(measures.frame, reference)


def describe(measures: Measures, *, reference: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return the numbers behind the issues."""
    lengths, near, n_rows = measures.lengths, measures.near_duplicates, len(measures.frame)
    stats: dict[str, Any] = {
        "rows": n_rows,
        "label_distribution": dict(measures.labels.most_common()),
        "imbalance_ratio": measures.imbalance_ratio,
        "avg_query_length": sum(lengths) / len(lengths) if lengths else 0.0,
        "min_query_length": min(lengths, default=0),
        "max_query_length": max(lengths, default=0),
        "duplicates": len(measures.repeats),
        "near_duplicates": {"rows": len(near), "share": len(near) / max(1, n_rows)},
        "pii": dict(measures.personal_data[0]),
    }
    if reference is not None:
        statistic, p = length_shift(measures.frame, reference)
        stats["length_shift"] = {"statistic": statistic, "p": p}
    return stats


# --- checks ------------------------------------------------------------------------------------


def check_cells(frame: pd.DataFrame, labels: Collection[str] | None = None) -> list[Issue]:
    """Find cells that break the schema: missing, blank, no text, outside the labels, no date."""
    empty = {"query": "Empty query", "intent": "Missing intent"}
    rows_of: dict[str, list[int]] = {}
    with_id = frame if "id" in frame else frame.assign(id=[str(n) for n in range(len(frame))])
    for column, reason, row in schema_failures(with_id, labels):
        what = f"{column} {reason}"
        if reason in ("is missing", "is blank"):
            what = empty.get(column, what)
        rows_of.setdefault(what, []).extend([] if row is None else [row])
    return [
        Issue("cells", f"{what}{_at(sorted(set(rows)))}", row_ids(frame, rows))
        for what, rows in rows_of.items()
    ]


def check_duplicates(measures: Measures) -> list[Issue]:
    """Find texts that repeat an earlier one up to case and white space."""
    again = measures.repeats
    message = f"Found {counted(len(again), 'duplicate query', 'duplicate queries')}{_at(again)}"
    return measures.issue("duplicates", message, again)


def check_conflicts(measures: Measures) -> list[Issue]:
    """Find texts that carry more than one label."""
    rows = list(conflicting_rows(measures.keys, measures.frame["intent"]))
    message = f"Found {len(rows)} rows with conflicting labels for the same text{_at(rows)}"
    return measures.issue("conflicts", message, rows)


def check_near_duplicates(measures: Measures) -> list[Issue]:
    """Warn where more than one row in a hundred nearly repeats another."""
    near = measures.near_duplicates
    share = len(near) / len(measures.frame)
    message = f"Found {counted(len(near), 'row')} ({share:.1%}) that nearly repeat another"
    found = near if share > NEAR_SHARE else []
    return measures.issue("near_duplicates", message, found, severity="warning")


def check_balance(measures: Measures) -> list[Issue]:
    """Find a single class, and classes of very different size."""
    ratio = measures.imbalance_ratio
    if len(measures.labels) < 2:
        return [Issue("balance", "There is one label only; a classifier needs two")]
    message = f"High class imbalance detected: the largest class is {ratio:.1f} times the smallest"
    return [Issue("balance", message)] if ratio > IMBALANCE else []


def check_personal_data(measures: Measures) -> list[Issue]:
    """Find personal data by kind; the values are not repeated."""
    kinds, rows = measures.personal_data
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    return measures.issue("personal_data", f"Personal data found: {counts}{_at(rows)}", rows)


def check_length_shift(frame: pd.DataFrame, reference: pd.DataFrame) -> list[Issue]:
    """Warn where query lengths differ from the reference's (two-sample Kolmogorov-Smirnov)."""
    statistic, p = length_shift(frame, reference)
    message = f"Query lengths differ from the reference: KS {statistic:.2f}, p {p:.2g}"
    return [Issue("length_shift", message, severity="warning")] if p < SHIFT_P else []


def _at(rows: list[int]) -> str:
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f" at index {rows[0]}{more}" if rows else ""


def _leaks(frame: pd.DataFrame, dataset: Dataset | None) -> list[Issue]:
    from nivesh_lib.data.leakage import find_leaks

    if dataset is None:
        return find_leaks(frame)
    return find_leaks(
        frame,
        pairs=near_duplicate_pairs([mask_amounts(text) for text in frame["query"]]),
        held_ids=dataset.manifest["holdout"],
        recorded=dataset.manifest["cross_split_duplicates"],
    )


# --- against other data ------------------------------------------------------------------------


def length_shift(frame: pd.DataFrame, reference: pd.DataFrame) -> tuple[float, float]:
    """Return the two-sample KS statistic of the query lengths in words, and its p-value."""
    from scipy.stats import ks_2samp

    ours, theirs = Measures(frame).lengths, Measures(reference).lengths
    if not ours or not theirs:
        return 0.0, 1.0
    result = ks_2samp(ours, theirs)
    return float(result.statistic), float(result.pvalue)


def changes_since_parent(data: Dataset) -> dict[str, Any] | None:
    """Compare a version with its parent, as `compare_versions`; None for a first version."""
    parent = data.version.parent_ref
    return None if parent is None else compare_versions(load_dataset(parent), data)


def compare_versions(old: Dataset, new: Dataset) -> dict[str, Any]:
    """Compare two versions by row id; of held-out rows only ids and counts are used.

    Returns
    -------
    dict
        ``old``, ``new`` (references), ``added``, ``removed`` (counts over both sides of the
        split), ``relabelled`` (training rows: id, from, to, anonymised query), ``reworded`` (ids
        of training rows), ``labels`` (label -> counts in the old and the new version),
        ``mean_words`` of the training queries (old, new) and ``length_shift`` (statistic and p).
    """
    before, after = (_as_frame(data)[0] for data in (old, new))
    old_ids, new_ids = (
        {*frame["id"], *data.manifest["holdout"]} for frame, data in ((before, old), (after, new))
    )
    both = before.merge(after, on="id", suffixes=("_old", "_new"))
    relabelled = both[both["intent_old"] != both["intent_new"]]
    statistic, p = length_shift(after, before)
    return {
        "old": old.ref,
        "new": new.ref,
        "added": len(new_ids - old_ids),
        "removed": len(old_ids - new_ids),
        "relabelled": [
            {"id": row, "from": was, "to": label, "query": anonymize_query(query)}
            for row, was, label, query in relabelled[
                ["id", "intent_old", "intent_new", "query_new"]
            ].itertuples(index=False)
        ],
        "reworded": both["id"][both["query_old"] != both["query_new"]].tolist(),
        "labels": {
            label: [old.version.count(label), new.version.count(label)]
            for label in dict.fromkeys(old.labels + new.labels)
        },
        "mean_words": [_mean_words(before), _mean_words(after)],
        "length_shift": {"statistic": statistic, "p": p},
    }


def _mean_words(frame: pd.DataFrame) -> float:
    lengths = Measures(frame).lengths
    return sum(lengths) / max(1, len(lengths))


def _as_frame(
    data: Data, text: str = "query", label: str = "intent", delimiter: str | None = None
) -> tuple[pd.DataFrame, Dataset | None]:
    """Return rows with the columns ``query`` and ``intent``, and the version that they are of.

    Of a version these are the training rows, with id and fold.
    """
    if isinstance(data, str | Path):
        if Path(data).suffix.lower() in EXTENSIONS or Path(data).exists():
            return read_unchecked(data, text, label, delimiter=delimiter), None
        data = load_dataset(str(data))
    if isinstance(data, Dataset):
        return data.train.rename(columns={data.version.label_column: "intent"}), data
    for column in (text, label):
        if column not in data:
            have = ", ".join(map(str, data))
            raise DataError(f"The frame has no column {column!r}; it has {have}. Pass text, label.")
    return data.rename(columns={text: "query", label: "intent"}).reset_index(drop=True), None
