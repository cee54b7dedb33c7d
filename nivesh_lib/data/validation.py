"""Is the data fit to train on? Small checks, each from a frame to a list of issues.

Messages count and name rows; they never quote a query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nivesh_lib.data.importing import read_unchecked
from nivesh_lib.data.reading import EXTENSIONS
from nivesh_lib.data.schema import normalise, schema_failures
from nivesh_lib.data.splits import near_duplicate_pairs
from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    Data = str | Path | pd.DataFrame | Dataset

IMBALANCE = 10  # largest class over smallest
NEAR_SHARE = 0.01  # of rows that may nearly repeat another
SHIFT_P = 0.01  # below, two length distributions are taken to differ


@dataclass(frozen=True)
class Issue:
    """One finding; ``rows`` are ids where the data has them, else 0-based positions."""

    check: str
    message: str
    rows: tuple[str | int, ...] = ()
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Measured:
    """What takes long to find: rows that nearly repeat another, kinds and rows of personal data."""

    near_duplicates: list[int]
    kinds: Counter[str]
    personal_rows: list[int]


def validate_intent_data(
    data: Data,
    *,
    reference: Data | None = None,
    labels: Collection[str] | None = None,
    text: str = "query",
    label: str = "intent",
    delimiter: str | None = None,
) -> dict[str, Any]:
    """Return ``valid``, ``issues`` and ``warnings`` (sentences) and ``stats`` (JSON-serialisable).

    Parameters
    ----------
    data
        A file of any kind that can be imported, a reference such as ``intents@1.1.0``, a frame
        or a loaded dataset. Of a version only the training rows are looked at.
    reference
        Earlier data; a shift of query length against it is a warning.
    labels
        The taxonomy; a loaded dataset brings its own.
    text, label, delimiter
        How to read a file, as in ``importing.read_rows``.

    ``valid`` means that there are no issues; a warning asks for a look and does not count.
    """
    frame, own_labels = as_frame(data, text, label, delimiter)
    earlier = None if reference is None else as_frame(reference, text, label, delimiter)[0]
    measured = measure(frame)
    issues = find_issues(frame, labels=labels or own_labels, reference=earlier, measured=measured)
    return {
        "valid": not any(issue.severity == "error" for issue in issues),
        "issues": [issue.message for issue in issues if issue.severity == "error"],
        "warnings": [issue.message for issue in issues if issue.severity == "warning"],
        "stats": describe(frame, reference=earlier, measured=measured),
    }


def measure(frame: pd.DataFrame) -> Measured:
    """Return what both the issues and the numbers need, so that it is searched once."""
    return Measured(near_duplicate_rows(frame), *_personal_data(frame))


def find_issues(
    frame: pd.DataFrame,
    *,
    labels: Collection[str] | None = None,
    reference: pd.DataFrame | None = None,
    measured: Measured | None = None,
) -> list[Issue]:
    """Run every check on a frame with the columns ``query`` and ``intent``."""
    if frame.empty:
        return [Issue("rows", "There are no rows")]
    measured = measured or measure(frame)
    issues = [
        *check_cells(frame, labels),
        *check_duplicates(frame),
        *check_conflicts(frame),
        *check_near_duplicates(frame, measured),
        *check_balance(frame),
        *check_personal_data(frame, measured),
    ]
    return issues if reference is None else issues + check_length_shift(frame, reference)


def describe(
    frame: pd.DataFrame,
    *,
    reference: pd.DataFrame | None = None,
    measured: Measured | None = None,
) -> dict[str, Any]:
    """Return the numbers behind the issues."""
    lengths = _lengths(frame)
    measured = measured or measure(frame)
    near = measured.near_duplicates
    stats: dict[str, Any] = {
        "rows": len(frame),
        "label_distribution": dict(_labels(frame).most_common()),
        "imbalance_ratio": imbalance_ratio(frame),
        "avg_query_length": sum(lengths) / len(lengths) if lengths else 0.0,
        "min_query_length": min(lengths, default=0),
        "max_query_length": max(lengths, default=0),
        "duplicates": len(_repeats(frame)),
        "near_duplicates": {"rows": len(near), "share": len(near) / max(1, len(frame))},
        "pii": dict(measured.kinds),
    }
    if reference is not None:
        statistic, p = length_shift(frame, reference)
        stats["length_shift"] = {"statistic": statistic, "p": p}
    return stats


# --- checks ------------------------------------------------------------------------------------


def check_cells(frame: pd.DataFrame, labels: Collection[str] | None = None) -> list[Issue]:
    """Find cells that break the schema: missing, blank, no text, outside the labels, no date."""
    names = {
        ("query", "is missing"): "Empty query",
        ("query", "is blank"): "Empty query",
        ("intent", "is missing"): "Missing intent",
        ("intent", "is blank"): "Missing intent",
    }
    rows_of: dict[str, list[int]] = {}
    with_id = frame if "id" in frame else frame.assign(id=[str(n) for n in range(len(frame))])
    for column, reason, row in schema_failures(with_id, labels):
        what = names.get((column, reason), f"{column} {reason}")
        rows_of.setdefault(what, []).extend([] if row is None else [row])
    return [
        Issue("cells", f"{what}{_at(sorted(set(rows)))}", _ids(frame, rows))
        for what, rows in rows_of.items()
    ]


def check_duplicates(frame: pd.DataFrame) -> list[Issue]:
    """Find texts that repeat an earlier one up to case and white space."""
    again = _repeats(frame)
    message = f"Found {len(again)} duplicate queries{_at(again)}"
    return [Issue("duplicates", message, _ids(frame, again))] if again else []


def check_conflicts(frame: pd.DataFrame) -> list[Issue]:
    """Find texts that carry more than one label."""
    labels_of: dict[str, set[str]] = {}
    keys = [normalise(text) for text in _texts(frame)]
    for key, label in zip(keys, frame["intent"], strict=True):
        if key and isinstance(label, str):
            labels_of.setdefault(key, set()).add(label)
    torn = [row for row, key in enumerate(keys) if len(labels_of.get(key, ())) > 1]
    message = f"Found {len(torn)} rows with conflicting labels for the same text{_at(torn)}"
    return [Issue("conflicts", message, _ids(frame, torn))] if torn else []


def check_near_duplicates(frame: pd.DataFrame, measured: Measured | None = None) -> list[Issue]:
    """Warn where more than one row in a hundred nearly repeats another."""
    near = measured.near_duplicates if measured else near_duplicate_rows(frame)
    share = len(near) / len(frame)
    message = f"Found {len(near)} rows ({share:.1%}) that nearly repeat another"
    issue = Issue("near_duplicates", message, _ids(frame, near), "warning")
    return [issue] if share > NEAR_SHARE else []


def check_balance(frame: pd.DataFrame) -> list[Issue]:
    """Find a single class, and classes of very different size."""
    ratio = imbalance_ratio(frame)
    if len(_labels(frame)) < 2:
        return [Issue("balance", "There is one label only; a classifier needs two")]
    message = f"High class imbalance detected: the largest class is {ratio:.1f} times the smallest"
    return [Issue("balance", message)] if ratio > IMBALANCE else []


def check_personal_data(frame: pd.DataFrame, measured: Measured | None = None) -> list[Issue]:
    """Find personal data by kind; the values are not repeated."""
    kinds, rows = (measured.kinds, measured.personal_rows) if measured else _personal_data(frame)
    counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    message = f"Personal data found: {counted}{_at(rows)}"
    return [Issue("personal_data", message, _ids(frame, rows))] if rows else []


def check_length_shift(frame: pd.DataFrame, reference: pd.DataFrame) -> list[Issue]:
    """Warn where query lengths differ from the reference's (two-sample Kolmogorov-Smirnov)."""
    statistic, p = length_shift(frame, reference)
    message = f"Query lengths differ from the reference: KS {statistic:.2f}, p {p:.2g}"
    return [Issue("length_shift", message, severity="warning")] if p < SHIFT_P else []


