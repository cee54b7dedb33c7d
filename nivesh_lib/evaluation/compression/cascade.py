"""What a student may answer by itself before a slower teacher is asked.

Both are told by their out-of-fold probabilities: the student's confidence in its answer decides,
and at a threshold the cascade answers with the student from there on, with the teacher below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.confidence.calibration import confidence_of
from nivesh_lib.evaluation.intervals import more_right, points
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    predicted_labels,
    probabilities,
    true_labels,
)
from nivesh_lib.evaluation.scores import headline_mask, score, share_of
from nivesh_lib.records.estimate import Estimate

ALLOWED_LOSS = 0.002  # accuracy, absolute
NEVER = 2.0  # a threshold that no confidence reaches
_MOST_POINTS = 200  # of a curve
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Split:
    """Where a cascade draws the line, and what that costs on rows that had no say.

    ``threshold`` comes from all rows and belongs into the model; ``by_fold`` are those that the
    other folds gave each fold. The estimates are cross-fitted: ``share`` of the queries that the
    student answers, ``accuracy`` of the cascade and ``loss``, the teacher's accuracy minus it.
    """

    threshold: float
    by_fold: dict[int, float]
    share: Estimate
    accuracy: Estimate
    loss: Estimate
    allowed_loss: float

    @property
    def holds(self) -> bool:
        """Whether the cross-fitted loss is one that was allowed."""
        return self.loss.value <= self.allowed_loss + _ROUNDING

    @property
    def sentence(self) -> str:
        """What the cascade does, in one sentence."""
        allowed = f"{100 * self.allowed_loss:.1f}"
        if self.threshold >= NEVER:
            return f"For a loss of at most {allowed} points the student may answer nothing."
        change, low, high = (
            points(-end) for end in (self.loss.value, self.loss.high, self.loss.low)
        )
        within = "within" if self.holds else "more than"
        return (
            f"From a confidence of {self.threshold:.2f} on the student answers, "
            f"{100 * self.share.value:.0f} of 100 queries; against the teacher alone that changes "
            f"accuracy by {change} points [{low}, {high}], {within} the {allowed} that may be lost."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values and the sentence, ready for JSON."""
        return asdict(self) | {"holds": self.holds, "sentence": self.sentence}


def _matched(student: pd.DataFrame, teacher: pd.DataFrame) -> pd.DataFrame:
    """Return the student's table with the rows and columns of the teacher's."""
    mine, theirs = (set(map(str, probabilities(table))) for table in (student, teacher))
    if alone := sorted(mine ^ theirs):
        raise ValueError(f"student and teacher have other labels: {alone[0]!r} is only in one")
    rows = aligned(student, teacher["id"])[list(teacher)]
    if (rows["fold"].to_numpy() != teacher["fold"].to_numpy()).any():
        raise ValueError("student and teacher were made on other folds")
    return rows


