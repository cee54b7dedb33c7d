"""A file's cells as they are, from CSV, JSON, JSON Lines or Parquet, before they have a meaning.

`read_table` reads a file whole; `decoded_lines`, `csv_records`, `json_values` and
`parquet_batches` are what it is made of, and read no further than they are asked to. What
cannot be read is refused with one message that names file, row, line and what to do. Cells
are never quoted in a message, since they may be private.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nivesh_lib.errors import DataError, HoldoutError
from nivesh_lib.records.schema import read_object

if TYPE_CHECKING:
    import pyarrow

Found = list[tuple[int, str]]

EXTENSIONS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
QUOTE = "Quote texts that hold the delimiter."
OBJECTS = 'Each row is an object such as {"query": …, "intent": …}.'
_BINARY = {b"PAR1": "Parquet", b"PK\x03\x04": "zip or Excel", b"\x1f\x8b": "gzip"}


@dataclass(frozen=True)
class Table:
    """A file's cells as they are, before any column has a meaning."""

    path: Path
    columns: list[str]
    rows: list[dict[str, Any]]
    lines: list[int]  # where each row starts; empty where the format has no lines

    def where(self, row: int) -> str:
        """Name a row, given from 0, as a person finds it."""
        return place(self.path, row + 1, self.lines[row] if self.lines else None)


def place(path: Path, number: int, line: int | None) -> str:
    """Name a row as a person finds it: 1-based, with its line where known."""
    return f"{path}, row {number}" + (f" (line {line})" if line else "")


def refuse(table: Table, found: Found, fix: str) -> None:
    """Raise DataError for the first row of ``found``, and say how many more there are."""
    if found:
        row, what = found[0]
        more = len({number for number, _ in found}) - 1
        rest = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
        raise DataError(f"{table.where(row)}: {what}{rest}. {fix}")


def require_column(where: object, columns: Collection[str], name: str, option: str) -> None:
    """Refuse a file or row without the column that ``option`` names."""
    if name not in columns:
        raise DataError(
            f"{where} has no column {name!r}; it has {', '.join(columns) or 'none'}. "
            f"Name the right one with {option} COLUMN."
        )


def file_kind(path: Path, format: str | None = None, kinds: Mapping[str, str] = EXTENSIONS) -> str:
    """Return how a file is to be read, by its ending unless ``format`` says."""
    kind = format or kinds.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file in it that holds the rows.")
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path (from {Path.cwd()}).")
    if not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is no regular file; save its content as one.")
    if kind is None or kind not in kinds.values():
        raise DataError(
            f"{path} is of unknown kind {format or path.suffix or 'without an ending'!r}; "
            f"save it as one of {', '.join(kinds)}."
        )
    _refuse_published(path)
    return kind


def _refuse_published(path: Path) -> None:
    """Refuse the file of a published version: read as a plain file, it has no held-out side."""
    real = path.resolve()
    manifest = read_object(
        real.with_name("manifest.json"),
        {"path": str, "name": str, "version": str, "manifest_sha256": str, "holdout": list},
    )
    if manifest and manifest["path"] == real.name and manifest["holdout"]:
        raise HoldoutError(
            f"{path} is the published file of {manifest['name']}@{manifest['version']}, held-out "
            "rows included. Name the dataset instead; only `nivesh release` opens a holdout."
        )


def field_delimiter(path: Path, kind: str, given: str | None) -> str:
    """Return the one character between the fields of a CSV file: what is given, else a comma."""
    if given is not None and kind != "csv":
        raise DataError(f"--delimiter is for CSV files; {path} is read as {kind}.")
    delimiter = {"\\t": "\t", "tab": "\t", None: ","}.get(given, given) or ","
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"--delimiter {delimiter!r} is not one character; try ';' or 'tab'.")
    return delimiter


def read_table(
    path: str | Path, format: str | None = None, *, delimiter: str | None = None
) -> Table:
    """Read a file's cells without judging them."""
    path = Path(path)
    kind = file_kind(path, format)
    separator = field_delimiter(path, kind, delimiter)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.strip():
        raise DataError(f"{path} is empty; export it again.")
    table = _READERS[kind](path, raw, separator)
    if not table.rows:
        raise DataError(f"{path} has no rows, only {', '.join(table.columns) or 'an empty list'}.")
    return table


