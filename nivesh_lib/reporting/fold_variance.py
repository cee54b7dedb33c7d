"""The variance of the scores of a run over folds, repeats, training sizes and time."""

from __future__ import annotations

from typing import Any

from nivesh_lib.reporting.tables import (
    Cell,
    Part,
    Record,
    Row,
    count,
    interval,
    label,
    part_of,
    plain,
    rows_of,
    score,
    share,
    text,
)


@part_of("folds", texts=["model"], estimates=["mean"])
def folds(record: Record, rows: list[Row]) -> Part:
    """Return the mean and spread of macro-F1 over folds, one row for each model."""
    return _over_folds(
        rows,
        "The intervals above are about other queries for the models as they are. These are "
        "about models trained on other rows of the same size, so most are wider.",
        mean="mean",
        n="folds",
    )


@part_of("repeats", texts=["model"], estimates=["value"])
def repeats(record: Record, rows: list[Row]) -> Part:
    """Return the same over several cross-validations, each on other folds with another seed."""
    return _over_folds(
        rows,
        "One division into folds is one draw. Here each model was cross-validated several "
        "times, the first time on the version's own folds.",
        mean="value",
        n="n",
        title="Again on other folds, with other seeds",
    )


def _over_folds(rows: list[Row], sentence: str, *, mean: str, n: str, title: str = "") -> Part:
    corrections = sorted({text(row, "correction") for row in rows} - {""})
    return Part(
        title=title,
        sentences=(sentence,),
        rows=rows,
        columns={
            "Model": label("model"),
            "Macro-F1, mean over folds": score(mean),
            "Standard deviation": plain("std", "{:.3f}"),
            "Folds": count(n),
        },
        note=f"95 % intervals corrected by {' and '.join(corrections)}." if corrections else "",
    )


@part_of("learning", texts=["model"], estimates=["macro_f1", "rows"])
def learning(record: Record, rows: list[Row]) -> Part:
    """Return macro-F1 by number of training rows: a row for each model, a column for each size."""
    curves: dict[str, dict[str, Any]] = {}  # one row for each model, an estimate for each size
    for row in rows:
        curve = curves.setdefault(row["model"], {"model": row["model"]})
        if found := interval(row, "macro_f1"):
            curve[_size(row)] = found._asdict()
    sizes = dict.fromkeys(_size(row) for row in sorted(rows, key=lambda row: row["rows"]))
    readings = rows_of(record, "readings", texts=["model", "reading"])
    return Part(
        title="More labels, or a better model?",
        sentences=tuple(f"{row['model']}: {row['reading']}" for row in readings),
        rows=list(curves.values()),
        columns={"Macro-F1 with …": label("model"), **{size: score(size) for size in sizes}},
        note="Trained on a part of each fold's training rows and tested on the same queries. "
        "The intervals are about other queries, not about other parts of that size.",
        figure="learning",
    )


def _size(row: Row) -> str:
    return f"{row['rows']:,.0f} rows"


@part_of("over_time", texts=["first", "last"], estimates=["accuracy"])
def over_time(record: Record, rows: list[Row]) -> Part:
    """Return the best model's accuracy by the date of the query."""
    name = text(record, "model") or "the best model"
    return Part(
        title="Are later queries harder?",
        sentences=(f"Answers of {name}, by when the query was asked.",),
        rows=rows,
        columns={
            "Asked": lambda row: Cell(f"{row['first']} to {row['last']}"),
            "Queries": count("rows"),
            "Right, of 100": share("accuracy"),
        },
        note="Folds mix dates: a fall towards the end says that later queries are harder, not "
        "that the model has aged.",
        figure="time",
    )


@part_of("temporal", texts=["model", "cut"], estimates=["accuracy"])
def temporal(record: Record, rows: list[Row]) -> Part:
    """Return the scores of models that were trained on the rows before a date."""
    return Part(
        title="Trained on what came before a date, tested on what came after",
        rows=rows,
        columns={
            "Model": lambda row: Cell(row["model"], f"trained before {row['cut']}"),
            "On rows": count("n_train"),
            "Tested until": lambda row: Cell(text(row, "until") or "the end"),
            "Queries": count("n_test"),
            "Right, of 100": share("accuracy"),
            "Macro-F1": score("macro_f1"),
        },
        note="Later dates leave more rows to train on, and no query is tested twice.",
    )
