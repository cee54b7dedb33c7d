"""Metrics in their one flat form: an estimate is ``x``, ``x_low``, ``x_high`` and ``x_n``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nivesh_lib.records.estimate import Estimate

# Ends of the names of estimates that are no scores: over folds, and of times.
_NO_SCORES = ("_fold_mean", "_ms")


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics in the flat form; numbers stay, and so does what is flat already.

    An estimate, or the mapping of one (``value``, ``low``, …), becomes one entry a field.
    """
    flat: dict[str, Any] = {}
    for name, metric in metrics.items():
        fields = metric.as_dict() if hasattr(metric, "as_dict") else metric
        if isinstance(fields, Mapping):
            flat |= {name if key == "value" else f"{name}_{key}": v for key, v in fields.items()}
        else:
            flat[name] = fields
    return flat


def estimate_in(metrics: Mapping[str, Any], name: str) -> Estimate | None:
    """Return the estimate of a metric in the flat form, or None where it has no finite interval."""
    try:
        value, low, high = (float(metrics[f"{name}{end}"]) for end in ("", "_low", "_high"))
        estimate = Estimate(value, low, high, int(metrics[f"{name}_n"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return estimate if all(map(math.isfinite, (value, low, high))) else None


def scores_in(metrics: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return each estimate over rows, not over folds or of a time, among flat metrics."""
    names = [name for name in metrics if not name.endswith(_NO_SCORES)]
    found = {name: estimate_in(metrics, name) for name in names}
    return {name: estimate for name, estimate in found.items() if estimate is not None}
