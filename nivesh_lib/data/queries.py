"""Unlabelled texts to be answered, one at a time, so that a file may be longer than memory.

Only a JSON file is read whole. A row that cannot be answered is refused when its turn comes,
with a message that names file, row and column and quotes no text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nivesh_lib.data.importing import DAMAGED, plain
from nivesh_lib.data.tables import (
    EXTENSIONS,
    OBJECTS,
    QUOTE,
    csv_records,
    decoded_lines,
    field_delimiter,
    file_kind,
    json_values,
    no_object,
    parquet_batches,
    place,
    read_json,
    require_column,
    uneven,
)
from nivesh_lib.errors import DataError

KINDS = {".txt": "txt", **EXTENSIONS}
_ROWS = 256  # of a Parquet file that are read at once

Rows = Iterator[tuple[int | None, dict[str, Any]]]  # the line where known, and the cells


class Query(NamedTuple):
    """A text and what tells it from the others: ``row`` from 1, ``id`` where the file has one."""

    text: str
    origin: dict[str, Any]


def read_queries(
    path: Path | str, text: str | None = None, *, delimiter: str | None = None
) -> Iterator[Query]:
    """Read the texts of a file: lines of .txt, else the column ``text`` (by default ``query``).

    Raises
    ------
    DataError
        At once for a file that is missing or of unknown kind, later for what is in it.
    """
    path = Path(path)
    kind = file_kind(path, kinds=KINDS)
    separator = field_delimiter(path, kind, delimiter)
    if kind == "txt" and text is not None:
        raise DataError(f"--text names a column; {path} has none, only one text a line.")
    if kind == "txt":
        return query_lines(path, _bytes_lines(path))
    column = text or "query"
    return _queries(path, _READERS[kind](path, column, separator), column)


def query_lines(name: object, lines: Iterable[bytes]) -> Iterator[Query]:
    """Take every line, blank ones too, as one text; ``name`` is for messages."""
    for row, line in enumerate(decoded_lines(name, lines), start=1):
        yield Query(line.removesuffix("\n").removesuffix("\r"), {"row": row})


def _bytes_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _queries(path: Path, rows: Rows, column: str) -> Iterator[Query]:
    for number, (line, cells) in enumerate(rows, start=1):
        if column not in cells:
            require_column(place(path, number, line), cells, column, "--text")
        why = _trouble(column, cells[column])
        origin = {"row": number}
        if "id" in cells and column != "id":
            why = why or _nested_or_damaged("id", cells["id"])
            origin["id"] = _id(cells["id"])
        if why:
            raise DataError(f"{place(path, number, line)}: {why}. Mend or delete the row.")
        yield Query(cells[column], origin)


def _trouble(column: str, cell: Any) -> str | None:
    if cell is None:
        return f"{column!r} is missing"
    if not isinstance(cell, str | list | dict):
        return f"{column!r} is of type {type(cell).__name__} where text is due"
    return _nested_or_damaged(column, cell)


def _nested_or_damaged(column: str, cell: Any) -> str | None:
    if isinstance(cell, list | dict):
        return f"{column!r} is nested; make it one plain value"
    if isinstance(cell, str) and DAMAGED.search(cell):
        return f"{column!r} holds a character that cannot be stored (NUL or half a surrogate pair)"
    return None


def _id(cell: Any) -> Any:
    """Keep a text or a whole number as it is, so that answers can be joined to the file."""
    return cell if isinstance(cell, str | int) else plain(cell)


def _csv_rows(path: Path, column: str, delimiter: str) -> Rows:
    lines = decoded_lines(path, _bytes_lines(path))
    # A second split, since csv takes a carriage return within a line for damage.
    pieces = (piece for line in lines for piece in io.StringIO(line, newline=""))
    records = csv_records(path, pieces, delimiter)
    _, header = next(records, (1, []))
    require_column(path, header, column, "--text")
    for number, (line, record) in enumerate(records, start=1):
        why = uneven(record, header)
        if why:
            raise DataError(f"{place(path, number, line)}: {why}. {QUOTE}")
        yield line, dict(zip(header, record, strict=True))


def _json_rows(path: Path, column: str, _: str) -> Rows:
    for cells in read_json(path, path.read_bytes()).rows:
        yield None, cells


def _jsonl_rows(path: Path, column: str, _: str) -> Rows:
    values = json_values(path, decoded_lines(path, _bytes_lines(path)))
    for number, (line, value) in enumerate(values, start=1):
        why = no_object(value)
        if why:
            raise DataError(f"{place(path, number, line)}: {why}. {OBJECTS}")
        yield line, value


def _parquet_rows(path: Path, column: str, _: str) -> Rows:
    def wanted(columns: list[str]) -> list[str]:
        require_column(path, columns, column, "--text")
        return [name for name in columns if name in (column, "id")]

    for batch in parquet_batches(path, wanted, _ROWS):
        for cells in batch.to_pylist():
            yield None, cells


_READERS: dict[str, Callable[[Path, str, str], Rows]] = {
    "csv": _csv_rows,
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
