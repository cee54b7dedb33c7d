"""The review file: doubtful rows as a CSV that a person fills in, and what they decided.

Texts in it are anonymised, since such a file is sent around; deciding on a label needs no phone
number. Cells that a spreadsheet would take for a formula begin with an apostrophe.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nivesh_lib.data.reading import Table, plain, read_table
from nivesh_lib.data.schema import normalise
from nivesh_lib.errors import DataError
from nivesh_lib.files import locked_folder, new_file
from nivesh_lib.privacy import anonymize_query

if TYPE_CHECKING:
    import pandas as pd

    from nivesh_lib.data.versions import Dataset


from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = (
    "id",
    "query",
    "label",
    "suggested",
    "score",
    "decision",
    "new_label",
    "note",
    "reviewer",
)
_NOT_READ = ("suggested", "score")
_FORMULA = ("=", "+", "-", "@")


def write_review(path: str | Path, rows: pd.DataFrame, *, reviewer: str = "") -> Path:
    """Write a file for a person to fill in; one that exists is never overwritten.

    Parameters
    ----------
    rows
        Columns ``id``, ``query``, ``label``, ``suggested`` and ``score``, the most doubtful
        first. Queries are anonymised here.
    reviewer
        Fills that column, so that it need not be typed in every line.

    Raises
    ------
    DataError
        The file exists, its folder cannot be written, or there are no rows.
    """
    path = Path(path)
    if rows.empty:
        raise DataError(f"There are no rows to review; {path} was not written.")
    with locked_folder(path.parent):  # of two writers, one comes second and finds the file
        if path.exists():
            raise DataError(
                f"{path} exists and may hold decisions; name another file with --output."
            )
        with new_file(path) as file:
            file.write("\ufeff")  # without this mark, Excel takes ₹ for three other characters
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in rows.to_dict("records"):
                writer.writerow(_cells(row, reviewer))
    return path


def _cells(row: Mapping[Any, Any], reviewer: str) -> list[str]:
    texts = {name: str(row[name]) for name in ("id", "label", "suggested")}
    texts |= {"query": anonymize_query(row["query"]), "reviewer": reviewer}
    guarded = {name: f"'{t}" if t.startswith(_FORMULA) else t for name, t in texts.items()}
    guarded["score"] = f"{row['score']:.4f}"
    return [guarded.get(name, "") for name in COLUMNS]


def read_review(
    path: str | Path,
    data: Dataset,
    *,
    labels: Collection[str] | None = None,
    delimiter: str | None = None,
) -> list[Decision]:
    """Return what a person decided; every line is checked, and all problems come in one error.

    Parameters
    ----------
    data
        The version that the review is about.
    labels
        What a row may be relabelled to; by default the version's labels.

    Raises
    ------
    DataError
        The file cannot be read, nothing is decided, or lines are wrong; named by their number.
    """
    table = read_table(path, "csv", delimiter=delimiter)
    missing = [name for name in COLUMNS if name not in table.columns and name not in _NOT_READ]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; a review file has {', '.join(COLUMNS)}. "
            "Write one with `nivesh data review`."
        )
    filled = (n for n, row in enumerate(table.rows) if any(plain(cell) for cell in row.values()))
    lines = [_line(table, number) for number in filled]  # spreadsheets leave empty rows behind
    rows = _Rows.of(data, labels)
    _refuse_another_version(path, lines, rows)
    problems = [(line.number, what) for line in lines for what in rows.problems(line)]
    problems += _repeats(lines) + _torn_twins(lines, rows)
    if problems:
        shown = "\n".join(f"  line {number}: {what}" for number, what in sorted(problems))
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise DataError(f"{path} has {count}:\n{shown}\nCorrect the file; nothing was published.")
    decided = [line.decision for line in lines if line.decision.action]
    if not decided:
        raise DataError(
            f"{path}: none of its {len(lines)} rows is decided; write {', '.join(ACTIONS)} into "
            "the column decision, and the new label of relabelled rows into new_label."
        )
    return decided


@dataclass(frozen=True)
class _Line:
    number: int
    query: str
    decision: Decision


def _line(table: Table, row: int) -> _Line:
    cells = {name: plain(cell) or "" for name, cell in table.rows[row].items()}
    for name, cell in cells.items():
        if cell[:1] == "'" and cell[1:].startswith(_FORMULA):
            cells[name] = cell[1:]
    return _Line(
        table.lines[row],
        cells["query"],
        Decision(
            cells["id"],
            cells["decision"].casefold(),
            cells["label"],
            cells["new_label"],
            cells["reviewer"],
            anonymize_query(cells["note"]),  # it goes into the manifest
        ),
    )


@dataclass(frozen=True)
class _Rows:
    """The version's training rows, for looking up what a line says of one."""

    ref: str
    query: Mapping[str, str]
    label: Mapping[str, str]
    held: frozenset[str]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset, labels: Collection[str] | None) -> _Rows:
        ids, queries = data.train["id"], data.train["query"]
        given = data.train[data.version.label_column]
        return cls(
            data.ref,
            dict(zip(ids, queries, strict=True)),
            dict(zip(ids, given, strict=True)),
            frozenset(data.manifest["holdout"]),
            tuple(labels or data.labels),
        )

    def problems(self, line: _Line) -> list[str]:
        row = line.decision.id
        if row in self.held:
            return [f"id {row!r} is held out; such rows are never reviewed"]
        if row not in self.query:
            return [f"id {row!r} is no row of {self.ref}" if row else "id is missing"]
        return [*self._changed(line), *self._undecidable(line.decision)]

    def _changed(self, line: _Line) -> list[str]:
        """Say where a line differs from the version in what a reviewer must not change."""
        found, there = [], self.label[line.decision.id]
        if normalise(line.query) != normalise(anonymize_query(self.query[line.decision.id])):
            found.append(f"the query is not that of {self.ref}; a review changes labels only")
        if line.decision.label != there:
            found.append(
                f"label is {line.decision.label!r}, in {self.ref} it is {there!r}; write another "
                "one into new_label"
            )
        return found

    def _undecidable(self, decision: Decision) -> list[str]:
        action, new = decision.action, decision.new_label
        if action and action not in ACTIONS:
            choice = ", ".join(ACTIONS)
            return [f"decision {action!r} is not {choice} or empty{_closest(action, ACTIONS)}"]
        found = []
        if new and action != "relabel":
            found.append(f"new_label is {new!r} but decision is {action or 'empty'!r}, not relabel")
        if action == "relabel" and not new:
            found.append("decision is relabel, and new_label is empty")
        if new and new not in self.labels:
            found.append(f"new_label {new!r} is not in the labels{_closest(new, self.labels)}")
        if action == "relabel" and new == self.label[decision.id]:
            found.append(f"new_label {new!r} is the label that the row has; write keep")
        if action in ("relabel", "drop") and not decision.who:
            found.append("reviewer is empty; changes are recorded with a name")
        return found


