"""Importing labelled texts from a file, as canonical string columns.

A file is read as a whole or refused with one message that names file, row, field and the fix.
Texts are never quoted in a message, since they may be private; labels, ids and dates are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.data.reading import (
    Problems,
    Table,
    cell_problem,
    is_missing,
    plain,
    read_table,
    refuse,
    require_column,
)
from nivesh_lib.data.schema import (
    MAX_LABEL,
    MAX_TEXT,
    OPTIONAL,
    check_reserved,
    closest,
    conflicting_rows,
    date_form,
    is_iso_date,
    normalise,
    personal_cells,
    without_controls,
)
from nivesh_lib.data.versions import full_ref, load_dataset, resolve
from nivesh_lib.errors import DataError
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.terminal import listed

_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?")


@dataclass(frozen=True)
class ImportRequest:
    """Files that become a new version of a dataset.

    Parameters
    ----------
    file, holdout
        Training rows, and rows to hold out; without ``file``, a review is all there is.
    review
        A file of ``data.review`` that a person filled in, about rows of the parent, or about
        corrections.
    feedback
        A file of corrections (``data.corrections``), in place of ``file``.
    parent
        The version to extend, with or without the dataset's name.
    text, label, columns, delimiter
        How to read the files, as in `read_rows`.
    labels
        The taxonomy in id order; by default the parent's, unless the MAJOR number is new.
    drop_duplicates
        Drop rows that repeat another one of the file, or of the parent's training side.
    keep_rare
        Accept labels with one row, which are for training only.
    description, licence, sources
        For the manifest; by default named after the files and the parent.
    store
        URL below which the data file goes.
    """

    name: str
    version: str
    file: Path | None = None
    holdout: Path | None = None
    review: Path | None = None
    feedback: Path | None = None
    parent: str | None = None
    text: str = "query"
    label: str = "intent"
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    labels: Sequence[str] | None = None
    drop_duplicates: bool = False
    keep_rare: bool = False
    description: str = ""
    licence: str = ""
    sources: Sequence[str] = ()
    store: str | None = None

    @property
    def parent_ref(self) -> str | None:
        """Return ``name@version`` of the parent."""
        return self.parent and full_ref(self.name, self.parent)


def import_files(
    file: Path, request: ImportRequest, report: Callable[[str], None]
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the training rows in ``file`` and the holdout rows of a request.

    ``report`` is called with how many cells of each file were cleaned, and rows dropped.
    """
    parent = request.parent_ref
    read = functools.partial(
        read_rows,
        text=request.text,
        label=request.label,
        columns=request.columns,
        delimiter=request.delimiter,
        keep_duplicates=request.drop_duplicates,
        keep_rare=request.keep_rare,
        report=report,
    )
    labels = request.labels or _labels_to_keep(parent, request.version)
    rows, held = read(file, labels=labels, whole=parent is None), None
    check_reserved(str(file), rows["intent"])
    if request.holdout:
        held = read(request.holdout, labels=labels or sorted(set(rows["intent"])), whole=False)
    if request.drop_duplicates:
        rows, dropped = drop_duplicates(rows, load_dataset(parent).train if parent else None)
        report(f"{dropped} repeated rows dropped")
    if request.drop_duplicates and held is not None:
        held, dropped = drop_duplicates(held)
        report(f"{dropped} repeated rows dropped")
    return rows, held


def _labels_to_keep(parent: str | None, version: str) -> tuple[str, ...] | None:
    """Return the labels that additions must keep to; a new MAJOR number may bring others."""
    if parent is None:
        return None
    base = resolve(parent)
    same_major = base.version.split(".")[0] == version.removeprefix("v").split(".")[0]
    return base.labels if same_major else None


