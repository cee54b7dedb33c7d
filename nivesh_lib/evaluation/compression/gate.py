"""The gate for optimised models: may one replace the model that it was made from?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.confidence.calibration import calibration_error
from nivesh_lib.evaluation.intervals import paired_accuracy_difference, points, share_of
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS, Objective, judge_all
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned_pair,
    confidence_of,
    predicted_labels,
    probabilities,
    true_labels,
)
from nivesh_lib.evaluation.scores import headline_mask, score
from nivesh_lib.records.estimate import Estimate

GAIN = 1.05  # times as fast or small: less is within measurement noise
_ROUNDING = 1e-9


@dataclass(frozen=True)
class GateDecision:
    """An optimised model against its reference, on the same out-of-fold rows.

    ``verdict`` is "refused" where the model loses more accuracy than ``allowed_loss``, "no gain"
    where it is known to be neither faster nor smaller, else "kept". ``difference`` is the paired
    difference in accuracy, the model minus the reference; ``agreement`` the share of rows with
    the same label. The scores have each metric and the calibration error. ``times_as_fast`` and
    ``times_as_small`` are None where they were not measured.
    """

    name: str
    reference: str
    verdict: str
    allowed_loss: float
    difference: Estimate
    agreement: Estimate
    scores: dict[str, Estimate]
    reference_scores: dict[str, Estimate]
    times_as_fast: float | None = None
    times_as_small: float | None = None

    @property
    def may_lose_more(self) -> bool:
        """Whether the interval of the difference includes a loss that is not allowed."""
        return self.difference.low < -self.allowed_loss - _ROUNDING

    @property
    def sentence(self) -> str:
        """The verdict with its reason, in one sentence."""
        found = self.difference
        change = f"{points(found.value)} points of accuracy against {self.reference}"
        if self.verdict == "refused":
            interval = f"[{points(found.low)}, {points(found.high)}]"
            allowed = f"where {points(-self.allowed_loss)} is allowed"
            return f"{self.name}: refused, {change} {interval}, {allowed}."
        reaches = f", though the interval reaches {points(found.low)}" * self.may_lose_more
        why = " (neither faster nor smaller)" * (self.verdict == "no gain")
        return (
            f"{self.name}: {self.verdict}{why}, {change}{reaches}; "
            f"{100 * self.agreement.value:.1f} of 100 answers are the same."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values and the sentence, ready for JSON."""
        plain = asdict(self)
        scores, reference = plain.pop("scores"), plain.pop("reference_scores")
        speed = {name: plain.pop(name) for name in ("times_as_fast", "times_as_small")}
        reference = {f"reference_{name}": estimate for name, estimate in reference.items()}
        extra = {"may_lose_more": self.may_lose_more, "sentence": self.sentence}
        return plain | scores | reference | speed | extra


@dataclass(frozen=True)
class Recommendation:
    """The model to serve, and why; ``meets_latency`` is None without an objective, or undecided."""

    model: str
    meets_latency: bool | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def decide(
    name: str,
    candidate_oof: pd.DataFrame,
    reference_oof: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    reference: str = "fp32",
    allowed_loss: float = ALLOWED_LOSS,
    times_as_fast: float | None = None,
    times_as_small: float | None = None,
    n_boot: int = 2000,
    seed: int = 42,
) -> GateDecision:
    """Decide on an optimised model by the rows that headline scores use.

    The point estimate decides, since on a small data set the interval would refuse everything;
    the sentence names an interval that includes a larger loss.

    Parameters
    ----------
    candidate_oof, reference_oof : DataFrame
        ``id``, ``fold`` and a probability for each label, both made on the same folds.
    frame : DataFrame
        ``id``, the true label and ``selection`` of each row.
    allowed_loss : float
        Accuracy that may be lost, absolute; `objectives.allowed_loss_for` a dataset.
    times_as_fast, times_as_small : float, optional
        Relative to the reference, as `benchmark_interleaved` measures it; below `GAIN` there is
        no gain.

    Raises
    ------
    ValueError
        The two have different labels or folds, an id or a true label is missing in them, no row
        counts for scores, or ``allowed_loss`` is not a share.
    """
    if not 0 <= allowed_loss < 1:
        raise ValueError(f"allowed_loss {allowed_loss} is no share; half a point is 0.005")
    rows = headline_mask(frame)
    if not rows.any():
        raise ValueError(f"{name}: none of the {len(frame)} rows counts for scores; all are hard")
    tables = aligned_pair(candidate_oof, reference_oof, frame["id"][rows], names=(name, reference))
    true = true_labels(frame[rows], reference_oof)
    predicted = [predicted_labels(table) for table in tables]
    scores, reference_scores = (
        _scores(table, column, true, n_boot, seed)
        for table, column in zip(tables, predicted, strict=True)
    )
    difference = paired_accuracy_difference(predicted[0] == true, predicted[1] == true)
    return GateDecision(
        name,
        reference,
        _verdict(difference.value, allowed_loss, times_as_fast, times_as_small),
        allowed_loss,
        difference,
        share_of(predicted[0] == predicted[1]),
        scores,
        reference_scores,
        times_as_fast,
        times_as_small,
    )


