"""Labelled texts from CSV, JSON, JSON Lines or Parquet, as canonical string columns.

A file is read whole or refused with one message that names file, row, field and what to do.
Texts are never quoted in a message, since they may be private; labels, ids and dates are.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nivesh_lib.data.schema import MAX_LABEL, OPTIONAL, date_form, is_iso_date, normalise
from nivesh_lib.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Found = list[tuple[int, str]]

EXTENSIONS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_BINARY = {b"PAR1": "Parquet", b"PK\x03\x04": "zip or Excel", b"\x1f\x8b": "gzip"}
_DAMAGED = re.compile("[\x00\ud800-\udfff]")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?")


@dataclass(frozen=True)
class Table:
    """A file's cells as they are, before any column has a meaning."""

    path: Path
    columns: list[str]
    rows: list[dict[str, Any]]
    lines: list[int]  # where each row starts; empty where the format has no lines

    def where(self, row: int) -> str:
        """Name a row as a person finds it: 1-based, with its line where known."""
        line = f" (line {self.lines[row]})" if self.lines else ""
        return f"{self.path}, row {row + 1}{line}"


def read_rows(
    path: str | Path,
    text: str = "query",
    label: str = "intent",
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    *,
    delimiter: str | None = None,
    labels: Collection[str] | None = None,
    whole: bool = True,
    keep_duplicates: bool = False,
) -> pd.DataFrame:
    """Read labelled texts; columns ``query``, ``intent`` and what else of the schema is there.

    Parameters
    ----------
    text, label
        The file's columns that hold the text and its label.
    columns
        Further columns by name in the file: ``{"segment": "income_segment"}``.
    format
        csv, json, jsonl or parquet; by default the file's ending says.
    labels
        The taxonomy; without it any label is welcome.
    whole
        The rows are a whole training set: at least two classes of two rows each. Off for
        additions and test files.
    keep_duplicates
        Let repeated rows through, for ``drop_duplicates``.
    """
    table = read_table(path, format, delimiter=delimiter)
    origin = _origins(table, text, label, columns or {})
    _refuse(
        table, _bad_cells(table, origin), "Fill or delete each such row, or name other columns."
    )
    frame = _frame(table, origin)
    _check_optional(table, frame)
    _check_labels(table, frame, [row[origin["intent"]] for row in table.rows], labels)
    raw_texts = [row[origin["query"]] for row in table.rows]
    _check_repeats(table, frame, raw_texts, keep_duplicates)
    if whole:
        _check_classes(table, frame)
    return frame


def read_unchecked(
    path: str | Path,
    text: str = "query",
    label: str = "intent",
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    *,
    delimiter: str | None = None,
) -> pd.DataFrame:
    """Read a file with its cells as they are, so that validation can say what is wrong."""
    import pandas as pd

    table = read_table(path, format, delimiter=delimiter)
    origin = _origins(table, text, label, columns or {})
    return pd.DataFrame(
        {
            target: [None if _is_missing(row.get(source)) else row[source] for row in table.rows]
            for target, source in origin.items()
        }
    )


