"""Whether an optimised model may take the place of the one it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.confidence.calibration import calibration_error, confidence_of
from nivesh_lib.evaluation.intervals import more_right, points
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    predicted_labels,
    probabilities,
    true_labels,
)
from nivesh_lib.evaluation.scores import headline_mask, score, share_of
from nivesh_lib.records.estimate import Estimate

GAIN = 1.05  # times as fast or small: less than a twentieth is the noise of a measurement
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Judgement:
    """An optimised model beside its reference, on the same out-of-fold rows.

    ``verdict`` is "refused" where the model loses more accuracy than ``allowed_loss``, "no gain"
    where it is known to be neither faster nor smaller, else "kept". ``difference`` is the model's
    accuracy minus the reference's, paired; ``agreement`` the share of rows with the same answer.
    ``times_as_fast`` and ``times_as_small`` are None where they were not measured.
    """

    name: str
    reference: str
    verdict: str
    allowed_loss: float
    difference: Estimate
    agreement: Estimate
    accuracy: Estimate
    macro_f1: Estimate
    calibration_error: Estimate
    reference_accuracy: Estimate
    reference_macro_f1: Estimate
    reference_calibration_error: Estimate
    times_as_fast: float | None = None
    times_as_small: float | None = None

    @property
    def may_lose_more(self) -> bool:
        """Whether the interval of the difference reaches beyond what may be lost."""
        return self.difference.low < -self.allowed_loss - _ROUNDING

    @property
    def sentence(self) -> str:
        """The verdict with its reason, in one sentence."""
        found = self.difference
        told = f"{points(found.value)} points of accuracy against {self.reference}"
        if self.verdict == "refused":
            return (
                f"{self.name}: refused, {told} [{points(found.low)}, {points(found.high)}], where "
                f"{points(-self.allowed_loss)} is allowed."
            )
        reaches = f", though the interval reaches {points(found.low)}" * self.may_lose_more
        why = " (neither faster nor smaller)" * (self.verdict == "no gain")
        return (
            f"{self.name}: {self.verdict}{why}, {told}{reaches}; "
            f"{100 * self.agreement.value:.1f} of 100 answers are the same."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values and the sentence, ready for JSON."""
        return asdict(self) | {"may_lose_more": self.may_lose_more, "sentence": self.sentence}


@dataclass(frozen=True)
class Recommendation:
    """The model to serve, and why; ``meets_latency`` is None without an objective."""

    model: str
    meets_latency: bool | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def judge(
    name: str,
    candidate_oof: pd.DataFrame,
    reference_oof: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    reference: str = "fp32",
    allowed_loss: float = ALLOWED_LOSS,
    times_as_fast: float | None = None,
    times_as_small: float | None = None,
    label: str = "intent",
    n_boot: int = 2000,
    seed: int = 42,
) -> Judgement:
    """Judge an optimised model on the rows that headline scores use.

    The point decides, so that a small data set does not refuse everything; the sentence says
    where the interval allows a larger loss.

    Parameters
    ----------
    candidate_oof, reference_oof : DataFrame
        ``id``, ``fold`` and a probability for each label, both made on the same folds.
    frame : DataFrame
        ``id``, the true label and ``selection`` of each row; a row without answers is an error.
    allowed_loss : float
        Accuracy that may be lost, absolute; `objectives.allowed_loss_for` a dataset.
    times_as_fast, times_as_small : float, optional
        Against the reference, such as a `latency.race` gives; below `GAIN` neither is a gain.

    Raises
    ------
    ValueError
        The labels or folds of the two differ, an id has no answer, a true label is none of
        theirs, no row counts for scores, or ``allowed_loss`` is no share.
    """
    if not 0 <= allowed_loss < 1:
        raise ValueError(f"allowed_loss {allowed_loss} is no share; half a point is 0.005")
    if set(probabilities(candidate_oof)) != set(probabilities(reference_oof)):
        raise ValueError(f"{name}: its labels are not those of {reference}")
    rows = headline_mask(frame)
    if not rows.any():
        raise ValueError(f"{name}: none of the {len(frame)} rows counts for scores; all are hard")
    ids, true = frame["id"][rows], true_labels(frame[rows], label, reference_oof)
    answers = [aligned(table, ids) for table in (candidate_oof, reference_oof)]
    if (answers[0]["fold"] != answers[1]["fold"]).any():
        raise ValueError(f"{name} and {reference} were made on other folds")
    predicted = [predicted_labels(table) for table in answers]
    mine, theirs = (
        _scores(table, column, true, n_boot, seed)
        for table, column in zip(answers, predicted, strict=True)
    )
    difference = more_right(predicted[0] == true, predicted[1] == true)
    return Judgement(
        name,
        reference,
        _verdict(difference.value, allowed_loss, times_as_fast, times_as_small),
        allowed_loss,
        difference,
        share_of(predicted[0] == predicted[1]),
        **mine,
        **{f"reference_{metric}": estimate for metric, estimate in theirs.items()},
        times_as_fast=times_as_fast,
        times_as_small=times_as_small,
    )


