"""Reading CSV, JSON, JSON Lines and Parquet files: one reader for each format.

A reader yields rows and reads no further than it is asked to; only JSON is read whole.
`read_table` collects all rows of a file that is to be imported, `read_queries` yields the texts
of one that is to be answered, which may be longer than memory. What cannot be read is refused
with a message that names file, row and line. Cells are never quoted, since they may be private.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from nivesh_lib.data.schema import DAMAGED, is_blank
from nivesh_lib.errors import DataError, HoldoutError
from nivesh_lib.paths import data_dir
from nivesh_lib.records.schema import read_object
from nivesh_lib.terminal import listed

Problems = list[tuple[int, str]]  # positions of rows, from 0, and what is wrong with them

EXTENSIONS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_OBJECT = 'Each row is an object such as {"query": …, "intent": …}.'
_FIX = {"csv": "Quote texts that hold the delimiter.", "json": _OBJECT, "jsonl": _OBJECT}
_BINARY = {b"PAR1": "Parquet", b"PK\x03\x04": "zip or Excel", b"\x1f\x8b": "gzip"}
_MANIFEST = {
    "path": str, "name": str, "version": str, "manifest_sha256": str, "holdout": list,
}  # fmt: skip
MAX_CHARACTERS = 100_000_000  # in the cells of one file that is to be imported
_BATCH = 256  # rows of a Parquet file that are read at once


class Row(NamedTuple):
    """The cells of one row, and the line that it starts on; 0 where the format has no lines."""

    line: int
    cells: dict[str, Any]
    problem: str = ""  # why the row cannot be used


@dataclass(frozen=True)
class Table:
    """A file's cells as they are, before any column has a meaning."""

    path: Path
    columns: list[str]
    rows: list[dict[str, Any]]
    lines: list[int]

    def where(self, row: int) -> str:
        """Name a row, given from 0, by its 1-based number and its line."""
        return _place(self.path, row + 1, self.lines[row])


class Query(NamedTuple):
    """A text and where it is from: ``row`` from 1, and ``id`` where the file has one."""

    text: str
    origin: dict[str, Any]


# --- whole files -------------------------------------------------------------------------------


def read_table(path: str | Path, kind: str = "", *, delimiter: str | None = None) -> Table:
    """Read all cells of a file of a ``kind``, by default the one of its ending.

    Raises
    ------
    DataError
        The file is missing, empty, of unknown kind, damaged or too large, or has no rows.
    """
    path = Path(path)
    kind = _file_kind(path, {path.suffix.lower(): kind} if kind else EXTENSIONS)
    separator = _field_delimiter(path, kind, delimiter)
    if not any(line.strip() for line in _file_lines(path)):
        raise DataError(f"{path} is empty; export it again.")
    columns: list[str] = []
    rows = list(_bounded(path, _READERS[kind](_Source(path, separator, columns.extend))))
    columns = columns or list(dict.fromkeys(name for row in rows for name in row.cells))
    table = Table(path, columns, [row.cells for row in rows], [row.line for row in rows])
    refuse(table, [(n, r.problem) for n, r in enumerate(rows) if r.problem], _FIX.get(kind, ""))
    if not rows:
        raise DataError(f"{path} has no rows, only {listed(columns, 'an empty list')}.")
    return table


