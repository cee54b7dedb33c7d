"""What a model is worth on held-out rows: scores, the objectives judged, queries turned away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.metrics import Column, Estimate, score, share_of
from nivesh_lib.evaluation.objectives import Judgement, Objective, judge_all
from nivesh_lib.evaluation.slices import by_slice, masks_by_column, masks_by_tag
from nivesh_lib.evaluation.summary import SLICE_COLUMNS


def release_scores(
    held: pd.DataFrame,
    predicted: Column,
    objectives: Sequence[Objective],
    *,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return ``metrics``, ``judgements``, ``verdict`` and ``slices`` of held-out rows.

    Parameters
    ----------
    held
        Columns ``intent`` and those of slices, n rows.
    predicted
        One label for each of them.
    measured
        Further metrics, such as ``{"p95_ms": {"value": 12.0}}``.
    """
    metrics: dict[str, Any] = {
        name: estimate.as_dict() for name, estimate in score(held["intent"], predicted).items()
    } | dict(measured or {})
    judged = judge_all(metrics, list(objectives))
    masks = masks_by_column(held, SLICE_COLUMNS) | masks_by_tag(held)
    return {
        "metrics": metrics,
        "judgements": [
            {"objective": str(j.objective), "status": j.status, "found": j.found} for j in judged
        ],
        "verdict": overall(judged),
        "slices": by_slice(held["intent"], predicted, masks).to_dict("records"),
    }


def overall(judged: Sequence[Judgement]) -> str:
    """Return the worst of the verdicts, or ``not judged`` where there are none."""
    found = {judgement.status for judgement in judged}
    return next((s for s in ("not met", "undecided", "met") if s in found), "not judged")


def turned_away(
    accepted: np.ndarray, accepted_out: np.ndarray, right: np.ndarray
) -> dict[str, Estimate]:
    """Return which queries the model would not answer, and how good the answered ones are.

    Parameters
    ----------
    accepted, right
        Of each query in scope: is it answered, and would the answer be right.
    accepted_out
        Of each query out of scope: is it answered.

    Returns
    -------
    dict
        ``out_of_scope`` and ``in_scope``, the shares turned away, and
        ``accuracy_of_answered`` where any query in scope is answered.
    """
    told = {"out_of_scope": share_of(~accepted_out), "in_scope": share_of(~accepted)}
    return told | ({"accuracy_of_answered": share_of(right[accepted])} if accepted.any() else {})
