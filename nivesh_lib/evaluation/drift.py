"""Verdicts on drift, from distances and from what the model does on the new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from nivesh_lib.evaluation.scores import wilson
from nivesh_lib.records.estimate import Estimate

FLOOR = 0.1  # a smaller distance is no drift, however sure


@dataclass(frozen=True)
class DriftVerdict:
    """Which columns moved, and what that did to accuracy."""

    drifted: tuple[str, ...]
    compared: int
    accuracy_change: Estimate | None

    @property
    def any(self) -> bool:
        """Whether at least one column moved."""
        return bool(self.drifted)

    def sentences(self) -> list[str]:
        """Return the verdict as plain sentences with their digits."""
        if self.drifted:
            said = [
                f"{len(self.drifted)} of {self.compared} columns moved: {', '.join(self.drifted)}."
            ]
        else:
            said = [f"None of the {self.compared} columns moved."]
        change = self.accuracy_change
        if change is not None:
            value, low, high = (f"{100 * x:+.1f}" for x in (change.value, change.low, change.high))
            known = change.high < 0 or change.low > 0
            said.append(
                f"Accuracy on the new rows against the old: {value} points [{low}, {high}]"
                + (", a real change." if known else ", which may be chance.")
            )
        return said


def drift_verdict(
    rows: Sequence[Mapping[str, Any]], accuracy_change: Estimate | None = None
) -> DriftVerdict:
    """Return the verdict over rows of ``column``, ``value``, ``threshold``, ``drifted``."""
    moved = tuple(str(row["column"]) for row in rows if row["drifted"])
    return DriftVerdict(moved, len(rows), accuracy_change)


def accuracy_change(correct_before: np.ndarray, correct_now: np.ndarray) -> Estimate:
    """Return accuracy now minus before, for two independent samples.

    The interval is Newcombe's (1998, method 10), which holds with few rows and with
    none wrong.
    """
    before, now = float(correct_before.mean()), float(correct_now.mean())
    low_before, high_before = wilson(before, len(correct_before))
    low_now, high_now = wilson(now, len(correct_now))
    change = now - before
    low = change - float(np.hypot(now - low_now, high_before - before))
    high = change + float(np.hypot(high_now - now, before - low_before))
    return Estimate(change, low, high, len(correct_now))


def _numbers_apart(before: np.ndarray, now: np.ndarray) -> float:
    return float(wasserstein_distance(before, now)) / max(float(before.std()), 0.001)


def _categories_apart(before: np.ndarray, now: np.ndarray) -> float:
    k = int(max(before.max(), now.max())) + 1
    return float(jensenshannon(np.bincount(before, minlength=k), np.bincount(now, minlength=k)))


def _comparable(
    before: pd.Series, now: pd.Series
) -> tuple[np.ndarray, int, Callable[[np.ndarray, np.ndarray], float]]:
    """Return all values as one array, how many are from before, and their distance."""
    both = pd.concat([before.dropna(), now.dropna()], ignore_index=True)
    n = int(before.notna().sum())
    if pd.api.types.is_numeric_dtype(both):
        return both.to_numpy(dtype=float), n, _numbers_apart
    return pd.factorize(both)[0], n, _categories_apart


def distance(before: pd.Series, now: pd.Series) -> float:
    """Return how far a column moved, as Evidently measures it.

    Numbers: Wasserstein distance in standard deviations of ``before``. Categories:
    Jensen-Shannon distance to base e, at most 0.83.
    """
    values, n, apart = _comparable(before, now)
    return apart(values[:n], values[n:])


def chance_thresholds(
    reference: pd.DataFrame, current: pd.DataFrame, *, n_draws: int = 200, seed: int = 42
) -> dict[str, float]:
    """Return, for each shared column, the distance above which it has moved.

    That is ``FLOOR``, or where it is larger the 99th percentile of the distance
    between random parts of the same sizes: with few rows or many categories,
    chance alone passes a fixed threshold (a permutation test, Good 2005).
    """
    rng = np.random.default_rng(seed)
    thresholds = {}
    for column in reference.columns.intersection(current.columns):
        values, n, apart = _comparable(reference[column], current[column])
        if not 0 < n < len(values):
            continue
        drawn = []
        for _ in range(n_draws):
            mixed = rng.permutation(values)
            drawn.append(apart(mixed[:n], mixed[n:]))
        thresholds[str(column)] = max(FLOOR, float(np.percentile(drawn, 99)))
    return thresholds