# --- measures ----------------------------------------------------------------------------------


def near_duplicate_rows(frame: pd.DataFrame) -> list[int]:
    """Return the positions of rows that nearly, but not exactly, repeat another."""
    keys = [normalise(text) for text in _texts(frame)]
    pairs = near_duplicate_pairs(keys)
    return sorted({row for i, j, _ in pairs if keys[i] and keys[i] != keys[j] for row in (i, j)})


def imbalance_ratio(frame: pd.DataFrame) -> float:
    """Return the size of the largest class over that of the smallest."""
    sizes = _labels(frame).values()
    return max(sizes) / min(sizes) if sizes else 1.0


def length_shift(frame: pd.DataFrame, reference: pd.DataFrame) -> tuple[float, float]:
    """Return the KS statistic of the query lengths in words, and its p-value."""
    from scipy.stats import ks_2samp

    ours, theirs = _lengths(frame), _lengths(reference)
    if not ours or not theirs:
        return 0.0, 1.0
    result = ks_2samp(ours, theirs)
    return float(result.statistic), float(result.pvalue)


def as_frame(
    data: Data, text: str = "query", label: str = "intent", delimiter: str | None = None
) -> tuple[pd.DataFrame, Collection[str] | None]:
    """Return rows with the columns ``query`` and ``intent``, and the taxonomy where there is one.

    Of a version these are the training rows, with id and fold.
    """
    if isinstance(data, str | Path):
        is_file = Path(data).suffix.lower() in EXTENSIONS or Path(data).exists()
        if is_file:
            return read_unchecked(data, text, label, delimiter=delimiter), None
        data = load_dataset(str(data))
    if isinstance(data, Dataset):
        return data.train.rename(columns={data.version.label_column: "intent"}), data.labels
    for column in (text, label):
        if column not in data:
            have = ", ".join(map(str, data))
            raise DataError(f"The frame has no column {column!r}; it has {have}. Pass text, label.")
    return data.rename(columns={text: "query", label: "intent"}).reset_index(drop=True), None


def _texts(frame: pd.DataFrame) -> list[str]:
    return [cell.strip() if isinstance(cell, str) else "" for cell in frame["query"]]


def _labels(frame: pd.DataFrame) -> Counter[str]:
    return Counter(cell for cell in frame["intent"] if isinstance(cell, str) and cell.strip())


def _lengths(frame: pd.DataFrame) -> list[int]:
    return [len(text.split()) for text in _texts(frame)]


def _repeats(frame: pd.DataFrame) -> list[int]:
    seen: set[str] = set()
    again = []
    for row, text in enumerate(_texts(frame)):
        key = normalise(text)
        if key and key in seen:
            again.append(row)
        seen.add(key)
    return again


def _personal_data(frame: pd.DataFrame) -> tuple[Counter[str], list[int]]:
    from nivesh_lib.privacy import find_pii

    kinds: Counter[str] = Counter()
    rows = []
    for row, text in enumerate(_texts(frame)):
        found = find_pii(text)
        kinds.update(finding.kind for finding in found)
        rows += [row] if found else []
    return kinds, rows


def _at(rows: list[int]) -> str:
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f" at index {rows[0]}{more}" if rows else ""


def _ids(frame: pd.DataFrame, rows: Iterable[int]) -> tuple[str | int, ...]:
    if "id" not in frame:
        return tuple(rows)
    return tuple(str(frame["id"].iloc[row]) for row in rows)
