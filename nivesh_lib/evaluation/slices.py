"""The same scores for parts of the data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.metrics import Column, Estimate, score

MIN_ROWS = 20  # an interval over fewer rows says nothing


def headline_mask(frame: pd.DataFrame) -> np.ndarray:
    """Return the rows that headline scores use: all but those selected for being hard.

    Rows picked because a model failed on them would bias the score, so they
    count only as a slice of their own.
    """
    if "selection" not in frame:
        return np.ones(len(frame), dtype=bool)
    return (frame["selection"] != "hard").to_numpy()


def masks_by_column(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a mask for each value of each column that exists, named ``column=value``."""
    return {
        f"{column}={value}": (frame[column] == value).to_numpy()
        for column in columns
        if column in frame
        for value in sorted(frame[column].dropna().unique())
    }


def masks_by_tag(frame: pd.DataFrame, column: str = "traits") -> dict[str, np.ndarray]:
    """Return a mask for each word of a column of space-separated tags; empty without it."""
    if column not in frame:
        return {}
    words = frame[column].fillna("").str.split()
    return {
        f"{column}={word}": words.map(lambda row, w=word: w in row).to_numpy(dtype=bool)
        for word in sorted({word for row in words for word in row})
    }


def masks_by_rule(
    frame: pd.DataFrame, rules: Mapping[str, str | Callable[[str], bool]], *, text: str = "query"
) -> dict[str, np.ndarray]:
    """Return a mask for each rule on the text: a regular expression or a function of it."""
    return {
        name: frame[text].map(_holds(rule)).to_numpy(dtype=bool) for name, rule in rules.items()
    }


def _holds(rule: str | Callable[[str], bool]) -> Callable[[str], bool]:
    if not isinstance(rule, str):
        return rule
    pattern = re.compile(rule, re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


def by_slice(
    y_true: Column,
    y_pred: Column,
    masks: Mapping[str, np.ndarray],
    *,
    n_boot: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Return accuracy and macro-F1 with intervals for each mask of at least ``MIN_ROWS`` rows."""
    true, predicted = np.asarray(y_true, dtype=object), np.asarray(y_pred, dtype=object)
    rows: dict[str, dict[str, Estimate]] = {
        name: score(true[mask], predicted[mask], n_boot=n_boot, seed=seed)
        for name, mask in masks.items()
        if mask.sum() >= MIN_ROWS
    }
    return pd.DataFrame(
        [
            {
                "slice": name,
                "rows": estimates["accuracy"].n,
                **{
                    f"{metric}{suffix}": getattr(estimate, field)
                    for metric, estimate in estimates.items()
                    for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high"))
                },
            }
            for name, estimates in rows.items()
        ]
    )
