"""The parts of a report: sentences and tables of numbers with intervals.

A part is made from the rows that an evaluation recorded under one key. Records outlive the code
that wrote them, so a row without the fields that its part needs is left out.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nivesh_lib.records.schema import NUMBER
from nivesh_lib.runs.comparison import comparison_in

Record = Mapping[str, Any]
Row = Mapping[str, Any]


class Interval(NamedTuple):
    """A value with its 95 % interval, whose ends are None where the record has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """``text`` with ``soft`` in small letters below it, and an optional bar from 0 to 1."""

    text: str
    soft: str = ""
    bar: Interval | None = None


@dataclass(frozen=True)
class Table:
    """Column names and rows; the first cell of a row is its heading."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Part:
    """A table with the sentences before it and a note after it, each of them optional.

    ``columns`` maps the title of a column to the cell of a row in it; ``figure`` is the name of
    the step's figure of the same numbers.
    """

    title: str = ""
    sentences: tuple[str, ...] = ()
    rows: Sequence[Row] = ()
    columns: Mapping[str, Callable[[Row], Cell]] = field(default_factory=dict)
    note: str = ""
    figure: str = ""

    @property
    def table(self) -> Table | None:
        """The table without the columns, but the first, in which no row has a value."""
        if not self.rows:
            return None
        cells = {title: [cell(row) for row in self.rows] for title, cell in self.columns.items()}
        kept = [
            title
            for at, (title, column) in enumerate(cells.items())
            if at == 0 or any(cell.text not in ("", "not measured") for cell in column)
        ]
        return Table(tuple(kept), tuple(zip(*(cells[title] for title in kept), strict=True)))


@dataclass(frozen=True)
class Section:
    """A heading of the report with its parts, and the step that recorded them."""

    id: str
    title: str
    parts: tuple[Part, ...]
    step: str


Column = Callable[[Row], Cell]  # the cell of a row in one column
Builder = Callable[[Record], Part | None]  # None where the record has no usable row

PARTS: dict[str, Builder] = {}


def part_of(
    key: str,
    *,
    texts: Sequence[str] = (),
    estimates: Sequence[str] = (),
    when_empty: Part | None = None,
) -> Callable[[Callable[[Record, list[Row]], Part]], Builder]:
    """Register a function of a record and its usable rows under ``key`` as the part of that key.

    Parameters
    ----------
    texts, estimates
        Fields that a usable row has, as `rows_of` checks them. Rows of models come in the order
        of the comparison.
    when_empty
        The part of a record whose list under ``key`` is empty.
    """

    def register(build: Callable[[Record, list[Row]], Part]) -> Builder:
        @functools.wraps(build)
        def from_record(record: Record) -> Part | None:
            rows = rows_of(record, key, texts=texts, estimates=estimates)
            if rows:
                return build(record, rows)
            return when_empty if record.get(key) == [] else None

        PARTS[key] = from_record
        return from_record

    return register


# --- fields of a row ---------------------------------------------------------------------------


def number(row: Row, name: str) -> float | None:
    """Return a field as a finite number, or None where it is none."""
    value = row.get(name)
    if isinstance(value, NUMBER) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer that no float can hold
            if math.isfinite(found := float(value)):
                return found
    return None


def interval(row: Row, name: str) -> Interval | None:
    """Return a field with its interval, or None where it is no finite number.

    Records write an estimate as ``{"x": {"value": …, "low": …, "high": …}}`` or as ``x``,
    ``x_low`` and ``x_high`` side by side; the ends of a row's only estimate may be plain ``low``
    and ``high``.
    """
    inner = row.get(name)
    if isinstance(inner, Mapping):
        return interval(inner, "value")
    value = number(row, name)
    if value is None:
        return None
    ends = (f"{name}_{end}" if f"{name}_{end}" in row else end for end in ("low", "high"))
    return Interval(value, *(number(row, end) for end in ends))


def text(row: Row, name: str) -> str:
    """Return a field as text, empty where it is none."""
    value = row.get(name)
    return value if isinstance(value, str) else ""


def rows_of(
    record: Record, key: str, *, texts: Sequence[str] = (), estimates: Sequence[str] = ()
) -> list[Row]:
    """Return the rows under a key; one row may be recorded without a list.

    Parameters
    ----------
    texts, estimates
        Fields that must be non-empty texts and finite numbers. With ``model`` among the texts,
        the rows are in the order of the comparison.
    """
    value = record.get(key)
    rows = [
        row
        for row in (value if isinstance(value, list) else [value])
        if isinstance(row, Mapping)
        and all(text(row, name) for name in texts)
        and all(interval(row, name) for name in estimates)
    ]
    comparison = comparison_in(record) if "model" in texts else None
    models = [ranked.model for ranked in comparison.models] if comparison else []
    places = {model: place for place, model in enumerate(models)}
    return sorted(rows, key=lambda row: places.get(text(row, "model"), len(places)))


# --- columns of a table ------------------------------------------------------------------------


def label(name: str, soft: str = "") -> Column:
    """Return a column of a text, with another one below it."""
    return lambda row: Cell(text(row, name), text(row, soft))


def count(name: str) -> Column:
    """Return a column of whole numbers, such as rows."""

    def cell(row: Row) -> Cell:
        found = number(row, name)
        return Cell("" if found is None else f"{found:,.0f}")

    return cell


def plain(name: str, pattern: str = "{:.1f}", *, by: float = 1) -> Column:
    """Return a column of numbers times ``by``, without an interval."""

    def cell(row: Row) -> Cell:
        found = number(row, name)
        return _scaled(None if found is None else Interval(found), pattern, by)

    return cell


def score(name: str) -> Column:
    """Return a column of estimates with three digits and their intervals."""
    return lambda row: _scaled(interval(row, name), "{:.3f}", 1)


def per_cent(name: str) -> Column:
    """Return a column of shares, of 100, with their intervals."""
    return lambda row: _scaled(interval(row, name), "{:.1f}", 100)


def points(name: str) -> Column:
    """Return a column of signed differences of shares, in percentage points, with intervals."""
    return lambda row: _scaled(interval(row, name), "{:+.1f}", 100)


def share(name: str) -> Column:
    """Return a column of shares, of 100, with their intervals and a bar."""

    def cell(row: Row) -> Cell:
        found, shown = interval(row, name), per_cent(name)(row)
        if found is None or found.low is None or found.high is None:
            return shown
        ends = (found.value, found.low, found.high)
        return Cell(shown.text, shown.soft, Interval(*(min(max(x, 0.0), 1.0) for x in ends)))

    return cell


def of_100(row: Row, name: str) -> str:
    """Return a share as text, ``12.5 (10.0 to 15.4)``, empty where there is none."""
    found = interval(row, name)
    if found is None:
        return ""
    ends = _ends(found, "{:.1f}", 100)
    return f"{100 * found.value:.1f}" + (f" ({ends})" if ends else "")


def _scaled(found: Interval | None, pattern: str, by: float) -> Cell:
    if found is None:
        return Cell("not measured")
    return Cell(_unsigned_zero(pattern.format(by * found.value)), _ends(found, pattern, by))


def _ends(found: Interval, pattern: str, by: float) -> str:
    if found.low is None or found.high is None:
        return ""
    return " to ".join(_unsigned_zero(pattern.format(by * e)) for e in (found.low, found.high))


def _unsigned_zero(shown: str) -> str:
    return shown[1:] if float(shown) == 0 and shown[0] in "+-" else shown
