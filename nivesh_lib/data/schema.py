"""The schema of rows: columns, labels, equality of texts, and issues found in rows.

The column of labels is called ``intent`` on disk and in frames; ``versions`` has the exception.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import regex

from nivesh_lib.errors import DataError
from nivesh_lib.privacy import Finding, find_pii

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("id", "query", "intent")
OPTIONAL = ("income_segment", "created_at", "language", "selection", "source", "traits")
SELECTIONS = ("natural", "hard")
MAX_TEXT = 100_000  # characters; comparing texts that are longer takes gigabytes
MAX_LABEL = 100  # characters; a longer label leaves a figure no room for its bars

DateForm = tuple[str, int, str]

DAMAGED = re.compile("[\x00\ud800-\udfff]")  # what cannot be stored as text

# Not white space, no control, and nothing that fonts leave out (zero-width, fillers, marks).
_VISIBLE = regex.compile(r"[^\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]")
_CONTROLS = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # a command with numbers, such as a colour
    "|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"  # one with a text
    "|\x1b[ -/]*[0-~]|[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:([T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]{1,9})?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)

# The order is the id: affordability_check is 0.
LABELS = (
    "affordability_check",
    "goal_planning",
    "spending_analysis",
    "investment_advice",
    "debt_management",
    "tax_planning",
    "emergency_fund",
    "retirement_planning",
    "insurance_advice",
    "transaction_query",
    "budget_creation",
    "savings_strategy",
    "loan_inquiry",
    "general_question",
)


@dataclass(frozen=True)
class Issue:
    """One finding; ``rows`` are ids where the data has them, else 0-based positions."""

    check: str
    message: str
    rows: tuple[str | int, ...] = ()
    severity: Literal["error", "warning"] = "error"


def row_ids(frame: pd.DataFrame, rows: Iterable[int]) -> tuple[str | int, ...]:
    """Return the ids of rows given by position, or the positions where the frame has no ids."""
    if "id" not in frame:
        return tuple(int(row) for row in rows)
    return tuple(str(frame["id"].iloc[int(row)]) for row in rows)


def is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen."""
    return _VISIBLE.search(text) is None


def without_controls(text: str) -> str:
    """Return a text without escape sequences and control characters; tabs and line breaks stay."""
    return text if text.isprintable() else _CONTROLS.sub("", text)