def _bounded(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows up to `MAX_CHARACTERS`: a few kilobytes of Parquet may hold gigabytes of text."""
    left = MAX_CHARACTERS
    for row in rows:
        left -= sum(len(cell) for cell in row.cells.values() if isinstance(cell, str))
        if left < 0:
            raise DataError(
                f"{path} holds more than {MAX_CHARACTERS:,} characters; import a part of it."
            )
        yield row


def refuse(table: Table, problems: Problems, fix: str) -> None:
    """Raise DataError for the first problem, with the number of further rows that have one."""
    if problems:
        row, what = problems[0]
        more = len({number for number, _ in problems}) - 1
        rest = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
        raise DataError(f"{table.where(row)}: {what}{rest}. {fix}")


def require_column(where: object, columns: Collection[str], name: str, option: str) -> None:
    """Refuse a file or row without the column that ``option`` names."""
    if name not in columns:
        raise DataError(
            f"{where} has no column {name!r}; it has {listed(columns)}. "
            f"Name the right one with {option} COLUMN."
        )


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each filled line of a file that is appended to.

    The value is None where the line is not JSON: a killed process may have left half of it.

    Raises
    ------
    DataError
        The file is missing, is no regular one, or that of a published version.
    """
    _file_kind(path, {path.suffix.lower(): "jsonl"})
    for number, line in enumerate(_file_lines(path), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (RecursionError, ValueError):
                yield number, None


# --- queries -----------------------------------------------------------------------------------


def read_queries(
    path: Path | str,
    text: str | None = None,
    *,
    delimiter: str | None = None,
    also: Collection[str] = (),
) -> Iterator[Query]:
    """Yield the texts of a file: lines of .txt, else the column ``text`` (by default ``query``).

    Parameters
    ----------
    also
        Columns whose cells become part of the origin, where the file has them.

    Raises
    ------
    DataError
        At once for a file that is missing or of unknown kind; for a row that cannot be answered
        when its turn comes.
    """
    path, column = Path(path), text or "query"
    kind = _file_kind(path, {".txt": "txt", **EXTENSIONS})
    separator = _field_delimiter(path, kind, delimiter)
    if kind != "txt":
        return _column_queries(path, kind, separator, (column, *also))
    if text is not None:
        raise DataError(f"--text names a column; {path} has none, only one text a line.")
    return query_lines(path, _file_lines(path))


def query_lines(name: object, lines: Iterable[bytes]) -> Iterator[Query]:
    """Take every line, blank ones too, as one text; ``name`` is for messages."""
    for row, line in enumerate(_decoded(name, lines), start=1):
        yield Query(line.removesuffix("\n").removesuffix("\r"), {"row": row})


def _column_queries(
    path: Path, kind: str, delimiter: str, columns: Sequence[str]
) -> Iterator[Query]:
    column, *also = columns

    def header(columns: list[str]) -> None:
        require_column(path, columns, column, "--text")

    rows = _READERS[kind](_Source(path, delimiter, header, (*columns, "id")))
    for number, (line, cells, problem) in enumerate(rows, start=1):
        place = _place(path, number, line)
        if problem:
            raise DataError(f"{place}: {problem}. {_FIX[kind]}")
        if column not in cells:
            require_column(place, cells, column, "--text")
        if found := _query_problem(cells, column):
            raise DataError(f"{place}: {found}. Mend or delete the row.")
        origin: dict[str, Any] = {"row": number}
        if "id" in cells and column != "id":  # a number stays one, so that answers can be joined
            origin["id"] = cells["id"] if isinstance(cells["id"], int) else plain(cells["id"])
        origin |= {name: plain(cells[name]) for name in also if name in cells}
        yield Query(cells[column], origin)


def _query_problem(cells: Mapping[str, Any], column: str) -> str:
    if cells[column] is None:
        return f"{column!r} is missing"
    if not isinstance(cells[column], str | list | dict):
        return f"{column!r} is of type {type(cells[column]).__name__} where text is due"
    found = ((name, cell_problem(cells.get(name))) for name in (column, "id"))
    return next((f"{name!r} {problem}" for name, problem in found if problem), "")


# --- cells -------------------------------------------------------------------------------------


def plain(cell: Any) -> str | None:
    """Return a cell as a string without outer white space, or None for a missing cell."""
    if is_missing(cell):
        return None
    return (cell.isoformat() if isinstance(cell, date) else str(cell)).strip()


def is_missing(cell: Any) -> bool:
    """Return whether a cell is null, NaN, or a text of which nothing can be seen."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and is_blank(cell))


def cell_problem(cell: Any) -> str:
    """Return why a cell cannot be stored as one text, or an empty string."""
    if isinstance(cell, list | dict):
        return "is nested; make it one plain value"
    if isinstance(cell, str) and DAMAGED.search(cell):
        return "holds a character that cannot be stored (NUL or half a surrogate pair)"
    return ""


# --- files -------------------------------------------------------------------------------------


def _place(path: Path, number: int, line: int) -> str:
    return f"{path}, row {number}" + (f" (line {line})" if line else "")


def _file_kind(path: Path, kinds: Mapping[str, str]) -> str:
    """Return the kind of a file, by its ending, after refusing one that must not be read."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file in it that holds the rows.")
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path (from {Path.cwd()}).")
    if not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is no regular file; save its content as one.")
    if path.suffix.lower() not in kinds:
        raise DataError(
            f"{path} is of unknown kind {path.suffix or 'without an ending'!r}; "
            f"save it as one of {', '.join(kinds)}."
        )
    refuse_published(path)
    return kinds[path.suffix.lower()]


def refuse_published(path: Path | str, file: int | None = None) -> None:
    """Refuse the file of a published version: read as a plain file, it has no held-out side.

    It is known by its manifest and, under another name, as the same file on the disk.

    Parameters
    ----------
    path
        Its name; only for the message where ``file`` is given.
    file
        The number of the open file, such as standard input.

    Raises
    ------
    HoldoutError
        It is one, with held-out rows.
    """
    beside = [] if file is not None else [Path(path).resolve()]
    found = Path(path).stat() if file is None else os.fstat(file)
    for place in (*beside, *data_dir().glob("*/v*/*.json")):
        if place.name == "manifest.json" or not _is_file(place, found):
            continue
        manifest = read_object(place.with_name("manifest.json"), _MANIFEST)
        if manifest and manifest["path"] == place.name and manifest["holdout"]:
            raise HoldoutError(
                f"{path} is the published file of {manifest['name']}@{manifest['version']}, "
                "held-out rows included. Name the dataset instead; only `nivesh release` opens a "
                "holdout."
            )


def _is_file(place: Path, found: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(place.stat(), found)
    return False


def _field_delimiter(path: Path, kind: str, given: str | None) -> str:
    """Return the one character between the fields of a CSV file, by default a comma."""
    if given is not None and kind != "csv":
        raise DataError(f"--delimiter is for CSV files; {path} is read as {kind}.")
    delimiter = {"\\t": "\t", "tab": "\t", None: ","}.get(given, given) or ","
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"--delimiter {delimiter!r} is not one character; try ';' or 'tab'.")
    return delimiter


def _file_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _decoded(name: object, lines: Iterable[bytes]) -> Iterator[str]:
    r"""Decode lines that end in ``\n``; ``name`` is for messages."""
    resave = 'save it again as UTF-8 (in Excel: "CSV UTF-8").'
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            _check_start(name, raw, resave)
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if b"\x00" in raw:
            raise DataError(
                f"{name}, line {number}: holds a NUL byte; the file is damaged or binary."
            )
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            byte = f"0x{raw[error.start]:02x}"
            raise DataError(f"{name}, line {number}: byte {byte} is not UTF-8; {resave}") from error


def _check_start(name: object, line: bytes, resave: str) -> None:
    for magic, kind in _BINARY.items():
        if line.startswith(magic):
            raise DataError(f"{name} is a {kind} file under another name; rename or convert it.")
    high = line[1:40:2]  # of ASCII in UTF-16, each of these is zero
    if line[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or high.count(0) > len(high) / 2:
        raise DataError(f"{name} is UTF-16, not UTF-8; {resave}")


# --- readers -----------------------------------------------------------------------------------


class _Source(NamedTuple):
    """What to read, and how."""

    path: Path
    delimiter: str
    header: Callable[[list[str]], None]  # is called before the first row, if there is a header
    only: Collection[str] | None = None  # columns, where the format can leave others out


def _csv_rows(source: _Source) -> Iterator[Row]:
    path, delimiter, header, _ = source
    lines = _decoded(path, _file_lines(path))
    # A second split, since csv takes a carriage return within a line for damage.
    parts = (part for line in lines for part in io.StringIO(line, newline=""))
    reader = csv.reader(parts, delimiter=delimiter, strict=True)
    names: list[str] = []
    line = 1
    try:
        for record in reader:
            if names and record:
                yield _csv_row(line, record, names)
            elif record:
                names = [name.strip() for name in record]
                _check_names(path, names, delimiter)
                header(names)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: {error}; is a quotation mark missing or not doubled?"
        ) from error
    if not names:
        header(names)


def _csv_row(line: int, record: list[str], names: list[str]) -> Row:
    if len(record) == len(names):
        return Row(line, dict(zip(names, record, strict=True)))
    return Row(line, {}, f"has {len(record)} fields, the header {len(names)}")


def _check_names(path: Path, names: list[str], delimiter: str) -> None:
    for other, word in {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}.items():
        if len(names) == 1 and other != delimiter and other in names[0]:
            shown = "tab" if other == "\t" else other
            raise DataError(f"{path} is separated by {word}; add --delimiter '{shown}'.")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"{path}, line 1: column {twice[0]!r} occurs twice; rename one.")