def _closest(word: str, choice: Collection[str]) -> str:
    match = difflib.get_close_matches(word, list(choice), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _refuse_another_version(path: str | Path, lines: list[_Line], rows: _Rows) -> None:
    if not any(line.decision.id in rows.query for line in lines):
        raise DataError(
            f"{path}: none of its {len(lines)} ids is a training row of {rows.ref}; name the "
            "version that the review was written for with --extends."
        )


def _repeats(lines: list[_Line]) -> list[tuple[int, str]]:
    first: dict[str, int] = {}
    for line in lines:
        first.setdefault(line.decision.id, line.number)
    return [
        (line.number, f"id {line.decision.id!r} is in line {first[line.decision.id]} already")
        for line in lines
        if line.decision.id and first[line.decision.id] != line.number
    ]


def _torn_twins(lines: list[_Line], rows: _Rows) -> list[tuple[int, str]]:
    """Find relabelled rows whose very text another row has with another label afterwards."""
    after = dict(rows.label)
    for decision in (line.decision for line in lines):
        if decision.action == "relabel" and decision.id in after:
            after[decision.id] = decision.new_label
        if decision.action == "drop":
            after.pop(decision.id, None)
    labels: dict[str, Counter[str]] = {}
    for row, label in after.items():
        labels.setdefault(normalise(rows.query[row]), Counter())[label] += 1
    return [
        (line.number, "another row has this text and another label; decide on both alike")
        for line in lines
        if line.decision.action == "relabel"
        and line.decision.id in after
        and len(labels[normalise(rows.query[line.decision.id])]) > 1
    ]


ACTIONS = ("keep", "relabel", "drop")
_DONE = {"relabel": "relabelled", "drop": "dropped", "keep": "kept"}


@dataclass(frozen=True)
class Decision:
    """What one person decided about one row; ``new_label`` only where it is relabelled."""

    id: str
    action: str
    label: str
    new_label: str = ""
    who: str = ""
    note: str = ""


def revise(base: pd.DataFrame, review: Sequence[Decision]) -> pd.DataFrame:
    """Return a version's rows as the review leaves them; sides and folds stay.

    Raises
    ------
    DataError
        Nothing is changed, or a decision is about a row that is not there, is held out, has
        another label or is decided twice.
    """
    if not review:
        return base
    if all(decision.action == "keep" for decision in review):
        raise DataError(
            f"The review changes nothing: {summary(review)}. There is no new version to publish."
        )
    train = base[base["side"] == "train"]
    label_of = dict(zip(train["id"], train["intent"], strict=True))
    new_label: dict[str, str | None] = {}
    for decision in review:
        _check(decision, label_of)
        if decision.id in new_label:
            raise DataError(f"Row {decision.id} is decided twice; keep one of the two.")
        outcome = {"keep": decision.label, "relabel": decision.new_label, "drop": None}
        new_label[decision.id] = outcome[decision.action]
    kept = base[base["id"].map(lambda row: new_label.get(row, "") is not None)]
    labels = [
        new_label.get(row) or label for row, label in zip(kept["id"], kept["intent"], strict=True)
    ]
    return kept.assign(intent=labels).reset_index(drop=True)


def _check(decision: Decision, label_of: dict[str, str]) -> None:
    if decision.action not in ACTIONS:
        raise DataError(f"Row {decision.id}: {decision.action!r} is not {', '.join(ACTIONS)}.")
    if decision.action == "relabel" and not decision.new_label:
        raise DataError(f"Row {decision.id} is to be relabelled without a new label.")
    if decision.id not in label_of:
        raise DataError(f"Row {decision.id} is no training row of the parent; leave it out.")
    if label_of[decision.id] != decision.label:
        raise DataError(
            f"Row {decision.id} has label {label_of[decision.id]!r} in the parent, not "
            f"{decision.label!r}; write the review again."
        )


def changes_of(review: Sequence[Decision], *, column: str, when: str) -> list[dict[str, Any]]:
    """Return a manifest's list of changes: id, column, from, to, who, when, note.

    A dropped row has ``"column": "row"`` and ``"to": null``.
    """
    return [
        {
            "id": decision.id,
            "column": column if decision.action == "relabel" else "row",
            "from": decision.label,
            "to": decision.new_label if decision.action == "relabel" else None,
            "who": decision.who,
            "when": when,
            "note": decision.note,
        }
        for decision in review
        if decision.action != "keep"
    ]


def summary(review: Sequence[Decision]) -> str:
    """Return such as ``review of 12 rows: 9 relabelled, 3 dropped``."""
    counts = Counter(decision.action for decision in review)
    done = ", ".join(f"{counts[action]} {word}" for action, word in _DONE.items() if counts[action])
    return f"review of {len(review)} row{'s' * (len(review) != 1)}: {done}"