def drop_duplicates(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Keep the first of rows with the same text and label; say how many were dropped.

    The index stays, so that a later message still names the row of the file.
    """
    again = frame.duplicated(["query", "intent"])
    return frame[~again], int(again.sum())


def read_table(
    path: str | Path, format: str | None = None, *, delimiter: str | None = None
) -> Table:
    """Read a file's cells without judging them."""
    path = Path(path)
    kind = format or EXTENSIONS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file in it that holds the rows.")
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path (from {Path.cwd()}).")
    if not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is no regular file; save its content as one.")
    if kind not in _READERS:
        raise DataError(
            f"{path} is of unknown kind {format or path.suffix or 'without an ending'!r}; "
            f"save it as one of {', '.join(EXTENSIONS)}."
        )
    if delimiter is not None and kind != "csv":
        raise DataError(f"--delimiter is for CSV files; {path} is read as {kind}.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.strip():
        raise DataError(f"{path} is empty; export it again.")
    table = _READERS[kind](path, raw, delimiter)
    if not table.rows:
        raise DataError(f"{path} has no rows, only {', '.join(table.columns) or 'an empty list'}.")
    return table


def _decode(path: Path, raw: bytes) -> str:
    resave = 'save it again as UTF-8 (in Excel: "CSV UTF-8").'
    for magic, kind in _BINARY.items():
        if raw.startswith(magic):
            raise DataError(f"{path} is a {kind} file under another name; rename or convert it.")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or raw[1:40:2].count(0) > 10:
        raise DataError(f"{path} is UTF-16, not UTF-8; {resave}")
    if b"\x00" in raw:
        line = raw[: raw.index(b"\x00")].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: holds a NUL byte; the file is damaged or binary.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        byte = f"0x{raw[error.start]:02x}"
        raise DataError(f"{path}, line {line}: byte {byte} is not UTF-8; {resave}") from error


def _read_csv(path: Path, raw: bytes, delimiter: str | None) -> Table:
    text = _decode(path, raw)
    delimiter = {"\\t": "\t", "tab": "\t", None: ","}.get(delimiter, delimiter) or ","
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"--delimiter {delimiter!r} is not one character; try ';' or 'tab'.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    line = 1
    try:
        header = [name.strip() for name in next(filter(None, reader), [])]
        _check_header(path, header, delimiter)
        line = reader.line_num + 1
        for record in reader:
            if record:
                records.append(record)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: {error}; is a quotation mark missing or not doubled?"
        ) from error
    rows = [dict(zip(header, record, strict=False)) for record in records]
    table = Table(path, header, rows, lines)
    uneven = [
        (row, f"has {len(record)} fields, the header {len(header)}")
        for row, record in enumerate(records)
        if len(record) != len(header)
    ]
    _refuse(table, uneven, "Quote texts that hold the delimiter.")
    return table


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    for other, name in {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}.items():
        if len(header) == 1 and other != delimiter and other in header[0]:
            shown = "tab" if other == "\t" else other
            raise DataError(f"{path} is separated by {name}; add --delimiter '{shown}'.")
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise DataError(f"{path}, line 1: column {twice[0]!r} occurs twice; rename one.")


def _read_json(path: Path, raw: bytes, _: str | None) -> Table:
    text = _decode(path, raw)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(_json_trouble(path, text, error)) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path} is nested too deeply or holds a number out of range.") from error
    if isinstance(rows, dict):
        lists = [key for key, value in rows.items() if isinstance(value, list)]
        hint = f"save the list under {lists[0]!r} by itself" if lists else "put it in [ ]"
        raise DataError(f"{path} holds one object where a list of objects is due; {hint}.")
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of objects.")
    return _objects(path, rows, [])