@dataclass(frozen=True)
class _Answers:
    """Answers to headline rows, the student's surest first."""

    fold: np.ndarray
    confidence: np.ndarray
    true: np.ndarray
    student: np.ndarray
    teacher: np.ndarray

    def part(self, rows: np.ndarray) -> _Answers:
        return _Answers(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def at(self, threshold: float | np.ndarray) -> np.ndarray:
        """Return the label that the cascade gives each row."""
        return np.where(self.confidence >= threshold, self.student, self.teacher)


def _answers(
    student_oof: pd.DataFrame, teacher_oof: pd.DataFrame, frame: pd.DataFrame, label: str
) -> _Answers:
    rows = frame[headline_mask(frame)]
    teacher = aligned(teacher_oof, rows["id"])
    student = _matched(student_oof, teacher)
    sure = confidence_of(probabilities(student))
    found = _Answers(
        teacher["fold"].to_numpy(),
        sure,
        true_labels(rows, label, teacher),
        predicted_labels(student),
        predicted_labels(teacher),
    )
    return found.part(np.argsort(-sure, kind="stable"))


def cascade_curve(
    student_oof: pd.DataFrame,
    teacher_oof: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    label: str = "intent",
) -> pd.DataFrame:
    """Return what a cascade scores on headline rows, from the teacher alone to the student alone.

    Returns
    -------
    DataFrame
        ``threshold``, falling, one for each distinct confidence or, where these are many, for
        200 of them; ``share`` of queries that the student answers; ``accuracy`` and ``macro_f1``
        of the cascade; ``loss``, the teacher's accuracy minus it.

    Raises
    ------
    ValueError
        The two have other labels, a row has no answer, or a true label is none of theirs.
    """
    answers = _answers(student_oof, teacher_oof, frame, label)
    bounds = np.unique(answers.confidence)[::-1]
    if len(bounds) > _MOST_POINTS:
        bounds = bounds[np.linspace(0, len(bounds) - 1, _MOST_POINTS).round().astype(int)]
    table = []
    for threshold in [NEVER, *bounds]:
        scores = score(answers.true, answers.at(threshold), n_boot=1)
        share = float((answers.confidence >= threshold).mean())
        values = {metric: estimate.value for metric, estimate in scores.items()}
        table.append({"threshold": float(threshold), "share": share, **values})
    curve = pd.DataFrame(table)
    return curve.assign(loss=curve["accuracy"].iloc[0] - curve["accuracy"])


def choose_threshold(
    student_oof: pd.DataFrame,
    teacher_oof: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    allowed_loss: float = ALLOWED_LOSS,
    label: str = "intent",
) -> Split:
    """Return the lowest threshold that may be expected to lose no more, and its cross-fitted loss.

    The loss that is allowed is kept to with one standard error to spare: at the very edge, where
    the student begins to fail, every second set of other rows would lose more. A threshold chosen
    on some rows still looks better on them than it is, so each fold is judged at the one that the
    other folds give, and the estimates are those.

    Parameters
    ----------
    student_oof, teacher_oof : DataFrame
        ``id``, ``fold`` and a probability for each label, both made on the same folds; the
        student's calibrated as the model that the threshold goes into.
    allowed_loss : float
        Accuracy that the cascade may lose to the teacher, absolute.

    Raises
    ------
    ValueError
        Fewer than two folds, other labels, a row without an answer or with a true label that is
        none of theirs, or a loss that is no share.
    """
    if not 0 <= allowed_loss <= 1:
        raise ValueError(f"allowed_loss {allowed_loss} is no share; 0.2 points are 0.002")
    answers = _answers(student_oof, teacher_oof, frame, label)
    folds = np.unique(answers.fold)
    if len(folds) < 2:
        raise ValueError("the rows lie in fewer than 2 folds; there is nothing to cross-fit with")
    by_fold = {int(k): _lowest(answers.part(answers.fold != k), allowed_loss) for k in folds}
    bounds = np.array([by_fold[int(k)] for k in answers.fold])
    right, teacher = answers.at(bounds) == answers.true, answers.teacher == answers.true
    return Split(
        threshold=_lowest(answers, allowed_loss),
        by_fold=by_fold,
        share=share_of(answers.confidence >= bounds),
        accuracy=share_of(right),
        loss=more_right(teacher, right),
        allowed_loss=allowed_loss,
    )


def _lowest(answers: _Answers, allowed_loss: float) -> float:
    """Return the lowest threshold whose loss, and a standard error more, is allowed.

    It lies half way to the next confidence, so that other rows do not stumble over it.
    """
    student, teacher = answers.student == answers.true, answers.teacher == answers.true
    lost, n = np.cumsum(teacher.astype(int) - student), len(student)
    apart = np.cumsum(teacher != student)
    error = np.sqrt(np.maximum(apart - lost**2 / n, 0.0))  # of the sum over n rows of -1, 0 and 1
    sure = answers.confidence
    last = np.append(np.diff(sure) != 0, True)  # equal confidences are answered together
    good = np.flatnonzero(last & (lost + error <= allowed_loss * n + _ROUNDING))
    if not len(good):
        return NEVER
    at = int(good[-1])
    return float((sure[at] + sure[at + 1]) / 2) if at + 1 < n else 0.0
