"""What a section of the report is made of: sentences and tables of numbers with intervals."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """``text``, ``soft`` in small letters below it, and perhaps a bar on an axis from 0 to 1."""

    text: str
    soft: str = ""
    bar: Interval | None = None


@dataclass(frozen=True)
class Table:
    """Column names and rows; the first cell of a row names it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Part:
    """A table with the sentences before it and a note after it; any of them may be missing.

    ``figure`` is the name under which its step left one of the same.
    """

    title: str = ""
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    note: str = ""
    figure: str = ""


@dataclass(frozen=True)
class Section:
    """A heading of the report, what stands below it, and the step it all came from."""

    id: str
    title: str
    parts: tuple[Part, ...]
    step: str


def number(row: Row, *names: str) -> float | None:
    """Return the first of these that is a finite number, or None."""
    for name in names:
        value = row.get(name)
        if isinstance(value, NUMBER) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # an integer that no float can hold
                if math.isfinite(found := float(value)):
                    return found
    return None


def interval(row: Row, *names: str) -> Interval | None:
    """Return the first of these with its interval, or None.

    Records write an estimate as ``{"x": {"value": …, "low": …, "high": …}}`` or as ``x``,
    ``x_low`` and ``x_high`` side by side; of a row's only estimate the ends may be plain ``low``
    and ``high``.
    """
    for name in names:
        inner = row.get(name)
        if isinstance(inner, Mapping) and (value := number(inner, "value")) is not None:
            return Interval(value, number(inner, "low"), number(inner, "high"))
        if (value := number(row, name)) is not None:
            ends = (number(row, f"{name}_{end}", end) for end in ("low", "high"))
            return Interval(value, *ends)
    return None


def text(row: Row, *names: str) -> str:
    """Return the first of these that is a text, or an empty one."""
    return next((row[name] for name in names if isinstance(row.get(name), str)), "")


def rows_of(record: Record, key: str, *needed: str) -> list[Row]:
    """Return the rows under a key that have what is needed; one row may stand without a list."""
    value = record.get(key)
    rows = value if isinstance(value, list) else [value]
    return [row for row in rows if isinstance(row, Mapping) and all(name in row for name in needed)]


def ranked(record: Record, key: str, *names: str) -> list[Row]:
    """Return the rows of models that have an estimate, in the order of the comparison."""
    comparison = comparison_in(record)
    models = comparison.models if comparison else []
    known = {model.model: place for place, model in enumerate(models)}
    rows = [row for row in rows_of(record, key, "model") if interval(row, *names)]
    return sorted(rows, key=lambda row: known.get(text(row, "model"), len(known)))


def scaled(found: Interval | None, pattern: str = "{:.1f}", *, by: float = 100) -> Cell:
    """Return a cell for an interval times ``by``: of 100, or in points."""
    if found is None:
        return Cell("not measured")
    return Cell(_unsigned_zero(pattern.format(by * found.value)), _ends(found, pattern, by))


def _ends(found: Interval, pattern: str, by: float) -> str:
    if found.low is None or found.high is None:
        return ""
    return " to ".join(_unsigned_zero(pattern.format(by * e)) for e in (found.low, found.high))


def _unsigned_zero(shown: str) -> str:
    return shown[1:] if float(shown) == 0 and shown[0] in "+-" else shown


def share(found: Interval | None) -> Cell:
    """Return a cell for a share: how many of 100, with a bar."""
    cell = scaled(found)
    if found is None or found.low is None or found.high is None:
        return cell
    inside = Interval(*(min(max(end, 0.0), 1.0) for end in (found.value, found.low, found.high)))
    return Cell(cell.text, cell.soft, inside)


def of_100(found: Interval) -> str:
    """Return a share as text: ``12.5 (10.0 to 15.4)``."""
    ends = _ends(found, "{:.1f}", 100)
    return f"{100 * found.value:.1f}" + (f" ({ends})" if ends else "")


def count(row: Row, *names: str) -> Cell:
    """Return a cell for a number of rows."""
    found = number(row, *names)
    return Cell("" if found is None else f"{found:,.0f}")


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table | None:
    """Return a table without the columns in which no row has anything; None without rows."""
    kept = [
        at
        for at in range(len(columns))
        if at == 0 or any(row[at].text not in ("", "not measured") for row in rows)
    ]
    if not rows:
        return None
    return Table(
        tuple(columns[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)
    )