def read_rows(
    path: str | Path,
    text: str = "query",
    label: str = "intent",
    columns: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
    labels: Collection[str] | None = None,
    whole: bool = True,
    keep_duplicates: bool = False,
    keep_rare: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Read labelled texts: ``query``, ``intent`` and the optional columns that the file has.

    Parameters
    ----------
    text, label
        The file's columns that hold the text and its label.
    columns
        Further columns by name in the file: ``{"segment": "income_segment"}``.
    labels
        The taxonomy; without it any label is accepted.
    whole
        The rows are a whole training set: at least two classes of two rows each. Off for
        additions and test files.
    keep_duplicates
        Accept repeated rows, for `drop_duplicates`.
    keep_rare
        Accept a class of one row in a whole training set.
    report
        Is called with the number of cells from which control characters were removed, if any.

    Raises
    ------
    DataError
        The file cannot be read, or a row cannot be imported.
    """
    table = read_table(path, delimiter=delimiter)
    origin = _origins(table, text, label, columns or {})
    table, cleaned = _without_controls(table, origin)
    if cleaned:
        report(f"{cleaned:,} cells had escape sequences or control characters, now removed")
    refuse(table, _bad_cells(table, origin), "Fill or delete each such row, or name other columns.")
    frame = _frame(table, origin)
    _check_personal(table, frame, origin)
    _check_optional(table, frame)
    _check_labels(table, frame, [row[origin["intent"]] for row in table.rows], labels)
    raw_texts = [row[origin["query"]] for row in table.rows]
    _check_repeats(table, frame, raw_texts, keep_duplicates)
    if whole:
        _check_classes(table, frame, keep_rare)
    return frame


def read_unchecked(
    path: str | Path, text: str, label: str, *, delimiter: str | None = None
) -> pd.DataFrame:
    """Read a file with its cells unchanged, so that validation can report their problems.

    Raises
    ------
    DataError
        The file cannot be read, or a cell holds what no text can.
    """
    table = read_table(path, delimiter=delimiter)
    origin = _origins(table, text, label, {})
    damaged = [
        (number, f"{source!r} {problem}")
        for number, row in enumerate(table.rows)
        for source in origin.values()
        if isinstance(row.get(source), str) and (problem := _text_problem(row[source]))
    ]
    refuse(table, damaged, "Correct or delete each such row.")
    return pd.DataFrame(
        {
            target: [None if is_missing(row.get(source)) else row[source] for row in table.rows]
            for target, source in origin.items()
        }
    )


def drop_duplicates(
    frame: pd.DataFrame, known: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, int]:
    """Keep the first of rows with the same text and label, and none with a text of ``known``.

    Returns
    -------
    tuple
        The rows that are kept, with their index, so that a later message still names the row of
        the file; and how many were dropped.
    """
    again = frame.duplicated(["query", "intent"])
    if known is not None:
        again |= frame["query"].isin(known["query"])
    return frame[~again], int(again.sum())


def _origins(table: Table, text: str, label: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the file's column for each canonical column that it has."""
    _check_meanings(text, label, columns)
    named = {text, label, *columns}
    origin = {
        name: name for name in ("id", *OPTIONAL) if name in table.columns and name not in named
    }
    origin |= {target: source for source, target in columns.items()}
    options = {"query": "--text", "intent": "--label"}
    for target, source in (origin | {"query": text, "intent": label}).items():
        option = options.get(target, f"--map …={target}, not")
        require_column(table.path, table.columns, source, option)
        origin[target] = source
    return {name: origin[name] for name in ("id", "query", "intent", *OPTIONAL) if name in origin}


def _check_meanings(text: str, label: str, columns: Mapping[str, str]) -> None:
    """Refuse a column with two meanings, and a meaning with two columns."""
    if text == label:
        raise DataError(
            f"--text and --label both name the column {text!r}; one holds the texts, another the "
            "labels."
        )
    meaning: dict[str, str] = {}
    for source, target in columns.items():
        if target not in ("id", *OPTIONAL):
            raise DataError(f"--map {source}={target}: choose {', '.join(('id', *OPTIONAL))}.")
        if source in (text, label):
            use = "--text" if source == text else "--label"
            raise DataError(f"--map {source}={target}: {use} names this column; map another one.")
        other = meaning.setdefault(target, source)
        if other != source:
            raise DataError(f"--map {other}={target} and {source}={target}: keep one of the two.")


def _without_controls(table: Table, origin: Mapping[str, str]) -> tuple[Table, int]:
    """Return the table with cleaned cells, and how many of them changed."""
    rows, cleaned = [], 0
    for row in table.rows:
        texts = {name: row[name] for name in origin.values() if isinstance(row.get(name), str)}
        changed = {
            name: new for name, old in texts.items() if (new := without_controls(old)) != old
        }
        cleaned += len(changed)
        rows.append(row | changed)
    return replace(table, rows=rows), cleaned


def _frame(table: Table, origin: Mapping[str, str]) -> pd.DataFrame:
    columns = {
        name: [plain(row.get(source)) for row in table.rows] for name, source in origin.items()
    }
    empty = [name for name in OPTIONAL if not any(columns.get(name, ()))]
    return pd.DataFrame(columns, dtype="str").drop(columns=empty, errors="ignore")


def _bad_cells(table: Table, origin: Mapping[str, str]) -> Problems:
    """Return every cell that is missing, nested, a number or damaged."""
    return [
        (number, f"{source!r} {problem}")
        for number, row in enumerate(table.rows)
        for target, source in origin.items()
        if (problem := _cell_problem(target, row.get(source)))
    ]


def _text_problem(cell: Any) -> str:
    """Return why a cell can be no text of a dataset, or an empty string."""
    if isinstance(cell, str) and len(cell) > MAX_TEXT:
        return f"has {len(cell):,} characters, more than {MAX_TEXT:,}"
    return cell_problem(cell)


def _cell_problem(target: str, cell: Any) -> str | None:
    if is_missing(cell):
        return None if target in OPTIONAL else "is missing or blank"
    if problem := _text_problem(cell):
        return problem
    if target in ("query", "intent"):
        if not isinstance(cell, str):
            kind = f"a {type(cell).__name__}"
            shown = anonymize_query(repr(cell)) if isinstance(cell, int | float) else kind
            return f"is {shown} where text is due"
        if target == "query" and _NUMBER.fullmatch(cell.strip()):
            return "is only a number where text is due"
    return None


def _check_personal(table: Table, frame: pd.DataFrame, origin: Mapping[str, str]) -> None:
    # First, since the other messages quote ids, dates and labels.
    fixes = {
        "id": "Give other ids, or delete the column to have them made.",
        "created_at": "Write a date, or delete the column.",
        "intent": "Rename the label, or name the column of labels with --label COLUMN.",
    }
    for name, fix in fixes.items():
        found = personal_cells(frame, [name])
        cells = [(row, f"{origin[name]!r} holds personal data ({kind})") for row, _, kind in found]
        refuse(table, cells, fix)


def _check_optional(table: Table, frame: pd.DataFrame) -> None:
    if "id" in frame:
        twice = frame["id"].duplicated()
        found = [(n, f"id {frame['id'][n]!r} occurs twice") for n in twice[twice].index]
        refuse(table, found, "Ids are unique; delete the column to have them made.")
    if "created_at" in frame:
        dates = [(n, day) for n, day in enumerate(frame["created_at"]) if isinstance(day, str)]
        found = [
            (n, f"created_at {day!r} is no ISO date") for n, day in dates if not is_iso_date(day)
        ]
        refuse(table, found, "Write dates as 2026-01-25 or 2026-01-25T10:30:00+05:30.")
        row, first = dates[0]
        found = [
            (n, f"created_at {day!r} is written unlike {first!r} in row {row + 1}")
            for n, day in dates
            if date_form(day) != date_form(first)
        ]
        refuse(table, found, "Write all with a time or none, and all in one time zone.")


def _check_labels(
    table: Table, frame: pd.DataFrame, raw: list[str], labels: Collection[str] | None
) -> None:
    # First, since the other messages quote labels. A long one may be a text.
    long = [
        (number, f"the label has {len(label):,} characters, more than {MAX_LABEL}")
        for number, label in enumerate(frame["intent"])
        if len(label) > MAX_LABEL
    ]
    refuse(table, long, "Shorten it, or name the column of labels with --label COLUMN.")
    seen: dict[str, str] = {}
    firsts = [seen.setdefault("".join(label.casefold().split()), label) for label in raw]
    found = [
        (number, f"label {label!r} and {first!r} differ only by case or white space")
        for number, (label, first) in enumerate(zip(raw, firsts, strict=True))
        if label != first
    ]
    refuse(table, found, "Write each label in one way.")
    if labels is not None:
        unknown = [
            (number, f"label {label!r} is not in the taxonomy{closest(label, labels)}")
            for number, label in enumerate(frame["intent"])
            if label not in labels
        ]
        refuse(table, unknown, f"The labels are {listed(labels)}.")


def _check_repeats(
    table: Table, frame: pd.DataFrame, raw_texts: list[str], keep_duplicates: bool
) -> None:
    labels = frame["intent"]
    conflicts = [
        (row, f"has the text of row {first + 1} but label {labels[row]!r}, not {labels[first]!r}")
        for row, first in conflicting_rows(frame["query"].map(normalise), labels).items()
        if labels[row] != labels[first]
    ]
    refuse(table, conflicts, "Decide on one label for each text.")
    if not keep_duplicates:
        first_row: dict[str, int] = {}
        firsts = [first_row.setdefault(text, row) for row, text in enumerate(raw_texts)]
        repeats = [(n, f"repeats row {first + 1}") for n, first in enumerate(firsts) if first < n]
        refuse(table, repeats, "Delete it, or add --drop-duplicates.")


def _check_classes(table: Table, frame: pd.DataFrame, keep_rare: bool) -> None:
    counts = frame["intent"].value_counts()
    if len(counts) < 2:
        raise DataError(
            f"{table.path} has one label only, {counts.index[0]!r}; a classifier needs two. "
            "Is --label the right column?"
        )
    single = sorted(counts[counts < 2].index)
    if single and not keep_rare:
        raise DataError(
            f"{table.path} has one row only for {len(single)} of {len(counts)} labels: "
            f"{', '.join(map(repr, single[:5]))}. Add rows, remove the label, or "
            "add --keep-rare to keep it for training only."
        )