def _scores(
    oof: pd.DataFrame, predicted: np.ndarray, true: np.ndarray, n_boot: int, seed: int
) -> dict[str, Estimate]:
    sure = confidence_of(probabilities(oof))
    error = calibration_error(sure, predicted == true, n_boot=n_boot, seed=seed)
    return {**score(true, predicted, n_boot=n_boot, seed=seed), "calibration_error": error}


def _verdict(difference: float, allowed: float, fast: float | None, small: float | None) -> str:
    if difference < -allowed - _ROUNDING:
        return "refused"
    if fast is None or small is None:
        return "kept"
    return "kept" if max(fast, small) >= GAIN else "no gain"


def recommended(
    judgements: Sequence[Judgement],
    speeds: Mapping[str, Speed],
    sizes: Mapping[str, float],
    objectives: Mapping[str, Any],
) -> Recommendation:
    """Return the fastest model that was kept and answers in time, and the reasons.

    The reference takes part. Models within a twentieth of the fastest count as equally fast, and
    the smallest of them is taken. Where none answers in time the reference stays.

    Parameters
    ----------
    judgements
        All against one reference.
    speeds
        Name -> speed of single queries, that of the reference among them; a kept model without
        one is left out.
    sizes
        Name -> bytes on disk.
    objectives
        Of the dataset, as `objectives.values_for` returns them; ``latency_target_ms`` is read.

    Raises
    ------
    ValueError
        No judgement, several references, or no speed or size of one that takes part.
    """
    references = {judged.reference for judged in judgements}
    if len(references) != 1:
        raise ValueError(f"need judgements against one reference: {sorted(references)}")
    (reference,) = references
    kept = [reference, *(j.name for j in judgements if j.verdict == "kept" and j.name in speeds)]
    if missing := [name for name in kept if name not in speeds or name not in sizes]:
        raise ValueError(f"no speed or no size of {', '.join(missing)}")
    target = objectives.get("latency_target_ms")
    in_time = [name for name in kept if target is None or speeds[name].p95_ms <= target]
    if not in_time:
        found = f"no model that was kept answers within {target:g} ms (p95)"
        return Recommendation(reference, False, f"{reference} stays: {found}.")
    fastest = min(speeds[name].p50_ms for name in in_time)
    level = [name for name in in_time if speeds[name].p50_ms <= GAIN * fastest]
    best = min(level, key=lambda name: sizes[name])
    judged = next((j for j in judgements if j.name == best), None)
    why = [_in_time(speeds[best], target), *_gains(best, reference, speeds, sizes, judged)]
    why += _refusals(judgements)
    return Recommendation(
        best, None if target is None else True, f"{best} is recommended: {'; '.join(why)}."
    )


def _in_time(speed: Speed, target: float | None) -> str:
    asked = f", {target:g} ms allowed" if target is not None else ""
    return f"{speed.p50_ms:.2f} ms for a query (p95 {speed.p95_ms:.2f} ms{asked})"


def _gains(
    best: str,
    reference: str,
    speeds: Mapping[str, Speed],
    sizes: Mapping[str, float],
    judged: Judgement | None,
) -> list[str]:
    if judged is None:
        return ["nothing that was kept is faster"]
    fast = speeds[reference].p50_ms / speeds[best].p50_ms
    small = sizes[best] / sizes[reference]
    reaches = f", down to {points(judged.difference.low)} at worst" * judged.may_lose_more
    return [
        f"{fast:.1f} times as fast as {reference} and {100 * small:.0f} % of its size",
        f"{points(judged.difference.value)} points of accuracy{reaches}",
    ]


def _refusals(judgements: Sequence[Judgement]) -> list[str]:
    told = []
    for verdict, said in (("refused", "refused"), ("no gain", "no gain from")):
        names = [judged.name for judged in judgements if judged.verdict == verdict]
        told += [f"{said} {', '.join(names)}"] if names else []
    return told
