"""Verdicts on drift, from distances and from what the model does on the new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nivesh_lib.evaluation.metrics import Estimate


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


def accuracy_change(
    correct_before: np.ndarray, correct_now: np.ndarray, *, n_boot: int = 2000, seed: int = 42
) -> Estimate:
    """Return accuracy now minus before, two independent samples, with a bootstrap interval."""
    rng = np.random.default_rng(seed)
    before = rng.binomial(len(correct_before), correct_before.mean(), n_boot) / len(correct_before)
    now = rng.binomial(len(correct_now), correct_now.mean(), n_boot) / len(correct_now)
    low, high = np.percentile(now - before, [2.5, 97.5])
    value = float(correct_now.mean() - correct_before.mean())
    return Estimate(value, float(low), float(high), len(correct_now))