def decoded_lines(path: object, lines: Iterable[bytes]) -> Iterator[str]:
    r"""Decode lines that end in ``\n``, such as those of a file opened for bytes."""
    resave = 'save it again as UTF-8 (in Excel: "CSV UTF-8").'
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            _check_start(path, raw, resave)
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if b"\x00" in raw:
            raise DataError(
                f"{path}, line {number}: holds a NUL byte; the file is damaged or binary."
            )
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            byte = f"0x{raw[error.start]:02x}"
            raise DataError(f"{path}, line {number}: byte {byte} is not UTF-8; {resave}") from error


def _check_start(path: object, line: bytes, resave: str) -> None:
    for magic, kind in _BINARY.items():
        if line.startswith(magic):
            raise DataError(f"{path} is a {kind} file under another name; rename or convert it.")
    high = line[1:40:2]  # of ASCII in UTF-16, each of these is zero
    if line[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or high.count(0) > len(high) / 2:
        raise DataError(f"{path} is UTF-16, not UTF-8; {resave}")


def _decode(path: Path, raw: bytes) -> str:
    return "".join(decoded_lines(path, io.BytesIO(raw)))


def csv_records(
    path: Path, lines: Iterable[str], delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then every record that is not blank, each with the line it starts on."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line, header = 1, True
    try:
        for record in reader:
            if record and header:
                record, header = [name.strip() for name in record], False
                _check_header(path, record, delimiter)
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: {error}; is a quotation mark missing or not doubled?"
        ) from error


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    for other, name in {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}.items():
        if len(header) == 1 and other != delimiter and other in header[0]:
            shown = "tab" if other == "\t" else other
            raise DataError(f"{path} is separated by {name}; add --delimiter '{shown}'.")
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise DataError(f"{path}, line 1: column {twice[0]!r} occurs twice; rename one.")


def uneven(record: list[str], header: list[str]) -> str | None:
    """Say what is wrong with a record that does not fit its header."""
    if len(record) == len(header):
        return None
    return f"has {len(record)} fields, the header {len(header)}"


def _read_csv(path: Path, raw: bytes, delimiter: str) -> Table:
    text = io.StringIO(_decode(path, raw), newline="")
    (_, header), *records = list(csv_records(path, text, delimiter)) or [(1, [])]
    rows = [dict(zip(header, record, strict=False)) for _, record in records]
    table = Table(path, header, rows, [line for line, _ in records])
    odd = [(row, why) for row, (_, r) in enumerate(records) if (why := uneven(r, header))]
    refuse(table, odd, QUOTE)
    return table


def read_json(path: Path, raw: bytes, _: str = "") -> Table:
    """Read a JSON list of objects, which may be empty."""
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


def json_values(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Yield the value of every line that is not blank, with the line's number."""
    row = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row += 1
        if row == 1 and line.lstrip().startswith("["):
            raise DataError(f"{path} is a JSON list; rename it to .json.")
        try:
            yield number, json.loads(line)
        except (RecursionError, ValueError) as error:
            raise DataError(
                f"{place(path, row, number)}: is not one JSON object; "
                "the line is cut off or spread over several."
            ) from error


def _read_jsonl(path: Path, raw: bytes, _: str = "") -> Table:
    values = list(json_values(path, io.StringIO(_decode(path, raw), newline="\n")))
    return _objects(path, [value for _, value in values], [line for line, _ in values])


def no_object(value: Any) -> str | None:
    """Say what is wrong with a row of JSON that is no object."""
    return None if type(value) is dict else f"is a {type(value).__name__}, not an object"


def _objects(path: Path, rows: list[Any], lines: list[int]) -> Table:
    table = Table(path, [], rows, lines)
    refuse(table, [(n, why) for n, r in enumerate(rows) if (why := no_object(r))], OBJECTS)
    table.columns.extend(dict.fromkeys(key for row in rows for key in row))
    return table


def parquet_batches(
    path: Path, choose: Callable[[list[str]], list[str]], rows: int
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the columns that ``choose`` picks from all, so many rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = choose(file.schema_arrow.names)
            yield from file.iter_batches(batch_size=rows, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken_parquet(path) from error


def _read_parquet(path: Path, raw: bytes, _: str = "") -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken_parquet(path) from error
    return Table(path, list(table.column_names), table.to_pylist(), [])


def _broken_parquet(path: Path) -> DataError:
    return DataError(f"{path} is no complete Parquet file; export it again.")


_READERS: dict[str, Callable[[Path, bytes, str], Table]] = {
    "csv": _read_csv,
    "json": read_json,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