def _json_rows(source: _Source) -> Iterator[Row]:
    path = source.path
    text = "".join(_decoded(path, _file_lines(path)))
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise DataError(_json_problem(path, text, error)) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path} is nested too deeply or holds a number out of range.") from error
    if isinstance(rows, dict):
        lists = [key for key, value in rows.items() if isinstance(value, list)]
        hint = f"save the list under {lists[0]!r} by itself" if lists else "put it in [ ]"
        raise DataError(f"{path} holds one object where a list of objects is due; {hint}.")
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of objects.")
    yield from (_json_row(0, value) for value in rows)


def _json_problem(path: Path, text: str, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data" and text.lstrip().startswith("{"):
        return f"{path} is JSON Lines; rename it to .jsonl."
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"{path} is cut off at line {error.lineno}; copy or export it again."
    return f"{path}, line {error.lineno}, column {error.colno}: is not JSON ({error.msg})."


class _Repeating(dict[str, Any]):
    """An object that names a key twice, of which Python would keep the second value."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
    return _Repeating(key)


def _json_row(line: int, value: Any) -> Row:
    if isinstance(value, _Repeating):
        return Row(line, {}, f"names the key {value.key!r} twice")
    if isinstance(value, dict):
        return Row(line, value)
    return Row(line, {}, f"is a {type(value).__name__}, not an object")


def _jsonl_rows(source: _Source) -> Iterator[Row]:
    path = source.path
    lines = enumerate(_decoded(path, _file_lines(path)), start=1)
    filled = ((number, line) for number, line in lines if line.strip())
    for row, (number, line) in enumerate(filled, start=1):
        if row == 1 and line.lstrip().startswith("["):
            raise DataError(f"{path} is a JSON list; rename it to .json.")
        try:
            yield _json_row(number, json.loads(line, object_pairs_hook=_object))
        except (RecursionError, ValueError) as error:
            raise DataError(
                f"{_place(path, row, number)}: is not one JSON object; "
                "the line is cut off or spread over several."
            ) from error


def _parquet_rows(source: _Source) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            source.header(names)
            wanted = [name for name in names if source.only is None or name in source.only]
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                yield from (Row(0, cells) for cells in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source.path} is no complete Parquet file; export it again.") from error


_READERS: dict[str, Callable[[_Source], Iterator[Row]]] = {
    "csv": _csv_rows,
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
