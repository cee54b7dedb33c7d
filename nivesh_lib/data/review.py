"""The label review: a CSV of doubtful rows that a person fills in, and the decisions in it.

Texts in the file are anonymised, since it may be sent to others; deciding on a label needs no
phone number. Cells that a spreadsheet would take for a formula begin with an apostrophe.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.data.reading import Table, plain, read_table
from nivesh_lib.data.schema import closest, conflicting_rows, normalise
from nivesh_lib.data.versions import Dataset
from nivesh_lib.errors import DataError
from nivesh_lib.files import locked_folder, new_file
from nivesh_lib.privacy import anonymize_query

COLUMNS = (
    *("id", "query", "label", "suggested", "score"),
    *("decision", "new_label", "note", "reviewer"),
)
ACTIONS = ("keep", "relabel", "drop")
_NOT_READ = ("suggested", "score")
_FORMULA = ("=", "+", "-", "@")
_DONE = {
    **{"relabel": "relabelled", "drop": "dropped", "keep": "kept"},
    **{"add": "added", "reject": "rejected"},
}


@dataclass(frozen=True)
class Decision:
    """The decision of one person on one row; ``new_label`` only where it is relabelled or added.

    Beside the `ACTIONS` on rows of a version there are ``add`` and ``reject``, of a correction.
    """

    id: str
    action: str
    label: str
    new_label: str = ""
    who: str = ""
    note: str = ""


# --- the file ----------------------------------------------------------------------------------


def write_review(path: str | Path, rows: pd.DataFrame, *, reviewer: str = "") -> Path:
    """Write a file for a person to fill in; one that exists is never overwritten.

    Parameters
    ----------
    rows
        Columns ``id``, ``query``, ``label``, ``suggested`` and ``score``, the most doubtful
        first. Queries are anonymised here; the score may be left out.
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
                f"{path} exists and may hold decisions; name another file with --output, or rename "
                "this one."
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
    guarded["score"] = f"{row['score']:.4f}" if "score" in row else ""
    return [guarded.get(name, "") for name in COLUMNS]