def _json_trouble(path: Path, text: str, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data" and text.lstrip().startswith("{"):
        return f"{path} is JSON Lines; rename it to .jsonl."
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"{path} is cut off at line {error.lineno}; copy or export it again."
    return f"{path}, line {error.lineno}, column {error.colno}: is not JSON ({error.msg})."


def _read_jsonl(path: Path, raw: bytes, _: str | None) -> Table:
    text = _decode(path, raw)
    if text.lstrip().startswith("["):
        raise DataError(f"{path} is a JSON list; rename it to .json.")
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (RecursionError, ValueError) as error:
                raise DataError(
                    f"{path}, row {len(rows) + 1} (line {number}): is not one JSON object; "
                    "the line is cut off or spread over several."
                ) from error
            lines.append(number)
    return _objects(path, rows, lines)


def _objects(path: Path, rows: list[Any], lines: list[int]) -> Table:
    table = Table(path, [], rows, lines)
    odd = [
        (n, f"is a {type(r).__name__}, not an object")
        for n, r in enumerate(rows)
        if type(r) is not dict
    ]
    _refuse(table, odd, 'Each row is an object such as {"query": …, "intent": …}.')
    table.columns.extend(dict.fromkeys(key for row in rows for key in row))
    return table


def _read_parquet(path: Path, raw: bytes, _: str | None) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no complete Parquet file; export it again.") from error
    return Table(path, list(table.column_names), table.to_pylist(), [])


_READERS: dict[str | None, Callable[[Path, bytes, str | None], Table]] = {
    "csv": _read_csv,
    "json": _read_json,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}


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
        if source not in table.columns:
            option = options.get(target, f"--map …={target}, not")
            raise DataError(
                f"{table.path} has no column {source!r}; it has {', '.join(table.columns)}. "
                f"Name the right one with {option} COLUMN."
            )
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


def _frame(table: Table, origin: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    cells = {
        target: [_plain(row.get(source)) for row in table.rows] for target, source in origin.items()
    }
    kept = {
        target: column
        for target, column in cells.items()
        if target not in OPTIONAL or any(cell is not None for cell in column)
    }
    return pd.DataFrame(kept, dtype="str")


def _plain(cell: Any) -> str | None:
    if _is_missing(cell):
        return None
    return (cell.isoformat() if isinstance(cell, date) else str(cell)).strip()


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _bad_cells(table: Table, origin: Mapping[str, str]) -> Found:
    """Return every cell that is missing, nested, a number or damaged; the first a row."""
    found = []
    for number, row in enumerate(table.rows):
        for target, source in origin.items():
            reason = _cell_trouble(target, row.get(source))
            if reason:
                found.append((number, f"{source!r} {reason}"))
                break
    return found


def _cell_trouble(target: str, cell: Any) -> str | None:
    if _is_missing(cell):
        return None if target in OPTIONAL else "is missing or blank"
    if isinstance(cell, list | dict):
        return "is nested; make it one plain value"
    if target in ("query", "intent"):
        if not isinstance(cell, str):
            shown = repr(cell) if isinstance(cell, int | float) else f"a {type(cell).__name__}"
            return f"is {shown} where text is due"
        if target == "query" and _NUMBER.fullmatch(cell.strip()):
            return "is only a number where text is due"
    if isinstance(cell, str) and _DAMAGED.search(cell):
        return "holds a character that cannot be stored (NUL or half a surrogate pair)"
    return None


def _check_optional(table: Table, frame: pd.DataFrame) -> None:
    if "id" in frame:
        twice = frame["id"].duplicated()
        found = [(n, f"id {frame['id'][n]!r} occurs twice") for n in twice[twice].index]
        _refuse(table, found, "Ids are unique; delete the column to have them made.")
    if "created_at" in frame:
        dates = [(n, day) for n, day in enumerate(frame["created_at"]) if isinstance(day, str)]
        found = [
            (n, f"created_at {day!r} is no ISO date") for n, day in dates if not is_iso_date(day)
        ]
        _refuse(table, found, "Write dates as 2026-01-25 or 2026-01-25T10:30:00+05:30.")
        row, first = dates[0]
        found = [
            (n, f"created_at {day!r} is written unlike {first!r} in row {row + 1}")
            for n, day in dates
            if date_form(day) != date_form(first)
        ]
        _refuse(table, found, "Write all with a time or none, and all in one time zone.")


def _check_labels(
    table: Table, frame: pd.DataFrame, raw: list[str], labels: Collection[str] | None
) -> None:
    # First, since the other messages quote labels. A long one may be a text.
    long = [
        (number, f"the label has {len(label):,} characters, more than {MAX_LABEL}")
        for number, label in enumerate(frame["intent"])
        if len(label) > MAX_LABEL
    ]
    _refuse(table, long, "Shorten it, or name the column of labels with --label COLUMN.")
    seen: dict[str, str] = {}
    found = []
    for number, label in enumerate(raw):
        first = seen.setdefault("".join(label.casefold().split()), label)
        if first != label:
            found.append(
                (number, f"label {label!r} and {first!r} differ only by case or white space")
            )
    _refuse(table, found, "Write each label in one way.")
    if labels is not None:
        strange = [
            (number, f"label {label!r} is not in the taxonomy{_closest(label, labels)}")
            for number, label in enumerate(frame["intent"])
            if label not in labels
        ]
        _refuse(table, strange, f"The labels are {', '.join(labels)}.")


def _closest(label: str, labels: Iterable[str]) -> str:
    match = difflib.get_close_matches(label, list(labels), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _check_repeats(
    table: Table, frame: pd.DataFrame, raw_texts: list[str], keep_duplicates: bool
) -> None:
    first: dict[str, int] = {}
    conflicts, repeats, exact = [], [], set()
    for number, (text, label) in enumerate(zip(frame["query"], frame["intent"], strict=True)):
        earlier = first.setdefault(normalise(text), number)
        if frame["intent"][earlier] != label:
            other = frame["intent"][earlier]
            conflicts.append(
                (number, f"has the text of row {earlier + 1} but label {label!r}, not {other!r}")
            )
        elif raw_texts[number] in exact:
            repeats.append((number, f"repeats row {earlier + 1}"))
        exact.add(raw_texts[number])
    _refuse(table, conflicts, "Decide on one label for each text.")
    if not keep_duplicates:
        _refuse(table, repeats, "Delete it, or add --drop-duplicates.")


def _check_classes(table: Table, frame: pd.DataFrame) -> None:
    counts = frame["intent"].value_counts()
    if len(counts) < 2:
        raise DataError(
            f"{table.path} has one label only, {counts.index[0]!r}; a classifier needs two. "
            "Is --label the right column?"
        )
    single = sorted(counts[counts < 2].index)
    if single:
        raise DataError(
            f"{table.path} has one row only for {len(single)} of {len(counts)} labels: "
            f"{', '.join(map(repr, single[:5]))}. Add rows or remove the label."
        )


def _refuse(table: Table, found: Found, fix: str) -> None:
    if found:
        row, what = found[0]
        more = len({number for number, _ in found}) - 1
        rest = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
        raise DataError(f"{table.where(row)}: {what}{rest}. {fix}")
