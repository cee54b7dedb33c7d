"""A fast model that answers what it is sure of, and a better one for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_texts, load_model
from nivesh_lib.models.wrappers.selective import refuse_abstaining

_PARTS = ("student", "teacher")


class Cascade(TextClassifier):
    """A student's answers where it is sure enough, a teacher's everywhere else.

    The teacher sees only the texts that are left to it, all in one call (Viola and Jones 2001 for
    the idea, Varshney and Baral 2022 for language models). Each row of probabilities is that of
    whoever answered.

    Parameters
    ----------
    student, teacher : TextClassifier
        The fast and the good model; ``fit`` fits copies of them and leaves them alone.
    threshold : float
        Confidence of the student from which on it answers; above 1 it never does. Choose it on
        out-of-fold rows: `evaluation.cascade.choose_threshold`.
    random_state : int, optional
        Seed of both models inside; None leaves them their own.

    Notes
    -----
    Of the rows that it was fitted on a student is surer than of any others. How many queries it
    answers, and how fast that makes the cascade, is told by rows that it has not seen.

    Examples
    --------
    >>> from nivesh_lib.models.base import get_model
    >>> model = Cascade(get_model("rules"), get_model("tfidf"), threshold=0.8)
    >>> model = model.fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "cascade"

    def __init__(
        self,
        student: TextClassifier | None = None,
        teacher: TextClassifier | None = None,
        threshold: float = 0.9,
        random_state: int | None = None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.threshold = threshold
        self.random_state = random_state

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit both models on the same rows; the threshold stays as it was given."""
        if self.student is None or self.teacher is None:
            raise ValueError("student or teacher is None; pass two models, get_model('tfidf') one")
        self._check_threshold()
        texts, labels = as_texts(X), list(y)
        inside = [clone(model) for model in (self.student, self.teacher)]
        if self.random_state is not None:
            inside = [model.set_params(random_state=self.random_state) for model in inside]
        self._take(*(model.fit(texts, labels) for model in inside))
        return self

    @classmethod
    def of(cls, student: TextClassifier, teacher: TextClassifier, *, threshold: float) -> Self:
        """Join two models that were fitted already.

        Raises
        ------
        ValueError
            Their classes differ, or the threshold is no number from 0.
        """
        joined = cls(clone(student), clone(teacher), threshold)
        joined._check_threshold()
        joined._take(student, teacher)
        return joined

    def _check_threshold(self) -> None:
        if not (isinstance(self.threshold, Real) and 0 <= self.threshold < float("inf")):
            raise ValueError(f"threshold {self.threshold!r} is not a number from 0 on")

    def _take(self, student: TextClassifier, teacher: TextClassifier) -> None:
        for model in (student, teacher):
            check_is_fitted(model)
            refuse_abstaining(model)
        if student.classes_.tolist() != teacher.classes_.tolist():
            raise ValueError("the classes of the student are not those of the teacher")
        self.student_, self.teacher_ = student, teacher
        self.classes_ = teacher.classes_

    def share_answered(self, X: Iterable[str]) -> float:
        """Return the share of the texts that the student answers; 0 of none."""
        check_is_fitted(self)
        sure = self._is_sure(self.student_.predict_proba(X))
        return float(sure.mean()) if len(sure) else 0.0

    def _is_sure(self, proba: np.ndarray) -> np.ndarray:
        return proba.max(axis=1, initial=0.0) >= self.threshold

    def _proba(self, texts: list[str]) -> np.ndarray:
        proba = np.array(self.student_._proba(texts), dtype=float)
        left = np.flatnonzero(~self._is_sure(proba))
        if len(left):
            proba[left] = self.teacher_._proba([texts[at] for at in left])
        return proba

    def _plain_params(self) -> dict[str, Any]:
        return {
            name: value for name, value in super()._plain_params().items() if name not in _PARTS
        }

    def _dump(self, directory: Path) -> dict[str, Any]:
        self.student_.save(directory / "student")
        self.teacher_.save(directory / "teacher")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._check_threshold()
        classes = self.classes_.tolist()
        self._take(load_model(directory / "student"), load_model(directory / "teacher"))
        if self.classes_.tolist() != classes:
            raise ValueError("the classes are not those of the models inside")
        self.student, self.teacher = clone(self.student_), clone(self.teacher_)