def _scores(
    oof: pd.DataFrame, predicted: np.ndarray, true: np.ndarray, n_boot: int, seed: int
) -> dict[str, Estimate]:
    confidence = confidence_of(probabilities(oof))
    error = calibration_error(confidence, predicted == true, n_boot=n_boot, seed=seed)
    return {**score(true, predicted, n_boot=n_boot, seed=seed), "calibration_error": error}


def _verdict(difference: float, allowed: float, fast: float | None, small: float | None) -> str:
    if difference < -allowed - _ROUNDING:
        return "refused"
    if fast is None or small is None:
        return "kept"
    return "kept" if max(fast, small) >= GAIN else "no gain"


def recommended(
    decisions: Sequence[GateDecision],
    speeds: Mapping[str, Speed],
    sizes: Mapping[str, float],
    objectives: Mapping[str, Any],
) -> Recommendation:
    """Return the fastest kept model that meets the latency target, and the reasons.

    The reference is a candidate too. Models within 5 % of the fastest count as equally fast, and
    the smallest of them is chosen. Where none meets the target, or a busy machine cannot tell,
    the reference stays.

    Parameters
    ----------
    decisions
        All against one reference.
    speeds
        Name -> speed of single queries, including the reference's; a kept model without one is
        left out.
    sizes
        Name -> bytes on disk.
    objectives
        Of the dataset, as `objectives.values_for` returns them; ``latency_target_ms`` is used.

    Raises
    ------
    ValueError
        No decision, several references, or a candidate without speed or size.
    """
    references = {one.reference for one in decisions}
    if len(references) != 1:
        raise ValueError(f"need decisions against one reference: {sorted(references)}")
    (reference,) = references
    kept = [reference, *(d.name for d in decisions if d.verdict == "kept" and d.name in speeds)]
    if missing := [name for name in kept if name not in speeds or name not in sizes]:
        raise ValueError(f"no speed or no size of {', '.join(missing)}")
    target = objectives.get("latency_target_ms")
    status = {name: _latency_status(speeds[name], target) for name in kept}
    in_time = [name for name in kept if status[name] == "met"]
    if not in_time:
        open_ones = [name for name in kept if status[name] == "undecided"]
        answers = "is known to answer" if open_ones else "answers"
        found = f"no model that was kept {answers} within {target:g} ms (p95)"
        more = f"; measure {', '.join(open_ones)} on a quiet machine" * bool(open_ones)
        return Recommendation(
            reference, None if open_ones else False, f"{reference} stays: {found}{more}."
        )
    fastest = min(speeds[name].p50_ms for name in in_time)
    level = [name for name in in_time if speeds[name].p50_ms <= GAIN * fastest]
    best = min(level, key=lambda name: sizes[name])
    decision = next((one for one in decisions if one.name == best), None)
    why = [_in_time(speeds[best], target), *_gains(best, reference, speeds, sizes, decision)]
    why += _refusals(decisions)
    return Recommendation(
        best, None if target is None else True, f"{best} is recommended: {'; '.join(why)}."
    )


def _latency_status(speed: Speed, target: float | None) -> str:
    if target is None:
        return "met"
    (judged,) = judge_all(speed.latency(), [Objective("", "p95_ms", target, at_most=True)])
    return judged.status


def _in_time(speed: Speed, target: float | None) -> str:
    asked = f", {target:g} ms allowed" if target is not None else ""
    return f"{speed.p50_ms:.2f} ms for a query (p95 {speed.p95_ms:.2f} ms{asked})"


def _gains(
    best: str,
    reference: str,
    speeds: Mapping[str, Speed],
    sizes: Mapping[str, float],
    decision: GateDecision | None,
) -> list[str]:
    if decision is None:
        return ["nothing that was kept is faster"]
    fast = speeds[reference].p50_ms / speeds[best].p50_ms
    small = sizes[best] / sizes[reference]
    reaches = f", down to {points(decision.difference.low)} at worst" * decision.may_lose_more
    return [
        f"{fast:.1f} times as fast as {reference} and {100 * small:.0f} % of its size",
        f"{points(decision.difference.value)} points of accuracy{reaches}",
    ]


def _refusals(decisions: Sequence[GateDecision]) -> list[str]:
    parts = []
    for verdict, text in (("refused", "refused"), ("no gain", "no gain from")):
        names = [one.name for one in decisions if one.verdict == verdict]
        parts += [f"{text} {', '.join(names)}"] if names else []
    return parts
