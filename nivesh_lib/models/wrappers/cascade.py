"""A cascade of a fast student and an accurate teacher."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_texts, load_member
from nivesh_lib.models.wrappers.wrapper import fit_copy, refuse_abstaining


@dataclass(eq=False, repr=False)
class Cascade(TextClassifier):
    """A student's predictions where it is confident, a teacher's everywhere else.

    The teacher predicts all remaining texts in one call (Viola and Jones 2001; for language models
    Varshney and Baral 2022). Each row of probabilities is that of the predicting model.

    Parameters
    ----------
    student, teacher : TextClassifier
        The fast and the accurate model; ``fit`` fits copies.
    threshold : float
        Minimum confidence of the student's predictions; above 1 it makes none. Choose it on
        out-of-fold rows, see `evaluation.compression.cascade.choose_threshold`.
    random_state : int, optional
        Seed of both models; None keeps their own.

    Notes
    -----
    A student is more confident on its training rows than on others: measure the share that it
    answers, and the speed of the cascade, on held-out rows.

    Examples
    --------
    >>> from nivesh_lib.models.base import get_model
    >>> model = Cascade(get_model("rules"), get_model("tfidf"), threshold=0.8)
    >>> model = model.fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "cascade"

    student: TextClassifier | None = None
    teacher: TextClassifier | None = None
    threshold: float = 0.9
    random_state: int | None = None

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit copies of both models on the same rows; the threshold is not learned."""
        if self.student is None or self.teacher is None:
            raise ValueError("student or teacher is None; pass two models, get_model('tfidf') one")
        self._check()
        rows = as_texts(X), list(y), self.random_state
        self._take(fit_copy(self.student, *rows), fit_copy(self.teacher, *rows))
        return self

    @classmethod
    def of(cls, student: TextClassifier, teacher: TextClassifier, *, threshold: float) -> Self:
        """Join two fitted models.

        Raises
        ------
        ValueError
            Their classes differ, one abstains, or the threshold is not a number from 0.
        """
        joined = cls(clone(student), clone(teacher), threshold)
        joined._check()
        joined._take(student, teacher)
        return joined

    def _check(self) -> None:
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

    def _proba(self, texts: list[str]) -> np.ndarray:
        proba = np.array(self.student_._proba(texts), dtype=float)
        rest = np.flatnonzero(proba.max(axis=1) < self.threshold)
        if len(rest):
            proba[rest] = self.teacher_._proba([texts[row] for row in rest])
        return proba

    def _dump(self, directory: Path) -> dict[str, Any]:
        self.student_.save(directory / "student")
        self.teacher_.save(directory / "teacher")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._take(load_member(directory, "student"), load_member(directory, "teacher"))
        self.student, self.teacher = clone(self.student_), clone(self.teacher_)