def read_review(
    path: str | Path,
    data: Dataset,
    *,
    labels: Collection[str] | None = None,
    delimiter: str | None = None,
) -> list[Decision]:
    """Return the decisions in a file; every line is checked, and one error lists all problems.

    Parameters
    ----------
    data
        The version that the review is about.
    labels
        The labels to choose from; by default those of the version.

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
    version = _Version.of(data, labels)
    if not any(line.decision.id in version.query for line in lines):
        raise DataError(
            f"{path}: none of its {len(lines)} ids is a training row of {data.ref}; name what the "
            "review was written for: the version with --extends, corrections with --feedback."
        )
    problems = [(line.number, what) for line in lines for what in version.problems(line)]
    problems += [*_repeated_ids(lines), *version.conflicts(lines)]
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
    action, note = cells["decision"].casefold(), anonymize_query(cells["note"])  # goes on record
    decision = Decision(
        cells["id"], action, cells["label"], cells["new_label"], cells["reviewer"], note
    )
    return _Line(table.lines[row], cells["query"], decision)


def _repeated_ids(lines: list[_Line]) -> Iterator[tuple[int, str]]:
    first: dict[str, int] = {}
    for line in lines:
        row = line.decision.id
        if row and first.setdefault(row, line.number) != line.number:
            yield line.number, f"id {row!r} is in line {first[row]} already"


@dataclass(frozen=True)
class _Version:
    """The reviewed version: query and label of each training row by id, and the labels."""

    ref: str
    query: Mapping[str, str]
    label: Mapping[str, str]
    held: frozenset[str]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset, labels: Collection[str] | None) -> _Version:
        ids, label = data.train["id"], data.version.label_column
        return cls(
            data.ref,
            dict(zip(ids, data.train["query"], strict=True)),
            dict(zip(ids, data.train[label], strict=True)),
            frozenset(data.manifest["holdout"]),
            tuple(labels or data.labels),
        )

    def problems(self, line: _Line) -> list[str]:
        """Return what is wrong with a line by itself."""
        row = line.decision.id
        if row in self.held:
            return [f"id {row!r} is held out; such rows are never reviewed"]
        if row not in self.query:
            return [f"id {row!r} is no row of {self.ref}" if row else "id is missing"]
        return [*self._changed(line), *self._undecidable(line.decision)]

    def _changed(self, line: _Line) -> Iterator[str]:
        """Yield where a line differs from the version in what a reviewer must not change."""
        label = self.label[line.decision.id]
        if normalise(line.query) != normalise(anonymize_query(self.query[line.decision.id])):
            yield f"the query is not that of {self.ref}; a review changes labels only"
        if line.decision.label != label:
            yield (
                f"label is {line.decision.label!r}, in {self.ref} it is {label!r}; write another "
                "one into new_label"
            )

    def _undecidable(self, decision: Decision) -> Iterator[str]:
        action, new = decision.action, decision.new_label
        if action and action not in ACTIONS:
            choice = ", ".join(ACTIONS)
            yield f"decision {action!r} is not {choice} or empty{closest(action, ACTIONS)}"
            return
        if new and action != "relabel":
            yield f"new_label is {new!r} but decision is {action or 'empty'!r}, not relabel"
        if action == "relabel" and not new:
            yield "decision is relabel, and new_label is empty"
        if new and new not in self.labels:
            yield f"new_label {new!r} is not in the labels{closest(new, self.labels)}"
        if action == "relabel" and new == self.label[decision.id]:
            yield f"new_label {new!r} is the label that the row has; write keep"
        if action in ("relabel", "drop") and not decision.who:
            yield "reviewer is empty; changes are recorded with a name"

    def conflicts(self, lines: list[_Line]) -> Iterator[tuple[int, str]]:
        """Yield relabelled rows whose text another row has with another label afterwards."""
        after = _labels_after(self.label, [line.decision for line in lines])
        rows = list(after)
        texts = [normalise(self.query[row]) for row in rows]
        conflicting = {rows[n] for n in conflicting_rows(texts, after.values())}
        for line in lines:
            if line.decision.action == "relabel" and line.decision.id in conflicting:
                what = "another row has this text and another label; decide on both alike"
                yield line.number, what


# --- the decisions -----------------------------------------------------------------------------


def revise(base: pd.DataFrame, review: Sequence[Decision]) -> pd.DataFrame:
    """Return a version's rows as the review leaves them; sides and folds stay.

    Raises
    ------
    DataError
        Nothing is changed, or a decision is about a row that is not there, is held out or has
        another label.
    """
    review = [decision for decision in review if decision.action in ACTIONS]
    if not review:
        return base
    if all(decision.action == "keep" for decision in review):
        raise DataError(
            f"The review changes nothing: {summary(review)}. There is no new version to publish."
        )
    train = base[base["side"] == "train"]
    label_of = dict(zip(train["id"], train["intent"], strict=True))
    for decision in review:  # of a draft, which may have been replaced since the review was read
        if label_of.get(decision.id) != decision.label:
            raise DataError(
                f"Row {decision.id} is no training row of the parent with label "
                f"{decision.label!r}; write the review again."
            )
    after = _labels_after(dict(zip(base["id"], base["intent"], strict=True)), review)
    kept = base[base["id"].isin(after.keys())].reset_index(drop=True)
    return kept.assign(intent=list(after.values()))


def _labels_after(label_of: Mapping[str, str], review: Sequence[Decision]) -> dict[str, str]:
    """Return the labels by row id as a review leaves them, without the rows that it drops."""
    relabelled = {d.id: d.new_label for d in review if d.action == "relabel"}
    dropped = {d.id for d in review if d.action == "drop"}
    return {row: relabelled.get(row, old) for row, old in label_of.items() if row not in dropped}


def changes_of(review: Sequence[Decision], *, column: str, when: str) -> list[dict[str, Any]]:
    """Return a manifest's list of changes: id, column, from, to, who, when, note.

    A dropped or rejected row has ``"column": "row"`` and ``"to": null``, an added one ``"from":
    null``.
    """
    return [
        {
            "id": decision.id,
            "column": column if decision.action == "relabel" else "row",
            "from": None if decision.action == "add" else decision.label,
            "to": decision.new_label or None,
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
