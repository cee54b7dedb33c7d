"""The variance of the scores of a run over folds, repeats, training sizes and time."""

from __future__ import annotations

from nivesh_lib.reporting.tables import (
    Cell,
    Part,
    Record,
    Row,
    count,
    interval,
    number,
    ranked,
    rows_of,
    scaled,
    share,
    table,
    text,
)

_MEANS = ("value", "mean")


def folds(record: Record) -> Part | None:
    """Return the mean and spread of macro-F1 over folds, one row a model."""
    return _over_folds(
        record,
        "folds",
        "The intervals above are about other queries for the models as they are. These are "
        "about models trained on other rows of the same size, so most are wider.",
    )


def repeats(record: Record) -> Part | None:
    """Return the same over several cross-validations, each on other folds with another seed."""
    return _over_folds(
        record,
        "repeats",
        "One division into folds is one draw. Here each model was cross-validated several "
        "times, the first time on the version's own folds.",
        title="Again on other folds, with other seeds",
    )


def _over_folds(record: Record, key: str, sentence: str, *, title: str = "") -> Part | None:
    rows = ranked(record, key, *_MEANS)
    cells = [
        (
            Cell(text(row, "model"), text(row, "metric").replace("macro_f1", "macro-F1")),
            scaled(interval(row, *_MEANS), "{:.3f}", by=1),
            scaled(interval({"std": row.get("std")}, "std"), "{:.3f}", by=1),
            count(row, "n", "folds"),
        )
        for row in rows
    ]
    if not cells:
        return None
    corrections = sorted({text(row, "correction") for row in rows} - {""})
    return Part(
        title=title,
        sentences=(sentence,),
        table=table(("Model", "Macro-F1, mean over folds", "Standard deviation", "Folds"), cells),
        note=f"95 % intervals corrected by {' and '.join(corrections)}." if corrections else "",
    )


def learning(record: Record) -> Part | None:
    """Return macro-F1 by number of training rows: a row for each model, a column for each size."""
    rows = [row for row in ranked(record, "learning", "macro_f1") if _size(row)]
    sizes = sorted({_size(row) for row in rows})
    found = {(text(row, "model"), _size(row)): row for row in rows}
    cells = [
        (Cell(model), *(_score(found.get((model, size), {})) for size in sizes))
        for model in dict.fromkeys(text(row, "model") for row in rows)
    ]
    if not cells:
        return None
    readings = [row for row in rows_of(record, "readings", "model") if text(row, "reading")]
    return Part(
        title="More labels, or a better model?",
        sentences=tuple(f"{text(row, 'model')}: {text(row, 'reading')}" for row in readings),
        table=table(("Macro-F1 with …", *(f"{size:,} rows" for size in sizes)), cells),
        note="Trained on a part of each fold's training rows and tested on the same queries. "
        "The intervals are about other queries, not about other parts of that size.",
        figure="learning",
    )


def _size(row: Row) -> int:
    """Return the number of training rows, 0 where there is none."""
    return round(number(row, "rows") or 0)


def _score(row: Row) -> Cell:
    return scaled(interval(row, "macro_f1"), "{:.3f}", by=1)


def over_time(record: Record) -> Part | None:
    """Return the best model's accuracy by when a query was asked."""
    cells = [
        (
            Cell(f"{row['first']} to {row['last']}"),
            count(row, "rows"),
            share(interval(row, "accuracy")),
        )
        for row in rows_of(record, "over_time")
        if text(row, "first") and text(row, "last") and interval(row, "accuracy")
    ]
    if not cells:
        return None
    name = text(record, "model") or "the best model"
    return Part(
        title="Are later queries harder?",
        sentences=(f"Answers of {name}, by when the query was asked.",),
        table=table(("Asked", "Queries", "Right, of 100"), cells),
        note="Folds mix dates: a fall towards the end says that later queries are harder, not "
        "that the model has aged.",
        figure="time",
    )


def temporal(record: Record) -> Part | None:
    """Return the scores of models that saw only what came before a date."""
    cells = [
        (
            Cell(text(row, "model"), f"trained before {row['cut']}"),
            count(row, "n_train"),
            Cell(text(row, "until") or "the end"),
            count(row, "n_test"),
            share(interval(row, "accuracy")),
            _score(row),
        )
        for row in ranked(record, "temporal", "accuracy")
        if text(row, "cut")
    ]
    made = table(
        ("Model", "On rows", "Tested until", "Queries", "Right, of 100", "Macro-F1"), cells
    )
    if made is None:
        return None
    return Part(
        title="Trained on what came before a date, tested on what came after",
        table=made,
        note="Later dates leave more rows to train on, and no query is tested twice.",
    )
