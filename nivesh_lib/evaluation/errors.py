"""Error analysis: label errors, overlapping intents, groups.

Tables name rows by id and hold no text: callers join texts and anonymise what they show.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.intervals import MIN_ROWS, percentile_interval, share_of, wilson
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    label_positions,
    probabilities,
)
from nivesh_lib.evaluation.scores import Column, confusion
from nivesh_lib.records.estimate import Estimate


def likely_label_errors(
    frame: pd.DataFrame, oof: pd.DataFrame, *, label: str = "intent"
) -> pd.DataFrame:
    """Return the rows whose given label is likely wrong, the least plausible first.

    Confident learning (Northcutt, Jiang and Chuang 2021): a row is flagged where a model that
    was not trained on it gives another label a higher probability than it usually gives that
    label's own rows.

    Parameters
    ----------
    frame
        Columns ``id`` and ``label``: the rows to examine.
    oof
        Out-of-fold probabilities, which must cover these rows.

    Returns
    -------
    pd.DataFrame
        ``id``, ``label``, ``suggested`` (the most probable label) and ``score``: the probability
        of the given label, from 0 to 1.

    Raises
    ------
    ValueError
        A row without probabilities, or a label without a column.
    """
    from cleanlab.filter import find_label_issues

    table = probabilities(aligned(oof, frame["id"]))
    given = label_positions(table, frame[label])
    proba = table.to_numpy(dtype=float)
    found = pd.DataFrame({"id": frame["id"].to_numpy(), "label": frame[label].to_numpy()})
    found["suggested"] = table.columns.to_numpy(dtype=object)[proba.argmax(axis=1)]
    found["score"] = proba[np.arange(len(given)), given]
    if found.empty:
        return found
    with warnings.catch_warnings():
        # It warns of labels with at most one row, which give no threshold to compare with.
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
        flagged = find_label_issues(
            given, proba, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    return found.iloc[flagged].reset_index(drop=True)


def overlapping_intents(y_true: Column, y_pred: Column, labels: Sequence[str]) -> pd.DataFrame:
    """Return the pairs of labels whose rows are confused in both directions, the worst first.

    Confusion in one direction may be a bias of the model towards a label; in both directions the
    texts do not separate the two, so their definitions or labels should be reviewed.

    Returns
    -------
    pd.DataFrame
        ``first``, ``second``, ``first_as_second`` and ``second_as_first`` (rows), ``share`` of
        both labels' rows with its 95 % interval ``low``, ``high`` (Wilson), and ``n``, these
        rows. The intervals are not corrected for the number of pairs.
    """
    counts = confusion(y_true, y_pred, labels).to_numpy()
    support = counts.sum(axis=1)
    rows = []
    for i, j in itertools.combinations(range(len(labels)), 2):
        there, back = int(counts[i, j]), int(counts[j, i])
        if there and back:
            n = int(support[i] + support[j])
            share = (there + back) / n
            rows.append((labels[i], labels[j], there, back, share, *wilson(share, n), n))
    rows.sort(key=lambda row: (-row[4], row[:2]))
    columns = ["first", "second", "first_as_second", "second_as_first", "share", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def shares_of_errors(
    right: np.ndarray, groups: Mapping[str, np.ndarray], *, n_boot: int = 2000, seed: int = 42
) -> pd.DataFrame:
    """Return each group's share of the errors and the accuracy it costs, largest cost first.

    A large group holds many errors without being harder than the rest. ``gain`` is the accuracy
    gained if the group were as accurate as all other rows: the attributable fraction of
    epidemiology (Levin 1953) on the scale of accuracy. Groups overlap, so gains do not add up.

    Parameters
    ----------
    right
        Whether each answer was right, shape (n,).
    groups
        Name -> rows. Groups with fewer than 20 rows inside or outside, and groups without a
        wrong row, are left out.

    Returns
    -------
    DataFrame
        group, rows, wrong; ``share`` of all errors with ``share_low`` and ``share_high``
        (Wilson); ``error_rate`` in the group and ``rest_error_rate`` outside it; ``gain`` with
        ``gain_low`` and ``gain_high`` (percentile bootstrap over rows).
    """
    wrong = ~np.asarray(right, dtype=bool)
    rng, n, rows = np.random.default_rng(seed), len(wrong), []
    for name, mask in groups.items():
        inside = int(mask.sum())
        if min(inside, n - inside) < MIN_ROWS or not (wrong & mask).any():
            continue
        share = share_of(mask[wrong])
        cells = [wrong & mask, ~wrong & mask, wrong & ~mask, ~wrong & ~mask]
        counts = np.array([cell.sum() for cell in cells])
        # Drawing rows with replacement draws the four counts from a multinomial.
        drawn = _gain(rng.multinomial(n, counts / n, size=n_boot))
        gain = Estimate(float(_gain(counts[None, :])[0]), *percentile_interval(drawn), n)
        rows.append(
            {"group": name, "rows": inside, "wrong": int(counts[0]), **share.columns("share")}
            | {"error_rate": float(counts[0] / inside)}
            | {"rest_error_rate": float(counts[2] / (n - inside)), **gain.columns("gain")}
        )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


_COLUMNS = [
    *("group", "rows", "wrong", "share", "share_low", "share_high"),
    *("error_rate", "rest_error_rate", "gain", "gain_low", "gain_high"),
]


def _gain(counts: np.ndarray) -> np.ndarray:
    """Return the accuracy gained, of counts (draws, 4): wrong, right inside; the same outside."""
    wrong, right, wrong_outside, right_outside = counts.T
    rest = wrong_outside / np.maximum(wrong_outside + right_outside, 1)
    return np.asarray((wrong - (wrong + right) * rest) / counts.sum(axis=1))
