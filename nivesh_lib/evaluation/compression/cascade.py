"""Cascades: the confidence from which a fast student answers in place of a slower teacher.

Both models are given by their out-of-fold probabilities. The cascade predicts with the student
where the student's confidence reaches the threshold, and with the teacher below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.intervals import paired_accuracy_difference, share_of
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned_pair,
    confidence_of,
    predicted_labels,
    probabilities,
    true_labels,
)
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.records.estimate import Estimate

ALLOWED_LOSS = 0.002  # accuracy, absolute
NEVER = 2.0  # a threshold that no confidence reaches
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CascadeThreshold:
    """The threshold of a cascade with cross-fitted estimates.

    ``threshold`` is fitted on all rows, for the deployed model; ``by_fold`` has those fitted on
    the other folds of each fold, for the estimates: ``share`` of the queries that the student
    answers, ``accuracy`` of the cascade and ``loss``, the teacher's accuracy minus it.
    """

    threshold: float
    by_fold: dict[int, float]
    share: Estimate
    accuracy: Estimate
    loss: Estimate
    allowed_loss: float


def _answers(
    student_oof: pd.DataFrame, teacher_oof: pd.DataFrame, frame: pd.DataFrame
) -> pd.DataFrame:
    """Return predictions for headline rows, in falling order of the student's confidence.

    Columns: fold, confidence, and the labels true, student and teacher.
    """
    rows = frame[headline_mask(frame)]
    student, teacher = aligned_pair(
        student_oof, teacher_oof, rows["id"], names=("student", "teacher")
    )
    answers = pd.DataFrame(
        {
            "fold": teacher["fold"],
            "confidence": confidence_of(probabilities(student)),
            "true": true_labels(rows, teacher),
            "student": predicted_labels(student),
            "teacher": predicted_labels(teacher),
        }
    )
    return answers.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)


def _labels_at(answers: pd.DataFrame, threshold: float | np.ndarray) -> np.ndarray:
    """Return the label that the cascade predicts for each row, shape (n,)."""
    return np.where(answers["confidence"] >= threshold, answers["student"], answers["teacher"])


def cascade_answers(
    student_oof: pd.DataFrame, teacher_oof: pd.DataFrame, thresholds: Mapping[int, float]
) -> pd.DataFrame:
    """Return the out-of-fold table of a cascade: the student's rows where it is confident.

    Parameters
    ----------
    thresholds
        Fold -> the student's least confidence, as `CascadeThreshold.by_fold`.

    Raises
    ------
    ValueError
        The two have different labels or folds, or lack a row.
    """
    student, teacher = aligned_pair(
        student_oof, teacher_oof, teacher_oof["id"], names=("student", "teacher")
    )
    handed = handed_over(student, thresholds)
    return student.where(~handed, teacher)


def handed_over(student_oof: pd.DataFrame, thresholds: Mapping[int, float]) -> pd.Series:
    """Return which rows of an out-of-fold table are less confident than the bar of their fold."""
    bars = student_oof["fold"].map(thresholds)
    return ~(bars <= confidence_of(probabilities(student_oof)))


def choose_threshold(
    student_oof: pd.DataFrame,
    teacher_oof: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    allowed_loss: float = ALLOWED_LOSS,
) -> CascadeThreshold:
    """Return the lowest threshold with an allowed loss, and its cross-fitted estimates.

    The loss must be allowed with a margin of one standard error: at the limit itself, every
    second set of other rows would lose more. A threshold is biased on the rows that it was chosen
    on, so each fold is evaluated at the threshold of the other folds.

    Parameters
    ----------
    student_oof, teacher_oof : DataFrame
        ``id``, ``fold`` and a probability for each label, both made on the same folds; the
        student calibrated like the model that will use the threshold.
    allowed_loss : float
        Accuracy that the cascade may lose to the teacher, absolute.

    Raises
    ------
    ValueError
        Fewer than two folds, different labels or folds, a missing row or true label, or a loss
        that is not a share.
    """
    if not 0 <= allowed_loss <= 1:
        raise ValueError(f"allowed_loss {allowed_loss} is no share; 0.2 points are 0.002")
    answers = _answers(student_oof, teacher_oof, frame)
    fold = answers["fold"]
    folds = fold.unique()
    if len(folds) < 2:
        raise ValueError("the rows lie in fewer than 2 folds; there is nothing to cross-fit with")
    by_fold = {int(k): _lowest(answers[fold != k], allowed_loss) for k in sorted(folds)}
    bounds = fold.map(by_fold).to_numpy()
    right = (_labels_at(answers, bounds) == answers["true"]).to_numpy()
    teacher = (answers["teacher"] == answers["true"]).to_numpy()
    return CascadeThreshold(
        threshold=_lowest(answers, allowed_loss),
        by_fold=by_fold,
        share=share_of(answers["confidence"].to_numpy() >= bounds),
        accuracy=share_of(right),
        loss=paired_accuracy_difference(teacher, right),
        allowed_loss=allowed_loss,
    )


def _lowest(answers: pd.DataFrame, allowed_loss: float) -> float:
    """Return the lowest threshold whose loss plus one standard error is allowed.

    It lies midway to the next confidence, as the largest-margin choice.
    """
    student, teacher = (
        (answers[name] == answers["true"]).to_numpy(dtype=int) for name in ("student", "teacher")
    )
    lost: np.ndarray = np.cumsum(teacher - student)
    n = len(student)
    apart = np.cumsum(teacher != student)
    error = np.sqrt(np.maximum(apart - lost**2 / n, 0.0))  # of the sum over n rows of -1, 0 and 1
    confidence = answers["confidence"].to_numpy()
    last = np.append(np.diff(confidence) != 0, True)  # equal confidences are answered together
    good = np.flatnonzero(last & (lost + error <= allowed_loss * n + _ROUNDING))
    if not len(good):
        return NEVER
    at = int(good[-1])
    return float((confidence[at] + confidence[at + 1]) / 2) if at + 1 < n else 0.0
