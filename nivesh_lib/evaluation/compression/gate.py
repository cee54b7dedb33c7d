"""The gate for optimised models: may one replace the model that it was made from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.intervals import paired_accuracy_difference, share_of
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS, Objective, judge_all
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned_pair,
    predicted_labels,
    true_labels,
)
from nivesh_lib.evaluation.scores import headline_mask, score
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.results import HEADLINE

GAIN = 1.05  # times as fast or small: less is within measurement noise
_ROUNDING = 1e-9


@dataclass(frozen=True)
class GateDecision:
    """An optimised model against its reference, on the same out-of-fold rows.

    ``verdict`` is "refused" where the model loses more accuracy than ``allowed_loss``, "no gain"
    where it is known to be neither faster nor smaller, else "kept". ``difference`` is the paired
    difference in accuracy, the model minus the reference; ``agreement`` the share of rows with
    the same label. ``times_as_fast`` and ``times_as_small`` are None where they were not measured.
    """

    name: str
    reference: str
    verdict: str
    allowed_loss: float
    difference: Estimate
    agreement: Estimate
    scores: dict[str, Estimate]
    times_as_fast: float | None = None
    times_as_small: float | None = None

    @property
    def may_lose_more(self) -> bool:
        """Whether the interval of the difference includes a loss that is not allowed."""
        return self.difference.low < -self.allowed_loss - _ROUNDING

    @property
    def loses_more(self) -> bool:
        """Whether the whole interval of the difference is a loss that is not allowed."""
        return self.difference.high < -self.allowed_loss - _ROUNDING

    def timed(self, times_as_fast: float) -> GateDecision:
        """Return the decision with a speed, which may turn it into "no gain"."""
        verdict = _verdict(
            self.difference.value, self.allowed_loss, times_as_fast, self.times_as_small
        )
        return replace(self, verdict=verdict, times_as_fast=times_as_fast)


@dataclass(frozen=True, eq=False)
class Choice:
    """A model that could be served.

    ``decision`` is that of the gate, None for a model that was optimised from none; what cannot
    be ``saved`` cannot be served. ``timed`` is None before the race.
    """

    name: str
    oof: pd.DataFrame
    scores: dict[str, Estimate]
    size_bytes: float | None
    decision: GateDecision | None = None
    saved: bool = True
    timed: Speed | None = None

    @property
    def verdict(self) -> str:
        """The verdict of the gate, ``not saved`` for what it would have kept, or nothing."""
        if self.decision is None:
            return ""
        kept = self.decision.verdict == "kept"
        return self.decision.verdict if self.saved or not kept else "not saved"

    @property
    def speed(self) -> Speed:
        """The speed of single queries.

        Raises
        ------
        ValueError
            It was not timed yet.
        """
        if self.timed is None:
            raise ValueError(f"{self.name!r} has not been timed; race the models first")
        return self.timed

    def in_time(self, target_ms: float | None) -> str:
        """Return met, not met or undecided: is the p95 of a query within the target?"""
        if target_ms is None:
            return "met"
        objective = Objective("", "p95_ms", target_ms, at_most=True)
        return judge_all(self.speed.latency(), [objective])[0].status


@dataclass(frozen=True)
class Recommendation:
    """The model to serve, the best one among those that were optimised, and whether it is in time.

    ``optimised`` is empty where none was kept; ``meets_latency`` is None where a busy machine
    cannot tell.
    """

    model: str
    optimised: str
    meets_latency: bool | None


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
    ``may_lose_more`` says that the interval includes a larger loss.

    Parameters
    ----------
    candidate_oof, reference_oof : DataFrame
        ``id``, ``fold`` and a probability for each label, both made on the same folds.
    frame : DataFrame
        ``id``, the true label and ``selection`` of each row.
    allowed_loss : float
        Accuracy that may be lost, absolute; `objectives.allowed_loss_for` a dataset.
    times_as_fast, times_as_small : float, optional
        Relative to the reference; below `GAIN` there is no gain. `GateDecision.timed` adds a
        speed that is measured later.

    Raises
    ------
    ValueError
        The two have different labels or folds, an id or a true label is missing in them, or
        ``allowed_loss`` is not a share.
    """
    if not 0 <= allowed_loss < 1:
        raise ValueError(f"allowed_loss {allowed_loss} is no share; half a point is 0.005")
    rows = headline_mask(frame)
    tables = aligned_pair(candidate_oof, reference_oof, frame["id"][rows], names=(name, reference))
    true = true_labels(frame[rows], reference_oof)
    predicted = [predicted_labels(table) for table in tables]
    difference = paired_accuracy_difference(predicted[0] == true, predicted[1] == true)
    return GateDecision(
        name,
        reference,
        _verdict(difference.value, allowed_loss, times_as_fast, times_as_small),
        allowed_loss,
        difference,
        share_of(predicted[0] == predicted[1]),
        score(true, predicted[0], n_boot=n_boot, seed=seed),
        times_as_fast,
        times_as_small,
    )


def _verdict(difference: float, allowed: float, fast: float | None, small: float | None) -> str:
    if difference < -allowed - _ROUNDING:
        return "refused"
    if fast is None or small is None:
        return "kept"
    return "kept" if max(fast, small) >= GAIN else "no gain"


def recommended(choices: Sequence[Choice], target_ms: float | None = None) -> Recommendation:
    """Return the model with the best score, that which ranks leaderboards, that answers in time.

    What the gate refused, or found no gain in, is not recommended. Where no model is known to
    answer in time, the best score of all decides. That a cheaper model cannot be told from the one
    recommended changes nothing here: `findings.compression.recommendation` names it with its price.

    Parameters
    ----------
    choices
        At least one that the gate has not turned down.
    target_ms
        The p95 of a query, if there is an objective.

    Raises
    ------
    ValueError
        There is no such choice.
    """
    allowed = [one for one in choices if one.verdict in ("", "kept")]
    if not allowed:
        raise ValueError("there is no model to recommend: the gate kept none")
    in_time = [one for one in allowed if one.in_time(target_ms) == "met"]
    best = _most_accurate(in_time or allowed)
    kept = [one for one in in_time or allowed if one.verdict == "kept"]
    meets = {"met": True, "not met": False, "undecided": None}[best.in_time(target_ms)]
    return Recommendation(best.name, _most_accurate(kept).name if kept else "", meets)


def _most_accurate(choices: Sequence[Choice]) -> Choice:
    return max(choices, key=lambda one: one.scores[HEADLINE].value)