def normalise(text: str) -> str:
    """Return the form in which two texts are compared: case, width and white space removed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def conflicting_rows(texts: Iterable[str], labels: Iterable[object]) -> dict[int, int]:
    """Find equal texts with more than one label.

    Parameters
    ----------
    texts, labels
        Of the rows, in order. Texts are normalised; an empty one is equal to none, and a label
        that is no text does not count.

    Returns
    -------
    dict
        The position of every row with such a text -> that of the first row with this text.
    """
    first: dict[str, int] = {}
    labels_of: dict[str, set[str]] = defaultdict(set)
    keys = list(texts)
    for row, (key, label) in enumerate(zip(keys, labels, strict=True)):
        first.setdefault(key, row)
        if key and isinstance(label, str):
            labels_of[key].add(label)
    return {row: first[key] for row, key in enumerate(keys) if len(labels_of[key]) > 1}


def closest(word: str, choice: Iterable[str]) -> str:
    """Return a hint at the most similar word, for the end of a message, or an empty string."""
    match = difflib.get_close_matches(word, list(choice), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def check_reserved(place: str, labels: Iterable[str]) -> None:
    """Raise DataError for a label with the name of another column of out-of-fold tables."""
    for label in sorted({"id", "fold"}.intersection(labels)):
        raise DataError(
            f"{place}: a label cannot be called {label!r}; rename it, such as {label}_label."
        )


def is_iso_date(text: str) -> bool:
    """Return whether ``text`` is an ISO 8601 calendar date, perhaps with a time and its zone."""
    return date_form(text) is not None


def date_form(text: str) -> DateForm | None:
    """Return how an ISO date is written: separator, length of the time, zone; None for no date.

    Dates of one form are in order, to the second, when they are sorted as text.
    """
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    try:
        datetime.fromisoformat(text)  # the pattern lets a 13th month through
    except ValueError:
        return None
    time, zone = found.groups("")
    return time[:1], len(time), zone


_RANDOM_ID = re.compile(  # a digest or UUID has every shape by chance
    r"(?=[\d-]*[a-f])(?:[\da-f]{16,}|[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12})", re.I
)
_LONG_NUMBER = re.compile(r"\d{12,19}")
_TOKEN = re.compile(r"[\w-]{8,}")


def personal_cells(frame: pd.DataFrame, columns: Iterable[str]) -> list[tuple[int, str, str]]:
    """Return ``(row position, column, kind)`` for every cell that holds personal data.

    Dates never do, nor do digests, UUIDs and what is there by chance in ``id``.
    """
    cells = []
    for name in (name for name in columns if name in frame):
        texts = [cell if isinstance(cell, str) else "" for cell in frame[name]]
        found = {
            text: findings[0]
            for text in set(texts)
            if not (name == "created_at" and is_iso_date(text))
            and not (name == "id" and _RANDOM_ID.fullmatch(text))
            and (findings := find_pii(text))
        }
        chance = _chance_findings(texts, found) if name == "id" else set()
        cells += [
            (row, name, found[text].kind)
            for row, text in enumerate(texts)
            if text in found and text not in chance
        ]
    return cells


def _chance_findings(ids: list[str], found: Mapping[str, Finding]) -> set[str]:
    """Return the ids in which something was found that is in a few of very many like them.

    One in ten long numbers has a right check digit; one in some hundred random words of letters
    and digits holds ten digits in a row, or five letters and four digits.
    """
    numbers = {text for text in ids if _LONG_NUMBER.fullmatch(text)}
    lengths = {len(text) for text in ids}
    words = {text for text in ids if _TOKEN.fullmatch(text)} if len(lengths) == 1 else set()
    in_part = {text for text in words & set(found) if len(text) > _length(found[text])}
    doubtful = (
        (numbers, numbers & set(found), 4),
        (words, words & numbers & set(found) | in_part, 10),
    )
    return {
        text
        for alike, some, rarity in doubtful
        if len(alike) >= 20 and rarity * len(some) < len(alike)
        for text in some
    }


def _length(finding: Finding) -> int:
    return finding.end - finding.start


def row_schema(labels: Iterable[str] | None = None) -> Any:
    """Return the pandera schema of canonical rows.

    Parameters
    ----------
    labels
        The taxonomy; without it any non-blank label passes.
    """
    import pandera.pandas as pa

    known = None if labels is None else set(labels)

    def check(holds: Callable[[str], bool], name: str) -> Any:
        # A cell that is no text is reported once, by the dtype.
        return pa.Check(lambda c: not isinstance(c, str) or holds(c), element_wise=True, name=name)

    filled = check(lambda cell: not is_blank(cell), "is blank")
    short = check(lambda cell: len(cell) <= MAX_LABEL, f"is longer than {MAX_LABEL} characters")
    in_labels = check(lambda cell: known is None or cell in known, "is not in the labels")
    natural_or_hard = check(SELECTIONS.__contains__, "is neither natural nor hard")
    iso = check(is_iso_date, "is no ISO date")
    alike = pa.Check(_written_alike, name="is written unlike the first date")
    checks = {"created_at": [iso, alike], "selection": natural_or_hard}
    columns = {
        "id": pa.Column(str, filled, unique=True, report_duplicates="exclude_first"),
        "query": pa.Column(str, filled),
        "intent": pa.Column(str, [filled, short, in_labels]),
    }
    for name in OPTIONAL:
        columns[name] = pa.Column(str, checks.get(name), nullable=True, required=False)
    return pa.DataFrameSchema(columns)


def _written_alike(dates: pd.Series) -> pd.Series:
    import pandas as pd

    # A cell that is no date is reported by another check.
    forms = [date_form(cell) if isinstance(cell, str) else None for cell in dates]
    first = next(filter(None, forms), None)
    return pd.Series([form in (None, first) for form in forms], index=dates.index, dtype=bool)


def schema_failures(
    frame: pd.DataFrame, labels: Iterable[str] | None = None
) -> list[tuple[str, str, int | None]]:
    """Return ``(column, problem, row position)`` for every cell that violates the schema.

    The position is None where a whole column is missing. Cells are never quoted.
    """
    import pandera.pandas as pa

    try:
        row_schema(labels).validate(frame.reset_index(drop=True), lazy=True)
    except pa.errors.SchemaErrors as error:
        return [_failure(case) for case in error.failure_cases.to_dict("records")]
    return []


def _failure(case: dict[str, Any]) -> tuple[str, str, int | None]:
    check, column = str(case["check"]), case["column"]
    if check == "column_in_dataframe":
        return str(case["failure_case"]), "is missing", None
    reasons = {"field_uniqueness": "occurs twice", "not_nullable": "is missing"}
    reason = "is not text" if check.startswith("dtype") else reasons.get(check, check)
    return str(column), reason, None if case["index"] is None else int(case["index"])
