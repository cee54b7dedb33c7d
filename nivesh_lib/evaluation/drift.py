"""Verdicts on drift, from distances between columns and from the change of accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from statsmodels.stats.proportion import confint_proportions_2indep

from nivesh_lib.records.estimate import Estimate

FLOOR = 0.1  # a smaller distance is no drift, however significant


@dataclass(frozen=True)
class DriftVerdict:
    """Which columns moved, of how many compared, and the change of accuracy."""

    drifted: tuple[str, ...]
    compared: int
    accuracy_change: Estimate | None

    @property
    def any(self) -> bool:
        """Whether at least one column moved."""
        return bool(self.drifted)

    def sentences(self) -> list[str]:
        """Return the verdict as sentences with their numbers."""
        lines = [f"None of the {self.compared} columns moved."]
        if self.drifted:
            names = ", ".join(self.drifted)
            lines = [f"{len(self.drifted)} of {self.compared} columns moved: {names}."]
        change = self.accuracy_change
        if change is not None:
            value, low, high = (f"{100 * x:+.1f}" for x in (change.value, change.low, change.high))
            significant = change.high < 0 or change.low > 0
            lines.append(
                f"Accuracy on the new rows against the old: {value} points [{low}, {high}]"
                + (", a real change." if significant else ", which may be chance.")
            )
        return lines


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
    low, high = confint_proportions_2indep(
        *(int(correct_now.sum()), len(correct_now), int(correct_before.sum()), len(correct_before)),
        method="newcomb",
        compare="diff",
    )
    change = float(correct_now.mean() - correct_before.mean())
    return Estimate(change, float(low), float(high), len(correct_now))


def _numeric_distance(before: np.ndarray, now: np.ndarray) -> float:
    return float(wasserstein_distance(before, now)) / max(float(before.std()), 0.001)


def _categorical_distance(before: np.ndarray, now: np.ndarray) -> float:
    k = int(max(before.max(), now.max())) + 1
    return float(jensenshannon(np.bincount(before, minlength=k), np.bincount(now, minlength=k)))


def _comparable(
    before: pd.Series, now: pd.Series
) -> tuple[np.ndarray, int, Callable[[np.ndarray, np.ndarray], float]]:
    """Return all values as one array, how many are from before, and the distance to use."""
    both = pd.concat([before.dropna(), now.dropna()], ignore_index=True)
    n = int(before.notna().sum())
    if pd.api.types.is_numeric_dtype(both):
        return both.to_numpy(dtype=float), n, _numeric_distance
    return pd.factorize(both)[0], n, _categorical_distance


def distance(before: pd.Series, now: pd.Series) -> float:
    """Return the distance between two samples of a column, as Evidently measures it.

    Numbers: Wasserstein distance in standard deviations of ``before``. Categories:
    Jensen-Shannon distance to base e, at most 0.83.
    """
    values, n, of = _comparable(before, now)
    return of(values[:n], values[n:])


def chance_thresholds(
    reference: pd.DataFrame, current: pd.DataFrame, *, n_draws: int = 200, seed: int = 42
) -> dict[str, float]:
    """Return, for each shared column, the distance above which it counts as moved.

    That is ``FLOOR``, or the 99th percentile of the distance between random parts of
    the same sizes where that is larger: with few rows or many categories, chance alone
    exceeds a fixed threshold (a permutation test, Good 2005).
    """
    rng = np.random.default_rng(seed)
    thresholds = {}
    for column in reference.columns.intersection(current.columns):
        values, n, of = _comparable(reference[column], current[column])
        if not 0 < n < len(values):
            continue
        mixed = (rng.permutation(values) for _ in range(n_draws))
        drawn = [of(drawn[:n], drawn[n:]) for drawn in mixed]
        thresholds[str(column)] = max(FLOOR, float(np.percentile(drawn, 99)))
    return thresholds
