"""Temporal validation: train on rows before a date, test on rows after it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.intervals import MIN_ROWS
from nivesh_lib.evaluation.scores import METRICS, headline_mask, score
from nivesh_lib.records.estimate import as_columns


def temporal_scores(
    model: Any,
    frame: pd.DataFrame,
    *,
    cuts: int = 3,
    n_boot: int = 2000,
    seed: int = 42,
) -> pd.DataFrame:
    """Return scores of models trained on earlier rows only, one row for each cut-off date.

    The dates are quantiles of time, so that test parts have about equally many rows. A clone of
    ``model`` is trained on all rows before a date and tested on the natural rows from then until
    the next, so that no row is tested twice. Later cuts have more training rows, and
    near-duplicates across a date are kept, as they would occur in production.

    Returns
    -------
    pandas.DataFrame
        cut, until (dates; empty text for the last part, which is open), n_train, n_test, n_unseen
        (test rows of a label that training lacks), and each metric with ``_low`` and ``_high``.
        Rows without a date are left out, and so are parts of fewer than 20 test rows or with one
        training label; empty where none is left.

    Raises
    ------
    ValueError
        ``cuts`` below one.
    DataError
        A date that cannot be read.
    """
    if cuts < 1:
        raise ValueError(f"cuts is {cuts}; at least 1 is needed")
    dated = frame[_has_date(frame)]
    moments = _dates(dated)
    natural = headline_mask(dated)
    edges = _edges(moments[natural], cuts) if natural.any() else []
    rows = []
    after = moments.max() + pd.Timedelta(days=1)
    for start, end in pairwise([*edges, after]):
        train = (moments < start).to_numpy()
        test = natural & ((moments >= start) & (moments < end)).to_numpy()
        known, true = dated.loc[train, "intent"], dated.loc[test, "intent"]
        if len(true) < MIN_ROWS or known.nunique() < 2:
            continue
        fitted = clone(model).fit(dated.loc[train, "query"].tolist(), known.tolist())
        predicted = fitted.predict(dated.loc[test, "query"].tolist())
        sizes = {"n_train": len(known), "n_test": len(true)}
        rows.append(
            {"cut": _day(start), "until": "" if end == after else _day(end), **sizes}
            | {"n_unseen": int((~true.isin(known)).sum())}
            | as_columns(score(true, predicted, n_boot=n_boot, seed=seed))
        )
    names = [f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["cut", "until", "n_train", "n_test", "n_unseen", *names])


def periods(frame: pd.DataFrame, *, parts: int = 5) -> dict[str, np.ndarray]:
    """Return a mask of rows for each period, of about equally many rows, by date of the query.

    Folds mix dates, so a model was trained on both earlier and later rows: a fall towards the end
    means that later queries are harder. `temporal_scores` measures how a model ages.

    Returns
    -------
    dict
        ``first to last`` date -> rows. Empty where dated rows are fewer than 20 for each part.
    """
    dated = _has_date(frame)
    if dated.sum() < parts * MIN_ROWS:
        return {}
    days = _dates(frame[dated]).dt.floor("D")
    edges = np.unique(days.quantile(np.linspace(0, 1, parts + 1)[1:-1], interpolation="higher"))
    part = np.full(len(frame), -1)
    part[dated] = np.searchsorted(edges, days, side="right")  # rows of one day stay together
    masks = [part == number for number in np.unique(part[dated])]
    spans = [days[mask[dated]] for mask in masks]
    return {
        f"{_day(span.min())} to {_day(span.max())}": mask
        for span, mask in zip(spans, masks, strict=True)
    }


def _has_date(frame: pd.DataFrame) -> np.ndarray:
    if "created_at" not in frame:
        return np.zeros(len(frame), dtype=bool)
    return frame["created_at"].notna().to_numpy(dtype=bool)


def _dates(frame: pd.DataFrame) -> pd.Series:
    column = frame.get("created_at", pd.Series(dtype=object))
    read = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
    if read.isna().any():
        raise DataError(
            f"column 'created_at' holds {column[read.isna()].iloc[0]!r}, which is no date; "
            "write dates as 2026-01-31"
        )
    return read


def _edges(moments: pd.Series, cuts: int) -> list[pd.Timestamp]:
    """Return the dates at quantiles; rows of one day stay together, so there may be fewer."""
    shares = np.linspace(0, 1, cuts + 2)[1:-1]
    days = moments.dt.floor("D")
    return sorted(set(days.quantile(shares, interpolation="higher")) - {days.min()})


def _day(moment: pd.Timestamp) -> str:
    return f"{moment:%Y-%m-%d}"
